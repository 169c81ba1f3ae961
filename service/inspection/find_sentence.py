"""What a find says, in a sentence made of its measured facts."""

from collections.abc import Callable

from service.inspection.cell_search import CellUse, Find, Verdict


def sentence(find: Find, text_of: Callable[[CellUse], str]) -> str:
    """Return the verdict on a property's best cell, with the figures that decided it."""
    name = find.label.name
    if not find.cells:
        return f"No cell deviates enough to follow {name}."
    best = find.cells[0]
    who = f"cell {best.place[1]} of layer {best.place[0]}"
    r = f"r {best.r:+.2f} on text that it was not chosen on"
    negative = _negative(find, who, r)
    if negative is not None:
        return negative
    said = f"{who.capitalize()} follows {name}: {r}"
    use = next((use for use in find.uses if use.place == best.place), None)
    if use is None:
        return f"{said}."
    costs = f"held at its mean, it costs {text_of(use)!r} {use.bits:.2f} bits"
    return f"{said}; {costs}, rank {use.rank} of {use.of} cells that were held."


def _negative(find: Find, who: str, r: str) -> str | None:
    """Return what speaks against a find; None where nothing does."""
    name, best = find.label.name, find.cells[0]
    baseline = max(find.by_character, find.untrained)
    without = "the best cell of an untrained network"
    if find.by_character >= find.untrained:
        without = "the current character"
    by_verdict = {
        Verdict.NONE: f"No cell follows {name}: the best, {who}, had r {best.r_chosen_on:+.2f} "
        f"where it was chosen, and {r}; chance alone reaches {find.null_95:.2f}.",
        Verdict.NOT_CONFIRMED: f"No cell follows {name}: {who} had r {best.r_chosen_on:+.2f} where "
        f"it was chosen, and {r}.",
        Verdict.FREE: f"{who.capitalize()} follows {name} with {r}, but {without} reaches "
        f"{baseline:.2f} without training.",
        Verdict.WEAK: f"{who.capitalize()} follows {name} weakly: {r}; the mean of the property is "
        f"{find.share:.3g}.",
    }
    return by_verdict.get(find.verdict)

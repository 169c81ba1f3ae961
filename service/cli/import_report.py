"""The report of an import for a person: what was found, assumed and measured, and a sample."""

import contextlib
import json
import os
import shlex
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from service.cli.admin_client import DEFAULT_URL
from service.cli.sample_text import SAMPLE_CHARACTERS, Sample
from service.models.bundle import Bundle
from service.models.tokenizers.tokenizer import Tokenizer
from service.models.window import Padding

WIDTH = 100
_LABEL = 14
_LONGEST_PROMPT = 40


def report_lines(bundle: Bundle, sample: Sample, model_store: Path) -> Iterator[str]:
    """Yield the lines of the report, without control characters.

    They are at most WIDTH columns wide, but for a command with a long path.
    """
    yield f"imported {bundle.ref}"
    yield from _section("found", _found(bundle))
    yield from _section("assumed", [("", text) for text in bundle.manifest.assumptions])
    yield from _section("measured", _measured(bundle))
    yield from _samples(bundle, sample)
    yield from _next(bundle, sample, model_store)


def _found(bundle: Bundle) -> list[tuple[str, str]]:
    manifest, window, tokenizer = bundle.manifest, bundle.spec.window, bundle.tokenizer
    kind = "characters" if not tokenizer.options else tokenizer.kind
    state, architecture = "carried from token to token", bundle.spec.summary
    if window is not None:
        architecture = architecture.removesuffix(f", {window.summary}")
        state = f"{window.summary}, read from a zero state for each token"
    return [
        ("format", f"{manifest.source.format}, from {', '.join(sorted(manifest.source.files))}"),
        ("architecture", architecture),
        ("state", state),
        ("tokenizer", f"{kind}, {len(tokenizer)} tokens"),
        ("special tokens", _special(tokenizer)),
        ("precision", str(manifest.precision)),
    ]


def _special(tokenizer: Tokenizer) -> str:
    special = tokenizer.special
    roles = {"padding": special.pad, "unknown": special.unknown, "begin": special.begin}
    found = [(role, i) for role, i in roles.items() if i is not None]
    found += [("end", i) for i in special.end]
    return ", ".join(f"{role} {tokenizer.tokens[i]!r} (id {i})" for role, i in found) or "none"


def _measured(bundle: Bundle) -> list[tuple[str, str]]:
    manifest = bundle.manifest
    parity = manifest.parity
    windows = {"own text": parity.window, "training text": parity.window_of_text}
    rows = [("precision", manifest.precision_reason)]
    rows += [(label, record.sentence) for label, record in windows.items() if record is not None]
    if parity.window is not None:
        faster = "--assume state=carried takes one step a token; the text differs from the author's"
        rows.append(("faster", faster))
    rows += [("round trip", manifest.round_trip), ("order", manifest.text_score)]
    return [(label, text) for label, text in rows if text]


def _samples(bundle: Bundle, sample: Sample) -> Iterator[str]:
    window, shown = bundle.spec.window, _text_of(bundle.tokenizer, sample.prompt)
    prompt = f"after {shown!r}" if shown else "from its begin token"
    if window is not None and window.padding is Padding.NONE:
        prompt = f"after {window.length} random tokens"
    for temperature, text in sample.texts.items():
        how = "the most likely tokens" if temperature == 0 else f"temperature {temperature}"
        yield from ("", *_wrapped(f"sample, {how}, {prompt}", ""))
        for line in text.split("\n") if text.strip() else ["(the text ends at once)"]:
            yield from _wrapped(line, "  ") or [""]


def _next(bundle: Bundle, sample: Sample, model_store: Path) -> Iterator[str]:
    prompt = _text_of(bundle.tokenizer, sample.prompt)
    is_same = prompt.isprintable() or prompt == "\n"
    if not is_same or len(prompt) > _LONGEST_PROMPT:
        prompt = "YOUR TEXT"
    body = {"inputs": prompt, "model": str(bundle.ref)}
    store = (
        ""
        if model_store == Path("model_store")
        else f" --model-store {shlex.quote(str(model_store))}"
    )
    command, url = _command(), os.environ.get("CAROUSEL_URL") or DEFAULT_URL
    yield from ("", "next, with a server that runs on this store", f"  {command} serve{store}")
    yield f"  {command} load {bundle.ref}"
    yield f"  curl {url}/generate -H 'Content-Type: application/json' \\"
    yield f"    -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    window = bundle.spec.window
    if window is not None and window.padding is Padding.NONE:
        yield f"  The text has at least {window.length} tokens: the model's window is never padded."


def _command() -> str:
    """Return how this command was called: by its name, or as a module of an interpreter."""
    if Path(sys.argv[0]).name == "carousel":
        return sys.argv[0]
    executable = Path(sys.executable)
    with contextlib.suppress(ValueError):
        executable = executable.relative_to(Path.cwd())
    return f"{shlex.quote(str(executable))} -m service"


def _text_of(tokenizer: Tokenizer, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(ids, is_start=True)[:SAMPLE_CHARACTERS]


def _section(title: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    if rows:
        yield from ("", title)
    for label, text in rows:
        first = f"  {label.ljust(_LABEL)}  " if label else "  - "
        yield from _wrapped(text, first, " " * len(first))


def _wrapped(text: str, first: str, rest: str | None = None) -> list[str]:
    """Break a line at WIDTH; what a terminal would not print as it is is escaped."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return textwrap.wrap(
        plain, WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest
    )

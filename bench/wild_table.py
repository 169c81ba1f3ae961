"""The results of `bench.wild` as a table."""

from typing import Any

STREAMS = (1, 16)


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table; × is relative to the author's loop."""
    machine = result["machine"]
    unit = f"tokens per second ({machine['processor']}, {machine['cores']} cores)"
    lines = [f"| {unit} | its loop | Carousel, 1 stream | 16 streams |", "|---|--:|--:|--:|"]
    for name, one in result["models"].items():
        speeds, ratios = one["tokens_per_s"], one["ratios"]
        served = " | ".join(f"{speeds[str(n)]:,.0f} = **{ratios[str(n)]:.0f} ×**" for n in STREAMS)
        lines.append(f"| {name} | {speeds['author']:,.0f} | {served} |")
    return "\n".join(lines)


def wide_table(result: dict[str, Any]) -> str:
    """Return the comparison of the engine with the network's step alone, for 20,000 words."""
    lines = ["| 64 rows | the step alone | engine | × |", "|---|--:|--:|--:|"]
    for name, one in result["wide"].items():
        step, engine = one["tokens_per_s"]["step"], one["tokens_per_s"]["engine"]
        lines.append(f"| {name} | {step:,.0f} | {engine:,.0f} | {one['ratio']:.2f} |")
    return "\n".join(lines)

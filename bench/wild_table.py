"""The results of `bench.wild` as a table."""

from typing import Any

STREAMS = (1, 16)


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table; × is relative to the author's single loop."""
    machine = result["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores; {result['seconds']} s; tokens/s",
        "",
        "| loop | model | author | 1 stream | × | 16 streams | × |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, one in result["models"].items():
        speeds, ratios = one["tokens_per_s"], one["ratios"]
        served = " | ".join(f"{speeds[str(n)]:,.0f} | {ratios[str(n)]:.0f}" for n in STREAMS)
        lines.append(f"| {name} | {one['model']} | {speeds['author']:,.0f} | {served} |")
    lines += [
        "",
        "| 20,000 words, 64 rows | the step alone | engine | × |",
        "|---|--:|--:|--:|",
    ]
    for name, one in result["wide"].items():
        speeds = one["tokens_per_s"]
        lines.append(
            f"| {name} | {speeds['step']:,.0f} | {speeds['engine']:,.0f} | {one['ratio']:.2f} |"
        )
    return "\n".join(lines)

"""The results of a benchmark run as a table and as a diagram."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt


def baseline(result: Mapping[str, Any]) -> float:
    """Return the article's loop: the better of its measurements before and after the others."""
    return float(max(result["baseline_characters_per_s"]))


def table(result: Mapping[str, Any]) -> str:
    """Return the figures as a Markdown table; × is relative to the article's loop."""
    one = baseline(result)
    heads = "precision | streams | in process, characters/s | × | HTTP, characters/s | ×"
    heads += " | first event p50 / p99 ms"
    heads += " | between events p50 / p99 ms | between deliveries p50 / p99 ms"
    lines = [
        f"article's loop: {one:.0f} characters/s = 1.0",
        "",
        f"| {heads} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for precision, loads in result["http"].items():
        for n, load in loads.items():
            speed = result["in_process_characters_per_s"][precision][n]
            http = load["characters_per_s"]
            times = " | ".join(
                f"{load[f'{name}_p50_ms']:.1f} / {load[f'{name}_p99_ms']:.1f}"
                for name in ("first_event", "inter_event", "delivery_gap")
            )
            lines.append(
                f"| {precision} | {n} | {speed:,.0f} | {speed / one:.0f} "
                f"| {http:,.0f} | {http / one:.0f} | {times} |"
            )
    return "\n".join(lines)


def insert(table: str, page: Path, name: str) -> None:
    """Replace the table between the page's two markers of a name."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = page.read_text().split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Plot throughput over streams, in multiples of the article's loop."""
    one = baseline(result)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for precision, loads in result["http"].items():
        streams = list(loads)
        http = [load["characters_per_s"] / one for load in loads.values()]
        inside = [result["in_process_characters_per_s"][precision][n] / one for n in streams]
        labels = [str(n) for n in streams]
        (line,) = axes.plot(labels, http, marker="o", label=f"{precision}, HTTP streaming")
        axes.plot(
            labels,
            inside,
            marker="o",
            mfc="none",
            ls="--",
            color=line.get_color(),
            label=f"{precision}, in process",
        )
    axes.set_xlabel("concurrent streams")
    axes.set_ylabel("characters per second, article's loop = 1")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)

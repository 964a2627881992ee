"""The figures of a comparison as a picture: a bar a contestant, a panel a batch size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.roster import FAST, FLOOR, HAND, LOADER, ONE_STEP, OURS, PEERS, tuned

SHOWN = (FLOOR, FAST, ONE_STEP, OURS, HAND, LOADER, *(name for peer in PEERS for name in (peer, tuned(peer))))
OWN, PLAIN, PEER, TUNED = "#d1495b", "#4c566a", "#7b9fc4", "#c4d4e6"
INK, FAINT = "#2e3440", "#8c93a1"
LEGEND = {"clearloop": OWN, "plain PyTorch": PLAIN, "other libraries, as documented": PEER, "the same, tuned": TUNED}


def draw(figures: Path, path: Path) -> None:
    """Draw the figures (JSON, as `comparison.keep` writes them) to a picture.

    Bars are sorted by the first panel, so that both panels name the same contestants in the same rows.
    """
    cases = json.loads(figures.read_text())
    seconds = [{line["name"]: line["seconds"] for line in case["lines"] if line["name"] in SHOWN} for case in cases]
    names = sorted({name for case in seconds for name in case}, key=lambda name: rank(name, seconds))
    figure = Figure(figsize=(10, 1.4 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(cases), sharex=True, sharey=True, squeeze=False)[0]
    longest = max(value for times in seconds for value in times.values())
    for panel, case, times in zip(panels, cases, seconds, strict=True):
        bars(panel, names, times, longest)
        panel.set_title(f"batch {case['workload']['batch_size']}", color=INK, fontsize=12, loc="left")
    panels[0].set_yticks(range(len(names)), names, color=INK, fontsize=11)
    panels[0].set_ylim(len(names) - 0.4, -0.6)  # downwards
    panels[0].set_xlim(0, 1.12 * longest)
    work = cases[0]["workload"]
    threads = "one thread" if work["threads"] == 1 else f"{work['threads']} threads"
    figure.suptitle(f"{work['name']}, {threads}: seconds an epoch, with validation", color=INK, fontsize=13)
    patches = [Patch(color=shade, label=label) for label, shade in LEGEND.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, labelcolor=INK)
    figure.savefig(path, dpi=150)


def rank(name: str, seconds: list[dict[str, float]]) -> float:
    """Where a contestant stands: by its time in the first panel that has it."""
    return next(case[name] for case in seconds if name in case)


def bars(panel: Axes, names: list[str], times: dict[str, float], longest: float) -> None:
    """One panel, each bar with its number behind it."""
    for row, name in enumerate(names):
        if name in times:
            panel.barh(row, times[name], height=0.72, color=colour(name))
            panel.text(times[name] + 0.01 * longest, row, f"{times[name]:.2f}", va="center", color=INK, fontsize=10)
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", colors=FAINT, labelsize=9)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(FAINT)


def colour(name: str) -> str:
    """Ours, plain PyTorch, other libraries as documented, and tuned."""
    if name in (OURS, FAST, ONE_STEP):
        return OWN
    if name in PEERS:
        return PEER
    return TUNED if name.removesuffix(", tuned") in PEERS else PLAIN


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[1]).with_suffix(".png"))

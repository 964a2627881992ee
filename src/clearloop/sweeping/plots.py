"""A sweep as a picture: results with bars over seeds, and mean curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from clearloop.plots import BLUE, Plot, write_title
from clearloop.sweeping.verdict import mean_and_spread

if TYPE_CHECKING:
    from clearloop.sweeping.results import Setting, Sweep

CURVES = 6  # of the best settings: more cannot be told apart
COLORS = (BLUE, "#D55E00", "#009E73", "#8A5A83", "#B8860B", "#555555")


def plot_sweep(found: Sweep, path: str | Path | None = None) -> Figure:
    """On the left the last value of each setting, its mean with a bar of one standard deviation over a dot for each
    seed; on the right the mean curves of the best settings, shaded by the same. Written to `path` if one is given.
    """
    settings = found.settings
    figure = Plot(11, max(3.4, 0.34 * len(settings) + 1.6))
    left, right = figure.subplots(1, 2)
    for place, setting in enumerate(settings):
        values = found.results(setting)
        if not values:
            left.text(0.02, place, "diverged", va="center", fontsize=8, transform=left.get_yaxis_transform())
            continue
        mean, spread = mean_and_spread(values)
        left.plot(values, [place] * len(values), ".", color="#B0B0B0", markersize=5)
        left.errorbar(mean, place, xerr=spread, fmt="o", color=BLUE, capsize=3, markersize=5)
    left.set_yticks(range(len(settings)), [str(setting) for setting in settings], fontsize=9)
    left.set(ylim=(len(settings) - 0.5, -0.5), xlabel=found.by)
    left.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    left.set_axisbelow(True)
    write_title(left, f"{found.by} at the end, by setting")
    for color, setting in zip(COLORS, found.ranking[:CURVES], strict=False):
        rows = curve(found, setting)
        epochs = range(len(rows))
        means, spreads = [mean for mean, _ in rows], [spread for _, spread in rows]
        right.plot(epochs, means, color=color, label=str(setting), linewidth=1.6, marker="o", markersize=3.5)
        low = [mean - spread for mean, spread in rows]
        right.fill_between(epochs, low, [m + s for m, s in zip(means, spreads, strict=True)], color=color, alpha=0.15)
    right.set(xlabel="epoch", ylabel=found.by)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set_xlim(-0.5, max(len(member.values) for member in found.members) - 0.5)
    right.grid(color="#E4E4E4", linewidth=0.7)
    if found.ranking:
        right.legend(fontsize=8, frameon=False)
    best = f", the best {CURVES}" if len(found.ranking) > CURVES else ""
    write_title(right, f"mean over seeds ± standard deviation{best}")
    figure.write(path)
    return figure


def curve(found: Sweep, setting: Setting) -> list[tuple[float, float]]:
    """Mean and spread over seeds, an epoch each."""
    column = found.names.index(found.by)
    members = [m for m in found.members if m.setting == setting and m.diverged is None]
    return [mean_and_spread([m.values[epoch][column] for m in members]) for epoch in range(len(members[0].values))]

"""Pictures of a search: the best value so far, and the objective over each parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clearloop.errors import ConfigError
from clearloop.plots import BLUE, GREY, VERMILLION, Plot
from clearloop.searching.space import Choice, Integer, Parameter, Value
from clearloop.searching.trials import Plan, Trial, best_of, shown

COLUMNS = 3  # panels in a row
DECADES = 1.5  # values that span more are shown on a log scale


def plot_search(trials: Sequence[Trial], plan: Plan, path: str | Path | None = None) -> Figure:
    """Draw a search: first the best value so far over the trials, then one slice a parameter.

    Each point is a trial that was observed, the best one in another colour; those that were stopped early are hollow,
    and those that failed are crosses at the lower edge.

    Args: `trials`, with a value among them; `path`, where to save the picture: its suffix chooses the format.
    Returns a matplotlib figure with an axes more than there are parameters. Raises ConfigError where there is no value.
    """
    best = best_of(trials, plan.minimize)
    if best is None:
        raise ConfigError("expected a trial with a value, got none; there is nothing to draw")
    panels = 1 + len(plan.space.parameters)
    columns = 2 if panels == 4 else min(COLUMNS, panels)
    rows = math.ceil(panels / columns)
    figure = Plot(3.7 * columns, 3.2 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for empty in grid[panels:]:
        empty.remove()
    draw_progress(grid[0], trials, plan, best)
    for axes, (name, parameter) in zip(grid[1:panels], plan.space.parameters.items(), strict=True):
        scale_over(axes, parameter)
        draw_trials(axes, [position(parameter, trial.params[name]) for trial in trials], trials, best)
        axes.set_xlabel(name)
        axes.set_title(f"{name} = {shown(best.params[name])} is best", loc="left", fontsize=9)
    for axes in grid[:panels]:
        finish(axes, trials, plan)
    kinds = {"best", *(trial.state for trial in trials)}
    handles = [Line2D([], [], **style) for kind, (_, style) in STYLES.items() if kind in kinds]  # type: ignore[arg-type]
    labels = [label for kind, (label, _) in STYLES.items() if kind in kinds]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    figure.write(path)
    return figure


STYLES: dict[str, tuple[str, dict[str, object]]] = {
    "done": ("a trial", {"marker": "o", "color": BLUE, "linestyle": "none", "markersize": 5}),
    "stopped early": (
        "stopped early",
        {"marker": "o", "color": BLUE, "markerfacecolor": "white", "linestyle": "none", "markersize": 5},
    ),
    "failed": ("failed", {"marker": "x", "color": GREY, "linestyle": "none", "markersize": 5, "clip_on": False}),
    "best": ("the best", {"marker": "o", "color": VERMILLION, "linestyle": "none", "markersize": 7}),
}


def draw_progress(axes: Axes, trials: Sequence[Trial], plan: Plan, best: Trial) -> None:
    """The values of the trials in their order, and the best so far as a line."""
    sofar = [best_of(trials[: place + 1], plan.minimize) for place in range(len(trials))]
    line = [math.nan if trial is None or trial.value is None else trial.value for trial in sofar]
    axes.step([trial.number for trial in trials], line, where="post", color=VERMILLION, linewidth=1.4)
    draw_trials(axes, [float(trial.number) for trial in trials], trials, best)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("trial")
    axes.set_title(f"best so far: {best.value:.4g}", loc="left", fontsize=9)


def draw_trials(axes: Axes, places: Sequence[float], trials: Sequence[Trial], best: Trial) -> None:
    """A marker a trial; failed ones at the lower edge."""
    for place, trial in zip(places, trials, strict=True):
        if trial.state == "failed":
            _, style = STYLES["failed"]
            axes.plot([place], [0.0], transform=axes.get_xaxis_transform(), **style)  # type: ignore[arg-type]
        elif trial.value is not None:
            _, style = STYLES["best" if trial is best else trial.state]
            axes.plot([place], [trial.value], zorder=3 if trial is best else 2, **style)  # type: ignore[arg-type]


def position(parameter: Parameter, value: Value) -> float:
    """Where a value lies on a parameter's axis: choices stand side by side."""
    return float(parameter.values.index(value) if isinstance(parameter, Choice) else value)


def scale_over(axes: Axes, parameter: Parameter) -> None:
    """Set up the axis of a parameter over all that it can be."""
    if isinstance(parameter, Choice):
        axes.set_xticks(range(len(parameter.values)), [shown(value) for value in parameter.values])
        axes.set_xlim(-0.5, len(parameter.values) - 0.5)
        return
    if parameter.log:
        axes.set_xscale("log")
        share = (parameter.high / parameter.low) ** 0.04
        axes.set_xlim(parameter.low / share, parameter.high * share)
        return
    if isinstance(parameter, Integer):
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    margin = 0.04 * (parameter.high - parameter.low)
    axes.set_xlim(parameter.low - margin, parameter.high + margin)


def finish(axes: Axes, trials: Sequence[Trial], plan: Plan) -> None:
    """The axis of the objective, the same for all panels, and a light grid."""
    values = np.array([trial.value for trial in trials if trial.value is not None])
    if values.min() > 0 and values.max() > values.min() * 10**DECADES:
        axes.set_yscale("log")
    axes.set_ylabel(plan.by)
    axes.grid(color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

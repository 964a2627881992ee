"""Pictures of a run: loss and learning rate over the steps, and the learning-rate range test."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from clearloop.errors import ConfigError
from clearloop.history import History

Array = NDArray[np.float64]

BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"  # Okabe and Ito: safe for the colour-blind
DPI = 150
DRAWN_POINTS = 3000  # of a longer line only the lowest and highest point of each stretch are drawn
SMOOTHED_POINTS = 500
SMOOTHED_SHARE = 30  # the smoothed line averages over about one part in so many of all steps
MARKERS = 25  # about so many on a line
NAMED_EPOCHS = 12  # with more, the axis of epochs is left out


class Plot(Figure):
    """A matplotlib figure that belongs to nobody but its holder: no pyplot, and a notebook shows it by itself."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def write(self, path: str | Path | None) -> None:
        """Save to `path`, in the format that its suffix names; None saves nothing."""
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.savefig(path)


@dataclass(frozen=True)
class Curve:
    """A line of the loss: its values at some steps, and how it looks."""

    label: str
    steps: Array
    values: Array
    color: str = BLUE
    width: float = 1.8
    alpha: float = 1.0
    marker: str | None = None


def plot_loss(history: History, path: str | Path | None = None) -> Figure:
    """Draw the loss of every step and epoch twice, on a linear and on a logarithmic scale, with the learning rate.

    Also for a run whose loss was lost: values that are not finite are left out, and the title counts them.

    Args:
        history: a Learner's.
        path: where to save the picture; the suffix chooses the format, and missing folders are made.

    Returns:
        A matplotlib figure with three axes: linear, logarithmic, and learning rate.

    Raises:
        ConfigError: there is no step in the history.

    >>> import torch
    >>> history = History()
    >>> history.add_steps([torch.tensor(2.0), torch.tensor(1.0)], [0.1, 0.1], [64, 64])
    >>> [axes.get_ylabel() for axes in plot_loss(history).axes]
    ['loss', 'loss', 'learning rate']
    """
    losses = np.array([*history.losses, *map(float, history.pending)])  # what was not looked at may hold NaN
    epochs = epoch_curves(history)
    curves = [*step_curves(losses, history.counts), *epochs]
    if not curves:
        raise ConfigError("expected a history with at least one step, got an empty one; call fit first")
    values = np.concatenate([losses, *(curve.values for curve in epochs)])
    lost = int((~drawable(values)).sum())
    note = f"{lost} not finite, left out" if lost else ""
    figure = Plot(11, 4.2)
    linear, log = figure.subplots(1, 2)
    last = max(float(curve.steps.max(initial=0)) for curve in curves)
    for axes in (linear, log):
        draw(axes, curves)
        name_epochs(axes, history)
        axes.set(xlabel="step", ylabel="loss", xlim=(0, last + max(0.5, 0.02 * last)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    finite = values[drawable(values)]
    write_title(linear, "Loss", note, scale_linear(linear, finite, losses[:10]))
    write_title(log, "Loss, log scale", note, scale_log(log, finite))
    draw_lrs(linear, history.lrs)
    (lines, labels), (lr_lines, lr_labels) = (axes.get_legend_handles_labels() for axes in (linear, figure.axes[-1]))
    legend = figure.legend(lines + lr_lines, labels + lr_labels, loc="outside lower center", ncols=5, frameon=False)
    for line in legend.get_lines():  # the line of single steps is too thin to be recognised
        line.set_linewidth(max(1.5, line.get_linewidth()) if line.get_linestyle() != "None" else 0)
    figure.write(path)
    return figure


def step_curves(losses: Array, counts: Sequence[Any]) -> list[Curve]:
    """The loss of each step, and a smoothed line where there are enough steps for one."""
    if not len(losses):
        return []
    steps = np.arange(1.0, len(losses) + 1)
    if len(losses) == 1:
        return [Curve("training, each step", steps, losses, width=0, marker=".")]
    drawn = thinned(steps, losses, DRAWN_POINTS)
    if len(losses) < 10:
        return [Curve("training, each step", *drawn, width=1.0, alpha=0.8)]
    good = drawable(losses)
    weights = np.array([float(count) for count in counts])[good]
    raw = Curve("training, each step", *drawn, width=0.6, alpha=0.35)
    return [raw, Curve("training, smoothed", *smoothed(steps[good], losses[good], weights))]


def epoch_curves(history: History) -> list[Curve]:
    """Training and validation loss of each epoch, at the step where it ended."""
    ends = [(float(record.steps), record.train_loss, record.valid_loss) for record in history.epochs]
    train = np.array([(step, loss) for step, loss, _ in ends]).reshape(-1, 2)
    valid = np.array([(step, loss) for step, _, loss in ends if loss is not None]).reshape(-1, 2)
    curves = [
        Curve("training, mean of the epoch", train[:, 0], train[:, 1], width=0, marker="o"),
        Curve("validation", valid[:, 0], valid[:, 1], VERMILLION, width=1.2, marker="s"),
    ]
    return [curve for curve in curves if len(curve.steps)]


def smoothed(steps: Array, losses: Array, counts: Array) -> tuple[Array, Array]:
    """Means over samples of the losses around a step: of fewer at the start, so that a steep fall stays one."""
    if not len(losses):
        return steps, losses
    half = max(2, len(losses) // (2 * SMOOTHED_SHARE))
    centres = np.unique(np.linspace(0, len(losses) - 1, SMOOTHED_POINTS).round().astype(int))
    values = []
    for centre in centres:
        around = slice(centre - min(half, centre), centre + min(half, centre) + 1)
        weights = counts[around] if counts[around].sum() > 0 else None
        values.append(np.average(losses[around], weights=weights))
    return steps[centres], np.array(values)


def thinned(steps: Array, values: Array, limit: int) -> tuple[Array, Array]:
    """At most `limit` points of a line that look like all of them: the lowest and highest of each stretch.

    >>> thinned(np.arange(6.0), np.array([0.0, 9.0, 1.0, 1.0, -5.0, 0.0]), 4)[1].tolist()
    [0.0, 9.0, 1.0, -5.0]
    """
    if len(values) <= limit:
        return steps, values
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(values)), limit // 2):
        found = values[stretch]
        lost = stretch[~np.isfinite(found)][:1]  # a gap stays a gap
        low, high = (
            stretch[int(choose(np.where(np.isfinite(found), found, worst)))]
            for choose, worst in ((np.argmin, math.inf), (np.argmax, -math.inf))
        )
        kept += sorted({int(low), int(high), *lost.tolist()})
    return steps[kept], values[kept]


def drawable(values: Array) -> NDArray[np.bool_]:
    """What is finite and far enough from overflow for the margins of a panel."""
    return np.isfinite(values) & (np.abs(values) < 1e100)


def draw(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw curves on a light grid."""
    for curve in curves:
        axes.plot(
            curve.steps,
            np.where(drawable(curve.values), curve.values, np.nan),
            color=curve.color,
            linewidth=curve.width,
            linestyle="-" if curve.width else "none",
            alpha=curve.alpha,
            marker=curve.marker,
            markersize=6,
            markevery=max(1, len(curve.steps) // MARKERS),
            markeredgecolor="white" if curve.marker else None,
            label=curve.label,
        )
    axes.grid(color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def name_epochs(axes: Axes, history: History) -> None:
    """On top, if there are few epochs: a tick where each ends, its number over its steps."""
    if not 0 < len(history.epochs) <= NAMED_EPOCHS:
        return
    ends = [float(record.steps) for record in history.epochs]
    middles = [(begin + end) / 2 for begin, end in zip([0.0, *ends[:-1]], ends, strict=True)]
    top = axes.secondary_xaxis("top")
    top.xaxis.set_major_locator(FixedLocator(ends))
    top.xaxis.set_major_formatter(FixedFormatter([""] * len(ends)))
    top.xaxis.set_minor_locator(FixedLocator(middles))
    first, *rest = (str(record.epoch) for record in history.epochs)
    top.xaxis.set_minor_formatter(FixedFormatter([f"epoch {first}", *rest]))
    top.tick_params(which="minor", length=0, labelsize=9, colors=GREY)
    top.tick_params(which="major", length=4, colors=GREY)


def scale_linear(axes: Axes, finite: Array, first: Array) -> str:
    """Show zero where that costs little room, and not the whole of a blow-up; returns a note on what is cut off."""
    if not len(finite) or finite.min() <= 0:
        return ""
    if finite.max() > 2 * finite.min():
        axes.set_ylim(bottom=0)
    top = 2 * float(first[drawable(first)].max(initial=0))
    if not 0 < 5 * top < finite.max():
        return ""
    axes.set_ylim(0, top)
    return f"{int((finite > top).sum())} above the panel"


def scale_log(axes: Axes, finite: Array) -> str:
    """Choose the scale of the logarithmic panel; returns a note on what it cannot show."""
    if (finite < 0).any():  # log-likelihoods of densities, say
        axes.set_yscale("symlog", linthresh=float(np.percentile(np.abs(finite[finite != 0]), 10)))
        return "symmetric about 0"
    if not (finite > 0).any():
        return "no loss above 0: linear"
    axes.set_yscale("log", nonpositive="mask")
    if finite.max() < 5 * finite[finite > 0].min():  # within a decade plain numbers read better than powers of ten
        for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            which(FuncFormatter(lambda value, _: f"{value:g}"))
    zeros = int((finite == 0).sum())
    return f"{zeros} of exactly 0, left out" if zeros else ""


def write_title(axes: Axes, text: str, *notes: str) -> None:
    """A title on the left, small notes on the right."""
    axes.set_title(text, loc="left", fontsize=11, fontweight="bold")
    axes.set_title("; ".join(filter(None, notes)), loc="right", fontsize=8, color=VERMILLION)


def draw_lrs(axes: Axes, lrs: Sequence[float]) -> None:
    """Draw the learning rate of each step behind the loss, on an axis of its own."""
    twin = axes.twinx()
    steps, values = thinned(np.arange(1.0, len(lrs) + 1), np.array(lrs, dtype=float), DRAWN_POINTS)
    twin.plot(
        steps,
        values,
        color=GREEN,
        linewidth=1.4,
        linestyle=(0, (4, 2)),
        label="learning rate",
        marker="." if len(lrs) == 1 else None,
    )
    if len(values) and 0 < values.max() < math.inf:
        twin.set_ylim(0, 1.08 * values.max())
    twin.set_ylabel("learning rate", color=GREEN)
    twin.tick_params(axis="y", colors=GREEN)
    twin.spines[["top", "left", "bottom"]].set_visible(False)
    twin.spines["right"].set_color(GREEN)
    axes.set_zorder(twin.get_zorder() + 1)
    axes.patch.set_visible(False)


def plot_lr_find(
    lrs: Sequence[float], losses: Sequence[float], suggestion: float, path: str | Path | None = None
) -> Figure:
    """Draw what a learning-rate range test found: loss over learning rate, with the suggestion marked.

    The loss axis ends a little above the losses before the best one, so that the blow-up does not flatten the rest.

    Args:
        lrs: the learning rates that were tried, all above 0.
        losses: the loss at each; those that are not finite are left out.
        suggestion: the learning rate to mark.
        path: where to save the picture; the suffix chooses the format, and missing folders are made.

    Returns:
        A matplotlib figure with one axes.

    Raises:
        ConfigError: the two lists are empty or of different lengths.

    >>> figure = plot_lr_find([1e-3, 1e-2, 1e-1, 1.0], [2.3, 2.2, 1.0, 50.0], suggestion=1e-1)
    >>> round(float(figure.axes[0].get_ylim()[1]), 2)
    2.75
    """
    if not len(lrs) or len(lrs) != len(losses):
        raise ConfigError(f"expected a loss for each learning rate, got {len(losses)} for {len(lrs)}")
    rates, values = np.array(lrs, dtype=float), np.array(losses, dtype=float)
    good = drawable(values)
    rates, values = rates[good], values[good]
    figure = Plot(6.4, 4)
    axes = figure.subplots()
    draw(axes, [Curve("loss", rates, values)])
    axes.set_xscale("log")
    axes.set(xlabel="learning rate", ylabel="loss", xlim=(min(lrs) / 1.3, max(lrs) * 1.3))
    write_title(axes, "Learning-rate range test", "" if len(values) else "no loss was finite")
    if len(values):
        best = int(values.argmin())
        low, high = values[best], values[: best + 1].max()
        span = high - low or abs(low) or 1.0
        axes.set_ylim(low - 0.1 * span, high + 0.35 * span)
        at = float(np.interp(math.log(suggestion), np.log(rates), values))
        axes.axvline(suggestion, color=VERMILLION, linewidth=1, linestyle=(0, (4, 2)))
        axes.plot([suggestion], [at], color=VERMILLION, marker="o", markersize=7, markeredgecolor="white")
        figure.legend([axes.lines[-1]], [f"suggestion: {suggestion:.3g}"], loc="outside lower center", frameon=False)
    figure.write(path)
    return figure

"""The charts of `clearloop.interpret`: confusion, bars of classes, losses and layers, scatter plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from clearloop.errors import ConfigError
from clearloop.picture_plots import INK, Array, heading, short
from clearloop.plots import BLUE, GREEN, GREY, VERMILLION, Plot

if TYPE_CHECKING:
    from clearloop.interpret import ClassScores, TopLoss

COLOURS = (  # of Okabe and Ito, the last three beside them: safe for the colour-blind
    *(BLUE, "#E69F00", GREEN, "#CC79A7", "#56B4E9", VERMILLION, "#000000"),
    *("#8A7A00", "#882255", "#999999"),
)
MARKERS = "osD^vPXp<>"
MOST_CLASSES = 100
SHOWN_OUTPUTS = 4


# -- classes -----------------------------------------------------------------------------------------------------------


def heat_map(counts: Tensor, classes: Sequence[str], normalize: bool) -> Plot:
    """A confusion matrix: shades tell the share of a row, numbers the counts or the per cents; no number is a zero."""
    many = len(classes)
    if many > MOST_CLASSES:
        raise ConfigError(f"a figure has room for {MOST_CLASSES} classes, got {many}; look at confusion_counts instead")
    table = counts.double().numpy()
    shares = table / table.sum(axis=1, keepdims=True).clip(min=1)
    cell = 0.8 if many <= 5 else 0.5 if many <= 12 else 0.34 if many <= 26 else 0.28
    names = [short(name) for name in classes]
    label = 0.085 * max(map(len, names)) + 0.5
    figure = Plot(max(3.4, many * cell + label + 0.9), max(2.6, many * cell + label + 0.4))
    axes = figure.subplots()
    norm = PowerNorm(0.5, 0, 1)  # rare confusions must not vanish beside the diagonal
    shade = LinearSegmentedColormap.from_list("paper to blue", ["#FFFFFF", BLUE, "#00243B"])
    image = axes.imshow(shares, cmap=shade, norm=norm)
    texts = [[cell_text(table[i, j], shares[i, j], normalize) for j in range(many)] for i in range(many)]
    longest = max(2, *(len(text) for row in texts for text in row))
    size = min(10.0, 0.88 * cell * 72 / (0.62 * longest))
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            light = norm(shares[i, j]) > 0.42
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color="white" if light else INK)
    name_size = 9 if many <= 26 else 7
    upright = max(map(len, names)) * 0.07 > cell
    axes.set_xticks(range(many), names, rotation=90 if upright else 0, fontsize=name_size)
    axes.set_yticks(range(many), names, fontsize=name_size)
    axes.set_xticks(np.arange(many + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(many + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#DDDDDD", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="predicted", ylabel="target")
    heading(axes, "Per cent of each target" if normalize else "Confusion")
    bar = figure.colorbar(image, ax=axes, ticks=[0, 0.01, 0.1, 0.5, 1], shrink=min(1.0, 4 / (many * cell)), aspect=20)
    bar.ax.set_yticklabels(["0", "1 %", "10 %", "50 %", "100 %"], fontsize=8)
    return figure


def cell_text(count: float, share: float, normalize: bool) -> str:
    """A count, or per cents; what is rounded to 0 or 100 without being so, is said to be near it.

    >>> cell_text(1.0, 0.001, True), cell_text(999.0, 0.999, True), cell_text(0.0, 0.0, False)
    ('<1', '>99', '')
    """
    if not count:
        return ""
    if not normalize:
        return str(int(count))
    return "<1" if share < 0.005 else ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def class_bars(rows: Sequence[ClassScores]) -> Plot:
    """Precision, recall and F1 of each class as bars with their numbers."""
    names = [f"{short(row.name)}  ({row.count})" for row in rows]
    label = 0.085 * max(map(len, names)) + 0.3
    figure = Plot(label + 6.6, max(1.6, 0.24 * len(rows) + 0.9))
    panels = figure.subplots(1, 3, sharey=True)
    for axes, score, colour in zip(panels, ("precision", "recall", "f1"), (BLUE, GREEN, "#8A5A83"), strict=True):
        values = [getattr(row, score) for row in rows]
        axes.barh(range(len(rows)), values, color=colour, height=0.68, alpha=0.85)
        for place, value in enumerate(values):
            axes.text(1.03, place, f"{value:.3f}", va="center", fontsize=8, color=INK)
        axes.set(xlim=(0, 1.22), ylim=(len(rows) - 0.4, -0.6), xticks=[0, 0.5, 1])
        axes.set_yticks(range(len(rows)), names, fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#E4E4E4", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        heading(axes, "F1" if score == "f1" else score.capitalize())
    return figure


# -- losses and numbers ------------------------------------------------------------------------------------------------


def loss_bars(rows: Sequence[TopLoss]) -> Plot:
    """The largest losses of samples that are no pictures: a bar for each, with what was wanted and what was said."""
    sure = ["" if row.probability is None else f" ({row.probability:.2f})" for row in rows]
    texts = [f"{short(row.target, 30)} | {short(row.prediction, 30)}{p}" for row, p in zip(rows, sure, strict=True)]
    figure = Plot(4.2 + 0.085 * max(map(len, texts), default=0), max(1.6, 0.28 * len(rows) + 0.9))
    axes = figure.subplots()
    axes.barh(range(len(rows)), [row.loss for row in rows], color=BLUE, height=0.68, alpha=0.85)
    axes.set_yticks(range(len(rows)), [f"#{row.index}" for row in rows], fontsize=9)
    axes.set(xlabel="loss", ylim=(len(rows) - 0.4, -0.6))
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(rows)), texts, fontsize=9)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    heading(axes, "Largest losses")
    axes.set_title("target | prediction", loc="right", fontsize=9, color=GREY)
    return figure


def residual_panels(targets: Array, predictions: Array, rmse: Sequence[float], r2: Sequence[float]) -> Plot:
    """For each output: predictions against targets, and target minus prediction against predictions."""
    outputs = min(targets.shape[1], SHOWN_OUTPUTS)
    figure = Plot(9, 3.6 * outputs)
    panels = figure.subplots(outputs, 2, squeeze=False)
    for output, (left, right) in enumerate(panels):
        wanted, said = targets[:, output], predictions[:, output]
        dots: dict[str, Any] = {
            "s": 14 if len(wanted) < 2000 else 5,
            "alpha": max(0.08, min(0.75, 300 / len(wanted))),
            "color": BLUE,
            "linewidths": 0,
            "rasterized": True,
        }
        left.scatter(wanted, said, **dots)
        ends = [min(wanted.min(), said.min()), max(wanted.max(), said.max())]
        left.plot(ends, ends, color=VERMILLION, linewidth=1.2, linestyle=(0, (4, 2)))
        left.set(xlabel="target", ylabel="prediction")
        right.scatter(said, wanted - said, **dots)
        right.axhline(0, color=VERMILLION, linewidth=1.2, linestyle=(0, (4, 2)))
        right.set(xlabel="prediction", ylabel="target minus prediction")
        name = f"Output {output}: " if targets.shape[1] > 1 else ""
        heading(left, f"{name}R² {r2[output]:.3f}".replace("-", "−"))
        heading(right, f"{name}RMSE {rmse[output]:.4g}")
        for axes in (left, right):
            axes.grid(color="#E4E4E4", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure


# -- codes of an autoencoder, layers of a model ------------------------------------------------------------------------


def cloud(points: Array, labels: NDArray[np.int64] | None, names: Sequence[str], axis_names: Sequence[str]) -> Plot:
    """Points in two dimensions; each class has a colour, a marker, and its name at its middle."""
    figure = Plot(7.2, 5.6)
    axes = figure.subplots()
    size, alpha = (16, 0.8) if len(points) < 1000 else (9, 0.6) if len(points) < 20000 else (3, 0.3)
    groups = [np.full(len(points), True)] if labels is None else [labels == label for label in range(len(names))]
    for number, chosen in enumerate(groups):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        axes.scatter(points[chosen, 0], points[chosen, 1], s=size, alpha=alpha, linewidths=0, rasterized=True, **style)
        if labels is None or not chosen.any():
            continue
        middle = np.median(points[chosen], axis=0)
        text = axes.text(
            middle[0], middle[1], short(names[number]), ha="center", va="center", fontsize=11, fontweight="bold"
        )
        text.set(color=INK, path_effects=[withStroke(linewidth=3.5, foreground="white")])
        axes.scatter([], [], s=40, label=short(names[number]), **style)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    axes.grid(color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    heading(axes, "Codes")
    if labels is not None:
        columns = 1 if len(names) <= 20 else 2 if len(names) <= 40 else 4
        figure.legend(loc="outside right upper", frameon=False, fontsize=9, ncols=columns)
    return figure


def layer_bars(names: Sequence[str], parameters: Sequence[int], multiply_adds: Sequence[int]) -> Plot:
    """Where the parameters and the multiply-adds of a model are, layer by layer, from its input down."""
    label = 0.08 * max(map(len, names), default=0) + 0.3
    figure = Plot(label + 6, max(1.8, 0.21 * len(names) + 0.9))
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("Parameters", "Multiply-adds")
    for axes, values, title, colour in zip(panels, (parameters, multiply_adds), titles, (BLUE, GREEN), strict=True):
        axes.barh(range(len(names)), values, color=colour, height=0.68, alpha=0.85)
        top = max([*values, 1])
        for place, value in enumerate(values):
            if value:
                axes.text(value + 0.02 * top, place, counted(value), va="center", fontsize=8, color=INK)
        axes.set(xlim=(0, 1.28 * top), ylim=(len(names) - 0.4, -0.6))
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: counted(value))
        axes.spines[["top", "right"]].set_visible(False)
        heading(axes, f"{title}: {counted(sum(values))}")
    return figure


def counted(number: float) -> str:
    """A large number, short.

    >>> counted(0), counted(950), counted(11_689_512), counted(1_814_073_344)
    ('0', '950', '11.7 M', '1.81 G')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"

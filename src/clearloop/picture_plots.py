"""Pictures as figures: in a grid with titles, or above what a model makes of them; and what every figure shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from clearloop.errors import ConfigError
from clearloop.plots import VERMILLION, Plot

Array = NDArray[np.float64]

INK = "#222222"
MOST_PICTURES = 64  # in one figure
NAME_LENGTH = 18


@dataclass(frozen=True, eq=False, kw_only=True)
class Drawn:
    """Data with the matplotlib figure that shows them; a notebook shows the figure."""

    figure: Plot

    def _repr_png_(self) -> bytes:
        return self.figure._repr_png_()


def check_number(n: int) -> None:
    """Raise ConfigError unless a figure has room for `n` pictures."""
    if type(n) is not int or not 1 <= n <= MOST_PICTURES:
        raise ConfigError(f"n must be a whole number from 1 to {MOST_PICTURES}, got {n!r}")


def short(text: str, longest: int = NAME_LENGTH) -> str:
    """A text cut to fit.

    >>> short("golden retriever, young", 12)
    'golden retr…'
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"


def heading(axes: Axes, text: str) -> None:
    """A title on the left."""
    axes.set_title(text, loc="left", fontsize=11, fontweight="bold", color=INK)


def pixels(image: Tensor) -> Array:
    """A picture (C, H, W) as matplotlib takes it; values outside [0, 1] are spread over it, each picture by itself.

    >>> pixels(torch.tensor([[[-1.0, 3.0]]])).tolist()
    [[0.0, 1.0]]
    """
    array = image.detach().cpu().double().nan_to_num()
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        array = (array - low) / (high - low) if high > low else torch.full_like(array, 0.5)
    array = array.clamp(0, 1)
    found: Array = (array[0] if len(array) == 1 else array.permute(1, 2, 0)).numpy()
    return found


def show(axes: Axes, image: Tensor, framed: bool = False) -> None:
    """Draw a picture without ticks, in a thin line, or in a thick one of another colour."""
    axes.imshow(pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=VERMILLION if framed else "#BBBBBB", linewidth=3 if framed else 0.6)


def picture_grid(
    images: Sequence[Tensor], titles: Sequence[str], framed: Sequence[bool] = (), heading: str = ""
) -> Plot:
    """Pictures in rows, each with its title; those that are framed stand out without their colour, too."""
    columns = math.ceil(math.sqrt(len(images)))
    if len(images) > 16:
        columns = 8
    rows = math.ceil(len(images) / columns)
    lines = 1 + max(title.count("\n") for title in titles)
    longest = max(len(line) for title in titles for line in title.split("\n"))
    side = max(1.15, 0.075 * longest)  # so that titles of neighbours do not meet
    height = side * float(np.median([image.shape[1] / image.shape[2] for image in images]))
    figure = Plot(max(2.6, columns * (side + 0.12)), rows * (min(height, 3 * side) + 0.16 * lines + 0.12) + 0.4)
    for number in range(rows * columns):
        axes = figure.add_subplot(rows, columns, number + 1)
        if number >= len(images):
            axes.set_axis_off()
            continue
        marked = number < len(framed) and framed[number]
        show(axes, images[number], marked)
        axes.set_title(titles[number], fontsize=8, color=INK, fontweight="bold" if marked else "normal", pad=4)
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return figure


def pair_rows(above: Sequence[Tensor], below: Sequence[Tensor], title: str) -> Plot:
    """Originals above their reconstructions, at most ten in a row.

    Beside originals in [0, 1] an output a little below 0 is black, as it was meant, rather than all else grey.
    """
    if all(float(image.min()) >= 0 and float(image.max()) <= 1 for image in above):
        below = [image.clamp(0, 1) for image in below]
    columns = min(10, len(above))
    blocks = math.ceil(len(above) / columns)
    ratio = above[0].shape[1] / above[0].shape[2]
    figure = Plot(max(3.8, 0.95 * columns + 1.1), blocks * (2 * 0.95 * min(ratio, 3.0) + 0.2) + 0.4)
    grid = figure.add_gridspec(2 * blocks, columns)
    for number, images in enumerate(zip(above, below, strict=True)):
        block, column = divmod(number, columns)
        for row, (image, name) in enumerate(zip(images, ("original", "reconstructed"), strict=True)):
            axes = figure.add_subplot(grid[2 * block + row, column])
            show(axes, image)
            if column == 0:
                axes.set_ylabel(name, fontsize=8, color=INK, rotation=0, ha="right", va="center", labelpad=6)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return figure

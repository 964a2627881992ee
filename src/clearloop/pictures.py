"""Pictures for notebooks: images of any layout and curves of functions, on pyplot's axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from clearloop.errors import ConfigError, DataError
from clearloop.tree import tree_map

PIXELS_PER_INCH = 14  # a digit of 28 x 28 is shown two inches high
CHANNELS = (1, 3, 4)


def show_image(
    im: Any,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    title: Any = None,
    *,
    cmap: Any = None,
) -> Axes:
    """Draw an image without ticks.

    Args:
        im: tensor, array or PIL image of shape (H, W), (1, H, W), (3, H, W), (4, H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4). Colours are bytes, or floats in [0, 1]; a single channel is spread from its smallest value to
            its largest.
        ax: the axes to draw on; new ones when None.
        figsize: width and height of new axes in inches.
        cmap: the colours of a single channel; when None matplotlib's setting `image.cmap` if that was changed, else
            dark ink on white.

    Returns: the axes.
    Raises: DataError for another shape.

    >>> show_image(torch.zeros(3, 28, 20)).images[0].get_array().shape
    (28, 20, 3)
    """
    pixels = as_pixels(im)
    if ax is None:
        height, width = pixels.shape[:2]
        inches = [min(max(side / PIXELS_PER_INCH, 1.0), 6.0) for side in (width, height)]
        _, ax = plt.subplots(figsize=figsize or (inches[0], inches[1]))
    if cmap is None and mpl.rcParams["image.cmap"] == mpl.rcParamsDefault["image.cmap"]:
        cmap = "Greys"
    ax.imshow(pixels, cmap=cmap)
    if title is not None:
        ax.set_title(str(title))
    ax.axis("off")
    return ax


def as_pixels(im: Any) -> np.ndarray[Any, Any]:
    """An image of any layout as matplotlib takes it, (H, W), (H, W, 3) or (H, W, 4). Raises DataError."""
    if isinstance(im, Image.Image) and im.mode not in ("1", "L", "I", "F", "RGB", "RGBA", "I;16"):
        im = im.convert("RGBA" if im.has_transparency_data else "RGB")  # a palette's numbers are no shades
    array = to_np(im) if isinstance(im, Tensor) else np.asarray(im)
    shape = array.shape
    if len(shape) == 3:
        last = shape[2] in CHANNELS and not (isinstance(im, Tensor) and shape[0] in (1, 3))
        if not last and shape[0] in CHANNELS:
            array = array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
        if array.shape[2] == 1:
            array = array[:, :, 0]  # (H, W, 1) -> (H, W)
    if not array.size or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] in CHANNELS):
        raise DataError(
            f"expected one image of shape (H, W), (C, H, W) or (H, W, C) with 1, 3 or 4 channels, got {tuple(shape)}; "
            "show the images of a batch one by one, and a flat one as im.view(28, 28)"
        )
    return array


def plot_function(
    f: Callable[[Tensor], Any],
    tx: str | None = None,
    ty: str | None = None,
    title: str | None = None,
    min: float = -2.0,
    max: float = 2.0,
    figsize: tuple[float, float] = (6.0, 4.0),
) -> None:
    """Draw the curve of `f` between `min` and `max` on new axes, which stay the current ones: `plt.scatter` adds to it.

    Args:
        f: called once, with a float32 tensor of shape (100,); it returns as many values.
        tx, ty: names of the two axes.

    Raises: ConfigError for limits in the wrong order, DataError where `f` returns something of another shape.

        plot_function(lambda x: x**2, "x", "x**2")
    """
    if not min < max:
        raise ConfigError(f"expected min below max, got {min} and {max}")
    x = torch.linspace(min, max, 100)
    y = f(x)
    values = to_np(y) if isinstance(y, Tensor) else np.asarray(y)
    if values.shape != x.shape:
        raise DataError(f"expected a function that returns a value for each of {len(x)}, got shape {values.shape}")
    _, ax = plt.subplots(figsize=figsize)
    ax.plot(x.numpy(), values)
    if tx is not None:
        ax.set_xlabel(tx)
    if ty is not None:
        ax.set_ylabel(ty)
    if title is not None:
        ax.set_title(title)


def to_np(tree: Any) -> Any:
    """Tensors as NumPy arrays, on the CPU and cut from the autograd graph, in any nesting of tuples, lists and dicts.

    >>> to_np((torch.ones(2, requires_grad=True), "three"))
    (array([1., 1.], dtype=float32), 'three')
    """

    def array(tensor: Tensor) -> Any:
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # NumPy knows no bfloat16

    return tree_map(array, tree)

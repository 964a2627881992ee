"""Picture files and pictures of any mode to pixels: RGB, or grey as MNIST's digits are (bright strokes on black)."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clearloop.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000  # a file may claim any size: more than this is refused before it is decoded
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # read by Pillow itself, no other program
INK = 0.2  # of the way from the background to the brightest pixel: what is brighter is ink
FILL = 20 / 28  # the share of the image that MNIST's digits fill


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture file, turned upright where its EXIF data say how the camera was held.

    Args: `path`, a PNG, JPEG, BMP, GIF (its first frame), TIFF, WebP or PPM file of at most `MAX_PIXELS` pixels.
    Returns: the decoded PIL image, in the mode of the file. Raises: DataError naming the file when it is missing, no
    picture, cut off, damaged, or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a picture file, got {'a folder' if path.is_dir() else 'no such file'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata, and about sizes that are checked below
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height <= MAX_PIXELS:
                    return ImageOps.exif_transpose(image)  # decodes it
    except Image.DecompressionBombError:
        width = height = 0
    except UnidentifiedImageError:
        raise DataError(f"{path}: expected a picture ({', '.join(FORMATS)}), got something else; convert it") from None
    except Exception as error:  # decoders raise nearly anything over a damaged file
        raise DataError(f"{path}: expected a whole picture, got a damaged one ({error}); export it again") from error
    size = f"{width} x {height}" if width else "far more"
    raise DataError(f"{path}: expected at most {MAX_PIXELS} pixels, got {size}; scale the picture down")


def grey_pixels(image: Image.Image, size: tuple[int, int], dark_on_light: bool = False, crop: bool = False) -> Tensor:
    """A picture as grey pixels of the size that a model takes: bright strokes on black.

    Args:
        image: a PIL image of mode 1, L, LA, P, PA, RGB, RGBA, CMYK, YCbCr, HSV or 16-bit grey (I;16, I).
        size: (height, width) of the result. A picture of this size is not resampled, others keep their aspect ratio
            and are padded with black.
        dark_on_light: the strokes are darker than the paper: the picture is inverted. Transparent parts are paper.
        crop: look for the ink and place it as MNIST's digits are: it fills 20/28 of the size, its centre of mass in
            the middle.

    Returns:
        uint8 tensor of shape (height, width).

    Raises:
        DataError: another mode, or a picture without ink where `crop` is asked for.

    >>> from PIL import Image
    >>> grey_pixels(Image.new("RGB", (4, 2), (255, 255, 255)), (4, 4))[:, 0]
    tensor([  0, 255, 255,   0], dtype=torch.uint8)
    """
    pixels = _grey(image, background=255 if dark_on_light else 0)  # (h, w)
    if dark_on_light:
        pixels = 255 - pixels
    if crop:
        pixels = _centred(pixels, size)
    elif pixels.shape != tuple(size):
        pixels = _padded(_resized(pixels, *_fitting(pixels.shape, size)), size)
    return torch.from_numpy(np.array(pixels))  # a copy: Pillow's own memory may not be written to


def colour_pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture as RGB pixels of the size that a model takes.

    Args:
        image: a PIL image of any mode that `grey_pixels` takes; transparent parts show white, as on a page.
        size: (height, width) of the result. A picture of this size is not resampled, others keep their aspect ratio
            and are padded with black.

    Returns:
        uint8 tensor of shape (3, height, width).

    Raises:
        DataError: another mode.

    >>> from PIL import Image
    >>> colour_pixels(Image.new("RGB", (4, 2), (255, 127, 0)), (2, 4))[:, 0, 0]
    tensor([255, 127,   0], dtype=torch.uint8)
    """
    pixels = _colour(image)  # (h, w, 3)
    if pixels.shape[:2] != tuple(size):
        pixels = _padded(_resized(pixels, *_fitting(pixels.shape, size)), size)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # (H, W, 3) -> (3, H, W), a copy


def is_grey(image: Image.Image) -> bool:
    """Whether a picture can hold no colour: a grey mode, or a palette of greys."""
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB") or []).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16")


def _plain(image: Image.Image) -> Image.Image:
    """The picture in a mode with 8 bits a channel: 1, L, LA, P, PA, RGB or RGBA."""
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image.convert("I"))
        if wide.min() < 0 or wide.max() > 65535:
            raise DataError(
                f"expected 16-bit grey values in [0, 65535], got {wide.min()}..{wide.max()}; convert them to 8 bits"
            )
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))  # 65535 -> 255, rounded
    if image.mode in ("La", "RGBa"):  # colours already multiplied by alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("CMYK", "YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise DataError(f"expected a grey or colour picture, got one of mode {image.mode}; convert it to RGB")
    return image


def _colour(image: Image.Image) -> np.ndarray:
    """uint8 array of shape (h, w, 3); where the picture is transparent, white shows."""
    from PIL import Image

    image = _plain(image)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    return np.asarray(Image.composite(image.convert("RGB"), white, image.getchannel("A")))


def _grey(image: Image.Image, background: int) -> np.ndarray:
    """uint8 array of shape (h, w); where the picture is transparent, `background` shows."""
    from PIL import Image

    image = _plain(image)
    if not image.has_transparency_data:
        return np.asarray((image.convert("RGB") if image.mode == "P" else image).convert("L"))
    image = image.convert("RGBA")
    grey = image.convert("RGB").convert("L")
    return np.asarray(Image.composite(grey, Image.new("L", image.size, background), image.getchannel("A")))


def _bounded(pixels: np.ndarray, limit: float, margin: int = 0) -> np.ndarray:
    """The smallest rectangle that holds all pixels above `limit`, and `margin` more on each side."""
    rows, columns = np.nonzero(pixels > limit)
    top, left = max(0, rows.min() - margin), max(0, columns.min() - margin)
    return pixels[top : rows.max() + 1 + margin, left : columns.max() + 1 + margin]


def _fitting(shape: tuple[int, ...], box: tuple[int, int]) -> tuple[int, int]:
    """The largest height and width within `box` in the proportions of `shape`."""
    scale = min(box[0] / shape[0], box[1] / shape[1])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averages where each pixel comes of a whole number of pixels, else Lanczos resampling."""
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return pixels
    whole = pixels.shape[0] % height == 0 and pixels.shape[1] % width == 0
    resample = Image.Resampling.BOX if whole else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(pixels).resize((width, height), resample))


def _padded(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Black around `pixels`, the same on opposite sides."""
    return _placed(pixels, size, (size[0] - pixels.shape[0]) // 2, (size[1] - pixels.shape[1]) // 2)


def _placed(pixels: np.ndarray, size: tuple[int, int], top: int, left: int) -> np.ndarray:
    """Black, with `pixels` in it."""
    whole = np.zeros((*size, *pixels.shape[2:]), np.uint8)
    whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return whole


def _centred(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The ink alone, scaled to fill `FILL` of `size`, its centre of mass in the middle as far as it then fits.

    Source: how MNIST was made of NIST's digits (LeCun, Bottou, Bengio and Haffner, 1998).
    """
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = int(np.median(edge))  # paper is not quite black once it is inverted
    ink = np.maximum(pixels.astype(np.int64) - background, 0).astype(np.uint8)
    if not ink.any():
        raise DataError(
            "expected strokes brighter than their background, got none; for dark strokes on light paper set "
            "dark_on_light=True"
        )
    limit = INK * float(ink.max())
    fringe = max(1, max(_bounded(ink, limit).shape) // 20)  # the faint ends of strokes, above the noise of the paper
    ink = _bounded(_bounded(ink, limit, fringe), min(limit, float(edge.max()) - background))
    box = max(1, round(size[0] * FILL)), max(1, round(size[1] * FILL))
    ink = _resized(ink, *_fitting(ink.shape, box))
    weights = ink.astype(np.float64)
    corner = []
    for axis in (0, 1):
        sums = weights.sum(axis=1 - axis)
        centre = float(sums @ np.arange(len(sums)) / sums.sum())
        free = size[axis] - ink.shape[axis]
        corner.append(min(max(round(size[axis] / 2 - centre), 0), free))
    return _placed(ink, size, corner[0], corner[1])

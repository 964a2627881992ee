"""Pictures in folders by hand: which files there are, and each of them as bytes.

The short form of `clearloop.data.images`, for folders that it has read: what it refuses is not looked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from clearloop.data.images import IGNORED, natural
from clearloop.imaging import colour_pixels, grey_pixels
from clearloop.rng import fold


def shown(folder: Path) -> list[Path]:
    """What is in a folder, in natural order, but for hidden files and what systems leave there."""
    found = [path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in IGNORED]
    return sorted(found, key=lambda path: natural(path.name))


def files_in(folder: Path) -> list[Path]:
    """All files in a folder, and in the folders in it."""
    return [file for path in shown(folder) for file in (files_in(path) if path.is_dir() else [path])]


def files_by_class(folder: Path) -> dict[str, list[Path]]:
    """The picture files of each class: each has a folder, which is called like it."""
    found = {path.name: files_in(path) for path in shown(folder) if path.is_dir()}
    return {name: found[name] for name in sorted(found) if found[name]}


def held_out(files: Sequence[Path], share: float, generator: torch.Generator) -> set[int]:
    """The places of those files of a class that are held out: a share of them, at least one and not all."""
    count = min(max(1, round(share * len(files))), len(files) - 1)
    return set(torch.randperm(len(files), generator=generator)[:count].tolist())


def split_files(
    found: dict[str, list[Path]], share: float, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The files to train on, and those held out: the same share of every class."""
    kept, held = {}, {}
    for number, (name, files) in enumerate(found.items()):
        chosen = held_out(files, share, torch.Generator().manual_seed(fold(seed, number)))
        kept[name] = [file for place, file in enumerate(files) if place not in chosen]
        held[name] = [file for place, file in enumerate(files) if place in chosen]
    return kept, held


def decoded(path: Path, size: tuple[int, int], grey: bool) -> Tensor:
    """A picture file as bytes of one size, turned upright as its EXIF data say: (H, W) if grey, else (3, H, W)."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if grey:
            return grey_pixels(ImageOps.exif_transpose(image), size)
        return colour_pixels(ImageOps.exif_transpose(image), size)


def labelled(
    found: dict[str, list[Path]], classes: Sequence[str], size: tuple[int, int], grey: bool
) -> tuple[Tensor, Tensor]:
    """Pictures as bytes, and their labels: places among the classes, int64 of shape (n,)."""
    images = [decoded(path, size, grey) for name in classes for path in found.get(name, [])]
    labels = [label for label, name in enumerate(classes) for _ in found.get(name, [])]
    return torch.stack(images), torch.tensor(labels)

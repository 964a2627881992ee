"""Folders of pictures: each file decoded once, to bytes of one size; from then on a batch is a gather."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from clearloop.component import remember
from clearloop.data.augment import Augment
from clearloop.data.dataset import TensorDataset
from clearloop.data.decoding import SUFFIXES, Pictures, Size, read_pictures, warn
from clearloop.data.loader import DataLoader, draw_seed
from clearloop.data.loaders import DataLoaders, scaling_of
from clearloop.data.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from clearloop.errors import ConfigError, DataError
from clearloop.rng import fold

HELD_OUT = 0.2  # the share that is held out where there is no folder to validate with
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # what systems leave in folders; so are names that begin with a dot
PARTS = ("train", "training", "valid", "validation", "val", "test", "testing")  # what no class is called
Normalization = Literal["imagenet"] | Sequence[Any] | None


@dataclass(frozen=True)
class Listing:
    """Picture files in the order in which they are kept: first those to train on, then those to validate with.

    `labels` are indices into `classes`; `train` says how many are to train on; `misplaced` are pictures in no class.
    """

    classes: list[str]
    files: list[Path]
    labels: list[int]
    train: int
    misplaced: list[Path]


class ImageDataLoaders(DataLoaders):
    """DataLoaders of pictures in folders, one folder a class.

        dls = ImageDataLoaders.from_folder("photos", size=128, batch_size=32)
        inputs, targets = next(iter(dls.train))  # float32 (32, 3, 128, 128) in [0, 1], int64 (32,)

    `dls.classes` holds the names of the classes, `dls.image_size` the height and width.
    """

    @classmethod
    @remember
    def from_folder(
        cls,
        path: str | Path,
        train: str = "train",
        valid: str = "valid",
        *,
        valid_share: float | None = None,
        seed: int | None = None,
        split_seed: int | None = None,
        batch_size: int = 64,
        valid_batch_size: int | None = None,
        size: Size | None = None,
        grey: bool | None = None,
        normalize: Normalization = None,
        cache: Literal["memory", "disk"] = "memory",
        skip_bad: bool = False,
        augment: Augment | None = None,
        workers: int | None = None,
    ) -> ImageDataLoaders:
        """Read the pictures below `path`: those of `train/CLASS/` and `valid/CLASS/`, or of `CLASS/`, split.

        Within a class, pictures may lie in folders of any depth. Hidden files are passed over. A picture is turned
        upright by its EXIF data; one of another shape than `size` keeps its proportions and is padded with black; what
        is transparent becomes black in grey pictures and white in others; 16-bit, palette and CMYK pictures are
        converted. A predictor of the run does the same.

        Args:
            path: the folder. train, valid: its two folders of classes; if there is no `train` folder, `path` holds the
                classes itself.
            valid_share: the share of every class, in (0, 1), that is held out of the training pictures; the folder
                `valid` is then not read. None: that folder, or 0.2 where `path` holds the classes itself.
            seed: of the order of training and of augmentation; drawn from torch's global generator when None.
            split_seed: which pictures are held out; None: by `seed`, or by 0 where that is drawn.
            batch_size, valid_batch_size: samples a batch; for validation twice as many when None.
            size: (height, width) or one number for both; None: that which all pictures share.
            grey: whether pictures become grey, (B, 1, H, W), or RGB, (B, 3, H, W); None: grey if all are.
            normalize: (mean, std), each a number a channel, or "imagenet" for its statistics.
            cache: where the decoded bytes are kept: in memory, or in a file in the user's cache that is mapped into
                memory, by this and every later run until a file, the size or the split changes.
            skip_bad: leave out files that are no whole picture, with a warning, rather than refuse them all by name.
            augment: `(inputs, keys) -> inputs`, of training batches; see `clearloop.data.augment`.
            workers: threads that decode; one a core when None. What they give does not depend on it.

        Raises:
            DataError: no pictures, fewer than two classes, a class to validate that is not trained, files that are no
                pictures (all of them), several sizes, or more than fits into memory. ConfigError: bad arguments.
                StorageError: the cache cannot be written.
        """
        options: dict[str, Any] = {name: value for name, value in locals().items() if name not in ("cls", "path")}
        if seed is None:  # so that what is remembered of the call says which one was drawn
            drawn = {"seed": draw_seed(), "split_seed": 0 if split_seed is None else split_seed}
            return cls.from_folder(path, **{**options, **drawn})
        check_options(valid_share, size, cache, workers)
        root = Path(path).absolute()
        listing = list_pictures(root, train, valid, valid_share, seed if split_seed is None else split_seed)
        pictures = read_pictures(root, listing.files, listing.misplaced, as_size(size), grey, cache, skip_bad, workers)
        return cls._of(listing, pictures, normalizing(normalize, pictures), batch_size, valid_batch_size, seed, augment)

    @classmethod
    def _of(
        cls,
        listing: Listing,
        pictures: Pictures,
        normalize: Normalize | None,
        batch_size: int,
        valid_batch_size: int | None,
        seed: int,
        augment: Augment | None,
    ) -> ImageDataLoaders:
        labels = torch.tensor(listing.labels)[pictures.kept]
        cut = int((pictures.kept < listing.train).sum())  # what was left out was not in the files after it
        check_all_there(listing, labels[:cut].tolist(), labels[cut:].tolist())
        transform = normalize or scaling_of(pictures.pixels)
        training = TensorDataset(pictures.pixels[:cut], labels[:cut], transform=transform)
        held = TensorDataset(pictures.pixels[cut:], labels[cut:], transform=transform)
        height, width = pictures.pixels.shape[-2:]
        return cls(
            DataLoader(training, batch_size, shuffle=True, seed=seed, augment=augment),
            DataLoader(held, 2 * batch_size if valid_batch_size is None else valid_batch_size),
            classes=listing.classes,
            image_size=(height, width),
            normalize=normalize,
        )


# -- arguments ---------------------------------------------------------------------------------------------------------


def check_options(valid_share: float | None, size: Size | None, cache: str, workers: int | None) -> None:
    """Raise ConfigError for arguments that cannot work, before any file is opened."""
    if valid_share is not None and not 0 < valid_share < 1:
        raise ConfigError(f"valid_share must be a share in (0, 1), got {valid_share}")
    sides = as_size(size) or (1, 1)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(f"size must be a whole number of pixels or (height, width), got {size!r}")
    if cache not in ("memory", "disk"):
        raise ConfigError(f'cache must be "memory" or "disk", got {cache!r}')
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ConfigError(f"workers must be a whole number of at least 1, or None for one a core; got {workers!r}")


def as_size(size: Size | None) -> tuple[int, int] | None:
    """(height, width) of a size that may be one number."""
    return (size, size) if isinstance(size, int) else None if size is None else tuple(size)  # type: ignore[return-value]


def normalizing(normalize: Normalization, pictures: Pictures) -> Normalize | None:
    """The transform that an argument asks for. Raises ConfigError where its channels are not those of the pictures."""
    if normalize is None:
        return None
    if isinstance(normalize, str):
        if normalize != "imagenet":
            raise ConfigError(f'normalize must be "imagenet", (mean, std) or None, got {normalize!r}')
        made = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    elif not isinstance(normalize, (list, tuple)) or len(normalize) != 2:
        raise ConfigError(f'normalize must be "imagenet", (mean, std) or None, got {normalize!r}')
    else:
        made = Normalize(*map(numbers, normalize))
    channels = pictures.pixels.shape[1] if pictures.pixels.ndim == 4 else 1
    if len(made.mean) != channels:
        remedy = "; grey=False makes three channels of grey pictures" if channels == 1 else ""
        raise ConfigError(f"mean and std are of {len(made.mean)} channels, the pictures have {channels}{remedy}")
    return made


def numbers(part: Any) -> list[float]:
    """One number a channel; one alone is that of the one channel."""
    return [float(part)] if isinstance(part, (int, float)) else [float(number) for number in part]


# -- what is in a folder -----------------------------------------------------------------------------------------------


def list_pictures(root: Path, train: str, valid: str, valid_share: float | None, split_seed: int) -> Listing:
    """The files to decode, in an order that depends on their names and the split alone.

    Raises: DataError for a folder that is not there or holds no pictures, fewer than two classes, or classes to
    validate that are not trained.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of pictures, got {'a file' if root.exists() else 'no such folder'}")
    apart = (root / train).is_dir()
    top = root / train if apart else root
    found, misplaced = class_files(top)
    if not apart:
        check_no_parts(root, found, train, valid)
    if len(found) < 2:
        remedy = f'; if {train!r} is a class itself, pass train="." and valid_share=0.2' if apart and misplaced else ""
        raise DataError(
            f"{top}: expected a folder of pictures for each of two or more classes, got "
            f"{f'one class, {next(iter(found))!r}' if found else 'none'}; make a folder for each class{remedy}"
        )
    classes = sorted(found)
    if not apart or valid_share is not None:
        kept, held = split(found, HELD_OUT if valid_share is None else valid_share, split_seed, top)
    else:
        kept, (held, more) = found, valid_files(root, valid)
        misplaced = misplaced + more
        unknown = sorted(set(held) - set(kept))
        if unknown:
            raise DataError(
                f"{root / valid}: expected the classes of {top} ({some(classes)}), got {some(unknown)} too; rename or "
                "remove them, or add pictures to train on"
            )
    files, labels = [], []
    for part in (kept, held):
        for label, name in enumerate(classes):
            files += part.get(name, [])
            labels += [label] * len(part.get(name, []))
    return Listing(classes, files, labels, sum(map(len, kept.values())), misplaced)


def class_files(top: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """The files of each folder of `top` that has any, and the pictures that lie beside the folders."""
    found, misplaced = {}, []
    for entry in entries(top):
        if entry.is_dir():
            files = list(files_below(Path(entry.path)))
            if files:
                found[entry.name] = files
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            misplaced.append(Path(entry.path))
    return found, misplaced


def files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All files below a folder, in natural order; links to folders are followed, but never in a circle."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in entries(folder):
        path = Path(entry.path)
        if entry.is_dir():
            yield from files_below(path, (*above, real))
        else:
            yield path


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, but for hidden files and what systems leave there, in natural order."""
    try:
        with os.scandir(folder) as found:
            shown = [entry for entry in found if not entry.name.startswith(".") and entry.name.lower() not in IGNORED]
    except OSError as error:
        raise DataError(f"{folder}: expected a folder that can be read, got {error.strerror}") from error
    return sorted(shown, key=lambda entry: natural(entry.name))


def natural(name: str) -> tuple[list[Any], str]:
    """A key that sorts numbers in names by their value.

    >>> sorted(["10.png", "9.png", "a.png"], key=natural)
    ['9.png', '10.png', 'a.png']
    """
    pieces = re.split(r"([0-9]+)", name)
    return [int(piece) if at % 2 else piece for at, piece in enumerate(pieces)], name


def check_no_parts(root: Path, found: dict[str, list[Path]], train: str, valid: str) -> None:
    """Refuse to take a folder `training` for a class."""
    parts = [name for name in found if name.lower() in PARTS]
    if parts:
        raise DataError(
            f"{root}: expected {train}/ and {valid}/, or folders of classes, got {some(sorted(found))}; say which is "
            f'which: train="{parts[0]}", valid="..."'
        )


def valid_files(root: Path, valid: str) -> tuple[dict[str, list[Path]], list[Path]]:
    """The pictures to validate with. Raises DataError where there are none, with what there is in place of them."""
    folder = root / valid
    if not folder.is_dir():
        others = [entry.name for entry in entries(root) if entry.is_dir()]
        raise DataError(
            f"{folder}: expected the pictures to validate with, got no such folder (there are: {some(others)}); name "
            "it, valid=..., or hold out a share of the others: valid_share=0.2"
        )
    found, misplaced = class_files(folder)
    if not found:
        raise DataError(f"{folder}: expected a folder of pictures for each class, got none; or pass valid_share=0.2")
    return found, misplaced


def split(
    found: dict[str, list[Path]], share: float, seed: int, top: Path
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Of every class the same share, at least one picture and not all, drawn by a generator of its own."""
    kept, held = {}, {}
    single = [name for name, files in found.items() if len(files) < 2]
    if single:
        raise DataError(
            f"{top}: expected two or more pictures of each class, so that one can be held out, got one of "
            f"{some(sorted(single))}; add pictures or remove the class"
        )
    for number, name in enumerate(sorted(found)):
        files = found[name]
        generator = torch.Generator().manual_seed(fold(seed, number))
        count = min(max(1, round(share * len(files))), len(files) - 1)
        chosen = set(torch.randperm(len(files), generator=generator)[:count].tolist())
        held[name] = [file for at, file in enumerate(files) if at in chosen]
        kept[name] = [file for at, file in enumerate(files) if at not in chosen]
    return kept, held


def check_all_there(listing: Listing, trained: list[int], held: list[int]) -> None:
    """Refuse classes of which no picture could be read; warn of those that validation will not see."""
    lost = [name for label, name in enumerate(listing.classes) if label not in set(trained)]
    if lost or not held:
        what = f"of the class {lost[0]!r}" if lost else "to validate with"
        raise DataError(f"no picture {what} could be read: expected one or more; mend or replace the files")
    unseen = [name for label, name in enumerate(listing.classes) if label not in set(held)]
    if unseen:
        warn(f"there are no pictures to validate with of {some(unseen)}")


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names of a list, for messages.

    >>> some(["a", "b"]), some([], 2), some(["a", "b", "c"], 2)
    ('a, b', 'none', 'a, b and 1 more')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"

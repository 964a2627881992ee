"""Folders of pictures: each file decoded once, to bytes of one size; from then on a batch is a gather."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from clearloop.component import remember
from clearloop.data.augment import Augment
from clearloop.data.dataset import Batch, TensorDataset, Transform
from clearloop.data.decoding import SUFFIXES, Pictures, Size, printable, read_pictures, warn
from clearloop.data.loader import DataLoader, draw_seed
from clearloop.data.loaders import DataLoaders, Targets, scaling_of
from clearloop.data.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize, statistics
from clearloop.errors import ConfigError, DataError
from clearloop.rng import fold

HELD_OUT = 0.2  # the share that is held out where there is no folder to validate with
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # what systems leave in folders; so are names that begin with a dot
PARTS = ("train", "training", "valid", "validation", "val", "test", "testing")  # what no class is called
Normalization = Literal["imagenet", "training"] | Sequence[Any] | None


@dataclass(frozen=True)
class Listing:
    """Picture files in the order in which they are kept: first those to train on, then those to validate with.

    `labels` are indices into `classes`, all 0 where there are none; `train` says how many are to train on; `misplaced`
    are pictures in no class.
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
        targets: Targets = "labels",
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
            normalize: (mean, std), each a number a channel; "imagenet" for its statistics, or "training" for those of
                the pictures to train on.
            cache: where the decoded bytes are kept: in memory, or in a file in the user's cache that is mapped into
                memory, by this and every later run until a file, the size or the split changes.
            skip_bad: leave out files that are no whole picture, with a warning, rather than refuse them all by name.
            augment: `(inputs, keys) -> inputs`, of training batches; see `clearloop.data.augment`.
            targets: "inputs" for a net that gives back what goes in: the target of a picture is the picture in [0, 1]
                as float32 (B, C * H * W), before augmentation, so that a net learns to undo that. Folders of classes
                are then not needed: all pictures below `path`, or below `train` and `valid`, are taken.
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
        check_targets(targets, normalize)
        root = Path(path).absolute()
        list_them = list_pictures if targets == "labels" else list_inputs
        listing = list_them(root, train, valid, valid_share, seed if split_seed is None else split_seed)
        warn_of_shared(listing)
        pictures = read_pictures(root, listing.files, listing.misplaced, as_size(size), grey, cache, skip_bad, workers)
        transform = pictures_as_targets if targets == "inputs" else normalizing(normalize, pictures, listing.train)
        return cls._of(listing, pictures, transform, batch_size, valid_batch_size, seed, augment)

    @classmethod
    def _of(
        cls,
        listing: Listing,
        pictures: Pictures,
        transform: Transform | None,
        batch_size: int,
        valid_batch_size: int | None,
        seed: int,
        augment: Augment | None,
    ) -> ImageDataLoaders:
        labels = torch.tensor(listing.labels)[pictures.kept]
        cut = int((pictures.kept < listing.train).sum())  # what was left out was not in the files after it
        reconstructs = transform is pictures_as_targets
        check_all_there(listing, labels[:cut].tolist(), labels[cut:].tolist(), reconstructs)
        if not listing.classes:
            labels = labels.new_empty(len(labels), 0)  # no label: nothing to colour a plot by
        transform = transform or scaling_of(pictures.pixels)
        training = TensorDataset(pictures.pixels[:cut], labels[:cut], transform=transform)
        held = TensorDataset(pictures.pixels[cut:], labels[cut:], transform=transform)
        height, width = pictures.pixels.shape[-2:]
        return cls(
            DataLoader(training, batch_size, shuffle=True, seed=seed, augment=augment),
            DataLoader(held, 2 * batch_size if valid_batch_size is None else valid_batch_size),
            classes=None if reconstructs else listing.classes,
            image_size=(height, width),
            normalize=transform if isinstance(transform, Normalize) else None,
        )


def pictures_as_targets(batch: Batch) -> Batch:
    """Bytes to floats in [0, 1], for a net that gives back what goes in: (B, C, H, W) and, as targets, (B, C * H * W).

    >>> pictures_as_targets((torch.full((2, 3, 4, 5), 255, dtype=torch.uint8), None))[1].shape
    torch.Size([2, 60])
    """
    images, _ = scaling_of(batch[0])(batch)
    return images, images.flatten(1)


# -- arguments ---------------------------------------------------------------------------------------------------------


def check_options(valid_share: float | None, size: Size | None, cache: str, workers: int | None) -> None:
    """Raise ConfigError for arguments that cannot work, before any file is opened."""
    if valid_share is not None and not (isinstance(valid_share, (int, float)) and 0 < valid_share < 1):
        raise ConfigError(f"valid_share must be a share in (0, 1), got {valid_share!r}")
    sides = as_size(size) or (1, 1)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(f"size must be a whole number of pixels or (height, width), got {size!r}")
    if cache not in ("memory", "disk"):
        raise ConfigError(f'cache must be "memory" or "disk", got {cache!r}')
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ConfigError(f"workers must be a whole number of at least 1, or None for one a core; got {workers!r}")


def check_targets(targets: str, normalize: Normalization) -> None:
    """Raise ConfigError for targets that there are not, or that no model with bounded outputs can give."""
    if targets not in get_args(Targets):
        raise ConfigError(f'targets must be "labels" or "inputs", got {targets!r}')
    if targets == "inputs" and normalize is not None:
        raise ConfigError(
            'targets="inputs" needs pictures in [0, 1], which autoencoders give back, got normalize too; leave it out'
        )


def as_size(size: Size | None) -> tuple[int, int] | None:
    """(height, width) of a size that may be one number."""
    return None if size is None else tuple(size) if isinstance(size, (tuple, list)) else (size, size)  # type: ignore[return-value]


def normalizing(normalize: Normalization, pictures: Pictures, train: int) -> Normalize | None:
    """The transform that an argument asks for; the first `train` files are those to train on.

    Raises: ConfigError where its channels are not those of the pictures; DataError for pictures without any spread.
    """
    if normalize is None:
        return None
    if isinstance(normalize, str) and normalize == "training":
        return statistics(pictures.pixels[: int((pictures.kept < train).sum())])
    if isinstance(normalize, str):
        if normalize != "imagenet":
            raise ConfigError(f'normalize must be "imagenet", "training", (mean, std) or None, got {normalize!r}')
        made = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    elif not isinstance(normalize, (list, tuple)) or len(normalize) != 2:
        raise ConfigError(f'normalize must be "imagenet", "training", (mean, std) or None, got {normalize!r}')
    else:
        made = Normalize(*map(numbers, normalize))
    channels = pictures.pixels.shape[1] if pictures.pixels.ndim == 4 else 1
    if len(made.mean) != channels:
        remedy = "; grey=False makes three channels of grey pictures" if channels == 1 else ""
        raise ConfigError(f"mean and std are of {len(made.mean)} channels, the pictures have {channels}{remedy}")
    return made


def numbers(part: Any) -> list[float]:
    """One number a channel; one alone is that of the one channel. Raises ConfigError for what are no numbers."""
    try:
        return [float(part)] if isinstance(part, (int, float)) else [float(number) for number in part]
    except (TypeError, ValueError):
        raise ConfigError(f"mean and std must be numbers, one a channel, got {part!r}") from None


# -- what is in a folder -----------------------------------------------------------------------------------------------


def list_pictures(root: Path, train: str, valid: str, valid_share: float | None, split_seed: int) -> Listing:
    """The files to decode, in an order that depends on their names and the split alone.

    Raises: DataError for a folder that is not there or holds no pictures, fewer than two classes, or classes to
    validate that are not trained.
    """
    top, apart = training_folder(root, train)
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
    return listed(classes, kept, held, misplaced)


def list_inputs(root: Path, train: str, valid: str, valid_share: float | None, split_seed: int) -> Listing:
    """The same for pictures that are their own targets: all there are, with classes where each lies in one's folder.

    Raises: DataError for a folder that is not there, or too few pictures to train on and validate with.
    """
    top, apart = training_folder(root, train)
    found, loose = class_files(top)
    labelled = len(found) > 1 and not loose
    if not apart:
        check_no_parts(root, found, train, valid)
    if apart and valid_share is None:
        held, beside = class_files(valid_folder(root, valid))
        labelled = labelled and not beside and set(held) <= set(found)
        if not labelled:
            held = together(held, beside)
    else:
        held = None
        labelled = labelled and all(len(files) > 1 for files in found.values())
    kept = found if labelled else together(found, loose)
    counts = [sum(map(len, part.values())) for part in (kept, held) if part is not None]
    if min(counts) < (2 if held is None else 1):
        where = f"{top}, one of them to be held out" if held is None else f"{top}, and in {root / valid}"
        raise DataError(f"expected pictures in {where}; got {' and '.join(map(str, counts))}; add some")
    if held is None:
        kept, held = split(kept, HELD_OUT if valid_share is None else valid_share, split_seed, top)
    return listed(sorted(kept) if labelled else [], kept, held, [])


def together(found: dict[str, list[Path]], loose: list[Path]) -> dict[str, list[Path]]:
    """All files of a folder as those of one class without a name."""
    return {"": [*loose, *(file for files in found.values() for file in files)]}


def training_folder(root: Path, train: str) -> tuple[Path, bool]:
    """The folder with what is to be trained on, and whether it is another than `root`. Raises DataError."""
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of pictures, got {'a file' if root.exists() else 'no such folder'}")
    apart = (root / train).is_dir()
    return root / train if apart else root, apart


def listed(
    classes: list[str], kept: dict[str, list[Path]], held: dict[str, list[Path]], misplaced: list[Path]
) -> Listing:
    """Files by class, to train on and to validate with, in a row."""
    files, labels = [], []
    for part in (kept, held):
        for label, name in enumerate(classes or [""]):
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
    folder = valid_folder(root, valid)
    found, misplaced = class_files(folder)
    if not found:
        raise DataError(f"{folder}: expected a folder of pictures for each class, got none; or pass valid_share=0.2")
    return found, misplaced


def valid_folder(root: Path, valid: str) -> Path:
    """The folder of what is to be validated with. Raises DataError where there is none."""
    folder = root / valid
    if not folder.is_dir():
        others = [entry.name for entry in entries(root) if entry.is_dir()]
        raise DataError(
            f"{folder}: expected the pictures to validate with, got no such folder (there are: {some(others)}); name "
            "it, valid=..., or hold out a share of the others: valid_share=0.2"
        )
    return folder


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


def check_all_there(listing: Listing, trained: list[int], held: list[int], reconstructs: bool) -> None:
    """Refuse classes of which no picture could be read; warn of those that validation will not see."""
    if reconstructs:
        if not trained or not held:
            what = "to validate with" if trained else "to train on"
            raise DataError(f"no picture {what} could be read: expected one or more; mend or replace the files")
        return
    seen, validated = set(trained), set(held)
    lost = [name for label, name in enumerate(listing.classes) if label not in seen]
    if lost or not held:
        what = f"of the class {lost[0]!r}" if lost else "to validate with"
        raise DataError(f"no picture {what} could be read: expected one or more; mend or replace the files")
    unseen = [name for label, name in enumerate(listing.classes) if label not in validated]
    if unseen:
        warn(f"there are no pictures to validate with of {some(unseen)}")


def warn_of_shared(listing: Listing) -> None:
    """Warn of files that are both trained on and validated with, by whatever links: validation then says too much."""
    trained = {identity(file) for file in listing.files[: listing.train]} - {None}
    shared = [str(file) for file in listing.files[listing.train :] if identity(file) in trained]
    if shared:
        count = f"{len(shared)} of {len(listing.files) - listing.train} files"
        warn(f"{count} to validate with are trained on, too: {printable(some(shared, 3))}; hold others out")


def identity(file: Path) -> tuple[int, int] | None:
    """What two names of one file have in common; None for a file that is not there."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else None


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names of a list, for messages.

    >>> some(["a", "b"]), some([], 2), some(["a", "b", "c"], 2)
    ('a, b', 'none', 'a, b and 1 more')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"

"""The data of a command: mnist, folders, tables, files of arrays."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearloop.commands.choices import FOUR_ARRAYS, TWO_ARRAYS, Augmentation, Form
from clearloop.commands.groups import Net, Source, check_options
from clearloop.commands.running import quietly_warned
from clearloop.commands.speech import printable, say
from clearloop.errors import ConfigError, DataError

if TYPE_CHECKING:
    from clearloop.data.loaders import DataLoaders

KNOWN = "mnist, a folder of IDX files, of pictures or of x.npy and y.npy, a .csv or .parquet table, or an .npz file"
LOOKED_THROUGH = 2**30  # bytes of an .npy file that are searched for NaN before training begins
CROP, DEGREES, ERASE = 0.1, 10, 0.1  # how far --augment goes: of the shorter side, either way, of the area
REMEDIES = {  # what errors advise in Python, as patterns, and what does the same on the command line
    r"pass skip_bad=True": "pass --skip-bad",
    r"pass size=128, say, or size=\(height, width\)": "pass --size 128, say",
    r'pass cache="disk", or a smaller size': "pass a smaller --size",
    r"pass valid_share=0.2": "pass --valid 0.2",
    r"name it, valid=..., or hold out a share of the others: valid_share=0.2": "make it, or hold out some: --valid 0.2",
    r"; say which is which: train=.*": "; call them train and valid",
    r"; if '.*' is a class itself, pass .*": "",
    r"grey=False makes three channels of grey pictures": "--normalize training counts those that are there",
    r"leave out normalize$": "leave out --normalize",
    r"for kind='binary'(.*)use kind='classes'": r"for --kind binary\1use --kind classes",
    r"or kind='regression' for": "or --kind regression for",
    r", or use stratify=True": "",
    r"name it as categorical to take it": "--categorical takes it",
}


def open_data(source: Source, net: Net, quiet: bool = False) -> DataLoaders:
    """The loaders for a DATA argument, once all options are known to be of use with it and with the net.

    Raises: DataError for what is not there or not readable; ConfigError for options that are of no use.
    """
    path = Path(source.data)
    form = source.form
    if form is None or form is not Form.mnist and not path.exists():
        said = "put it into a folder with x.npy and y.npy; " if path.suffix == ".npy" else ""
        said = said if path.exists() else "no such file or folder; "
        raise DataError(f"{source.data}: {said}expected {KNOWN}")
    check_options(source, net)
    with advice_for_the_command_line():
        dls: DataLoaders = quietly_warned(lambda: OPENERS[form](source, net))
    if source.augments:
        data: Any = dls.train.dataset
        shape = tuple(data[:1][0].shape[1:])
        if len(shape) != 3:
            raise ConfigError(f"--augment is for pictures, got inputs of shape {shape} in {source.data}")
    for note in getattr(dls, "notes", ()):
        say(printable(on_the_command_line(note)), quiet)
    return dls


def open_mnist(source: Source, net: Net) -> DataLoaders:
    """The loaders of the embedded digits; where no label is looked at, the test images may validate."""
    from clearloop.data.loaders import DataLoaders

    if net.reconstructs:
        return DataLoaders.mnist(source.batch_size, seed=source.seed, targets="inputs", test=True, **augmented(source))
    return DataLoaders.mnist(source.batch_size, seed=source.seed, **augmented(source))


def open_idx(source: Source, net: Net) -> DataLoaders:
    """The loaders for a folder of IDX files."""
    from clearloop.data.loaders import DataLoaders

    folder = str(Path(source.data).resolve())
    return DataLoaders.idx(
        folder, source.batch_size, seed=source.seed, valid=source.held, **augmented(source), **targets_of(net)
    )


def open_pictures(source: Source, net: Net) -> DataLoaders:
    """The loaders for a folder of pictures, a folder a class; autoencoders need no classes."""
    from clearloop.data.images import ImageDataLoaders

    return ImageDataLoaders.from_folder(
        str(Path(source.data).resolve()), valid_share=source.share, seed=source.seed, batch_size=source.batch_size,
        size=source.size, grey=True if source.grey else None, skip_bad=source.skip_bad,
        normalize=None if source.normalize is None else source.normalize.value, **augmented(source), **targets_of(net),
    )  # fmt: skip


def open_npz(source: Source, net: Net) -> DataLoaders:
    """The loaders for an archive of arrays."""
    from clearloop.data.loaders import DataLoaders

    path = Path(source.data).resolve()
    if source.valid is not None and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            refuse_share(source, {name.removesuffix(".npy") for name in archive.namelist()})
    return DataLoaders.npz(str(path), source.batch_size, seed=source.seed, valid=source.held, **augmented(source))


def open_npy(source: Source, net: Net) -> DataLoaders:
    """The loaders for a folder of .npy files, which stay on the disk."""
    from clearloop.data.loaders import DataLoaders

    folder = Path(source.data).resolve()
    there = {path.stem for path in folder.glob("*.npy")}
    names = next((names for names in (FOUR_ARRAYS, TWO_ARRAYS) if set(names) <= there), None)
    if names is None:
        wanted = ", ".join(f"{name}.npy" for name in FOUR_ARRAYS)
        found = ", ".join(sorted(f"{name}.npy" for name in there))
        raise DataError(f"{source.data}: expected x.npy and y.npy, or {wanted}; got {found}")
    refuse_share(source, there)
    x_train, y_train, x_valid, y_valid = [*(str(folder / f"{name}.npy") for name in names), None, None][:4]
    assert x_train is not None
    assert y_train is not None
    dls = DataLoaders.npy(
        x_train, y_train, x_valid, y_valid, source.batch_size, seed=source.seed, valid=source.held, **augmented(source)
    )
    for file in (x_train, y_train, x_valid, y_valid):
        if file is not None and Path(file).stat().st_size <= LOOKED_THROUGH:
            require_finite_rows(file)
    return dls


def require_finite_rows(path: str) -> None:
    """Raise DataError for NaN or infinity in a file, which training would come upon sooner or later."""
    import torch

    from clearloop.data.mapped import MappedDataset, map_npy

    row = 0
    for rows in MappedDataset(map_npy(path)).columns(0):
        bad = ~torch.isfinite(rows.flatten(1) if rows.ndim > 1 else rows[:, None]).all(dim=1)
        if bool(bad.any()):
            found = row + int(bad.int().argmax())
            raise DataError(f"{path}: row {found} holds NaN or infinity; remove or fill such rows first")
        row += len(rows)


def open_table(source: Source, net: Net) -> DataLoaders:
    """The loaders for a table, with lines about its target and what was left out of it."""
    from clearloop.data.tables import TableDataLoaders

    if source.target is None:
        raise ConfigError(f"{source.data} is a table: say which column is to be predicted, as in --target price")
    return TableDataLoaders.from_file(
        str(Path(source.data).resolve()), source.target, source.batch_size,
        kind=None if source.kind is None else source.kind.value, ignore=list(source.ignore or ()),
        categorical=list(source.categorical or ()),
        valid_share=0.2 if source.share is None else source.share, seed=source.seed,
    )  # fmt: skip


OPENERS = {
    Form.mnist: open_mnist,
    Form.idx: open_idx,
    Form.pictures: open_pictures,
    Form.table: open_table,
    Form.npz: open_npz,
    Form.npy: open_npy,
}


def refuse_share(source: Source, names: set[str]) -> None:
    """Raise ConfigError for a --valid where there are arrays to validate with."""
    if source.valid is not None and set(FOUR_ARRAYS) <= names:
        raise ConfigError(f"{source.data} has its own validation set, x_valid and y_valid: leave out --valid")


def targets_of(net: Net) -> dict[str, Any]:
    """The argument of loaders that says what a net is to give; none for labels, as recipes always had it."""
    return {"targets": "inputs"} if net.reconstructs else {}


def augmented(source: Source) -> dict[str, Any]:
    """The argument of loaders that --augment stands for; none where it was not given."""
    if not source.augments:
        return {}
    from clearloop.data.augment import compose, random_crop, random_erase, random_flip, random_rotate

    made = {
        Augmentation.flip: random_flip,
        Augmentation.crop: random_crop(CROP),
        Augmentation.rotate: random_rotate(DEGREES),
        Augmentation.erase: random_erase(ERASE),
    }
    chosen = [made[name] for name in source.augments]
    return {"augment": chosen[0] if len(chosen) == 1 else compose(*chosen)}


@contextlib.contextmanager
def advice_for_the_command_line() -> Iterator[None]:
    """Errors advise options of the command line in place of arguments in Python."""
    try:
        yield
    except (DataError, ConfigError) as error:
        raise type(error)(on_the_command_line(str(error))) from error


def on_the_command_line(message: str) -> str:
    """What is said of arguments in Python, said of options.

    >>> on_the_command_line("1 file cannot be trained on; remove it, or pass skip_bad=True")
    '1 file cannot be trained on; remove it, or pass --skip-bad'
    """
    for python, option in REMEDIES.items():
        message = re.sub(python, option, message)
    return message

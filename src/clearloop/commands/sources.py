"""The data of a command: mnist, folders, tables, files of arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clearloop.commands.choices import TABLES, Model, Source, is_folder_of_pictures
from clearloop.errors import ConfigError

if TYPE_CHECKING:
    from clearloop.data.loaders import DataLoaders


def pick_model(model: Model, data: str) -> Model:
    """The model that `auto` stands for: mlp for arrays and tables, resnet18 for folders of pictures, else cnn."""
    if model is not Model.auto:
        return model
    if Path(data).suffix in (".npz", *TABLES):
        return Model.mlp
    return Model.resnet18 if is_folder_of_pictures(Path(data)) else Model.cnn


def open_data(source: Source, targets: Literal["labels", "inputs"] = "labels") -> DataLoaders:
    """The loaders for a DATA argument. Raises DataError for what is not there or not readable."""
    from clearloop.data.loaders import DataLoaders
    from clearloop.errors import DataError

    source.check()
    data, batch_size, seed, held = source.data, source.batch_size, source.seed, source.held
    path = Path(data)
    if data == "mnist":
        if held is not None:
            raise ConfigError("mnist has its own validation set of 10,000 images: leave out --valid")
        if targets == "inputs":  # no label is looked at, so the test images may validate
            return DataLoaders.mnist(batch_size, seed=seed, targets=targets, test=True)
        return DataLoaders.mnist(batch_size, seed=seed)
    if is_folder_of_pictures(path):
        return open_pictures(source, targets)
    if path.is_dir():
        folder = str(path.resolve())
        if targets == "inputs":
            return DataLoaders.idx(folder, batch_size, seed=seed, valid=held, targets=targets)
        return DataLoaders.idx(folder, batch_size, seed=seed, valid=held)
    if path.is_file() and path.suffix == ".npz":
        return DataLoaders.npz(str(path.resolve()), batch_size, seed=seed, valid=held)
    if path.is_file() and path.suffix in TABLES:
        return open_table(source)
    known = "mnist, a folder of IDX files or of pictures, a .csv or .parquet table, or an .npz file"
    raise DataError(f"{data}: {'' if path.exists() else 'no such file or folder; '}expected {known}")


def open_pictures(source: Source, targets: str) -> DataLoaders:
    """The loaders for a folder of pictures, a folder a class."""
    from clearloop.data.images import ImageDataLoaders

    if targets == "inputs":
        raise ConfigError("autoencoders take mnist, a folder of IDX files, or an .npz file, got a folder of pictures")
    return ImageDataLoaders.from_folder(
        str(Path(source.data).resolve()), valid_share=source.share, seed=source.seed, batch_size=source.batch_size,
        size=source.size, grey=True if source.grey else None, skip_bad=source.skip_bad,
    )  # fmt: skip


def open_table(source: Source) -> DataLoaders:
    """The loaders for a table, with a line about its target and what was left out of it."""
    from clearloop.data.tables import TableDataLoaders

    if source.target is None:
        raise ConfigError(f"{source.data} is a table: say which column is to be predicted, as in --target price")
    share = 0.2 if source.share is None else source.share
    dls = TableDataLoaders.from_file(
        str(Path(source.data).resolve()), source.target, source.batch_size,
        kind=None if source.kind is None else source.kind.value, valid_share=share, seed=source.seed,
    )  # fmt: skip
    print(*dls.notes, sep="\n")
    return dls

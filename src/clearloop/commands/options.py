"""Options and arguments of the commands, one by one, and commands made of groups of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from clearloop.commands.choices import (
    Augmentation,
    Bound,
    Fast,
    Kind,
    Log,
    Model,
    Optimizer,
    Precision,
    Shape,
    Statistics,
)

RUNG_HELP = "1: all by hand; 2: parameters(); 3: own optimizer; 4: torch's; 5: Dataset; 6: DataLoaders; 7: fit"
Data = Annotated[
    str,
    typer.Argument(
        help="mnist, a folder of IDX files, of pictures or of x.npy and y.npy, a .csv or .parquet table, an .npz file"
    ),
]
Run = Annotated[Path, typer.Argument(help="a run's folder, such as runs/mnist-1")]
RunFolder = Annotated[Path | None, typer.Option("--out", "-o", help="the run's folder; runs/NAME-1, -2, … if left out")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; they decide speed and the last bits")]
Seed = Annotated[int, typer.Option(min=0, help="of weights, batch order and dropout")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", help="samples a batch")]


def model_named(text: str) -> str:
    """A Model, or the FILE.py:NAME of one's own as it was written."""
    if text in [*Model]:
        return Model(text)
    if ":" not in text:
        known = ", ".join(repr(model.value) for model in Model)
        raise typer.BadParameter(f"{text!r} is not one of {known}, and no FILE.py:NAME.")
    return text


ModelName = Annotated[
    str,
    typer.Option(
        parser=model_named,
        metavar=f"[{'|'.join(Model)}|FILE.py:NAME]",
        help="auto: cnn for images, resnet18 for folders of pictures, mlp else; or a class or function of your own",
    ),
]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="an argument of --model FILE.py:NAME; may be given again"),
]
OwnModel = Annotated[
    str | None,
    typer.Option("--model", metavar="FILE.py:NAME", help="the model of your own that the run was trained with"),
]
Changed = Annotated[bool, typer.Option("--changed", help="take the file of --model though it has changed since")]
Target = Annotated[str | None, typer.Option(help="tables: the column to predict")]
KindName = Annotated[Kind | None, typer.Option(help="tables: what the target is; seen from its values if left out")]
Ignore = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="tables: a column to leave out; may be given again")
]
Categorical = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN", help="tables: a column whose numbers are names, such as postcodes; may be given again"
    ),
]
ClassWeights = Annotated[
    bool, typer.Option("--class-weights", help="tables of classes: all of them weigh the same in the loss")
]
Size = Annotated[int | None, typer.Option(min=1, help="folders of pictures: make them all squares of this side")]
Grey = Annotated[bool, typer.Option("--grey", help="folders of pictures: without their colours")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="folders of pictures: leave out files that are none")]
Augment = Annotated[
    list[str] | None,
    typer.Option(
        metavar="|".join(Augmentation), help="pictures: vary those to train on; several with commas, in that order"
    ),
]
Normalized = Annotated[
    Statistics | None,
    typer.Option(help="folders of pictures: mean 0, spread 1, counted in those to train on or in ImageNet"),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="resnets: begin with the weights of this .safetensors or .pth file, with a new last layer"),
]
Hidden = Annotated[
    str, typer.Option(help="mlp, autoencoder: widths of the hidden layers; cnn: feature maps. 64 or 16,32,64")
]
Dropout = Annotated[float | None, typer.Option(help="mlp: share of hidden units left out of a step")]
Code = Annotated[
    int | None, typer.Option(min=1, help="autoencoders: how many numbers an item is squeezed into, 32 if left out")
]
Sparse = Annotated[float | None, typer.Option(help="autoencoders: weight of the mean size of the code")]
Output = Annotated[Bound | None, typer.Option(help="autoencoders: what bounds the outputs, tanh if left out")]
ReconstructionsEvery = Annotated[
    int | None, typer.Option(min=1, help="autoencoders: how many epochs lie between pictures of what they make; 10")
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", "-n", help="passes over the training data; 4, and 20 for autoencoders")
]
LearningRate = Annotated[
    float | None, typer.Option(help="the largest; 0.01 for cnn, 0.001 for autoencoders, 0.003 else; sgd 0.1")
]
OptimizerName = Annotated[Optimizer | None, typer.Option(help="the optimizer; adamw, and adam for autoencoders")]
ShapeName = Annotated[Shape | None, typer.Option(help="of the learning rate; one-cycle, and constant for autoencoders")]
OneCycle = Annotated[bool, typer.Option("--one-cycle", help="the same as --schedule one-cycle")]
WeightDecay = Annotated[float | None, typer.Option(help="the optimizer's; its own default if left out")]
Momentum = Annotated[float | None, typer.Option(help="of sgd and momentum")]
Clip = Annotated[float | None, typer.Option(help="largest norm of the gradients")]
Accumulate = Annotated[int, typer.Option(help="batches a step")]
Average = Annotated[float | None, typer.Option(help="average the weights with this decay, such as 0.99")]
SyncBatchNorm = Annotated[
    bool, typer.Option("--sync-batch-norm", help="torchrun on GPUs: batch norm over the samples of all processes")
]
Patience = Annotated[int | None, typer.Option(help="stop after so many epochs without a better valid_loss")]
PrecisionName = Annotated[Precision | None, typer.Option(help="of the forward pass (autocast)")]
FastName = Annotated[
    Fast, typer.Option(help="whole steps compiled: equal to eager ones up to rounding; auto: where that saves time")
]
Every = Annotated[str, typer.Option(help="save every so many seconds (60s) or steps (100)")]
Keep = Annotated[int, typer.Option(help="newest checkpoints to keep, besides the best")]
Logs = Annotated[
    list[Log] | None,
    typer.Option("--log", help="write the numbers there too, beside the run's history; may be given again"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print the result only")]
Valid = Annotated[float | None, typer.Option(help="share or number of training samples to hold out for validation")]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command that has every field of its dataclass parameters as an option of its own, with the field's default.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Size:
    ...     width: int
    ...     height: int = 3
    >>> def area(size: Size) -> None:
    ...     print(size.width * size.height)
    >>> inspect.signature(grouped(area))
    <Signature (*, width: int, height: int = 3) -> None>
    >>> grouped(area)(width=2)
    6
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        kept = parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY)
        parameters += [kept] if group is None else options_of(group)

    @functools.wraps(command)
    def with_groups(**given: Any) -> None:
        for name, group in groups.items():
            values = {field.name: given.pop(field.name) for field in fields(group) if field.name in given}
            given[name] = group(**values)
        command(**given)

    required_first = sorted(parameters, key=lambda parameter: parameter.default is not parameter.empty)
    with_groups.__signature__ = inspect.Signature(required_first, return_annotation=None)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_groups


def options_of(group: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters of a function."""
    hints = get_type_hints(group, include_extras=True)

    def default(field: Field[Any]) -> Any:
        return inspect.Parameter.empty if field.default is MISSING else field.default

    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default(field), annotation=hints[field.name]
        )
        for field in fields(group)
    ]

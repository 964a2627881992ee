"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearloop.commands.choices import Model, Optimizer, Shape

RUNG_HELP = "1: all by hand; 2: parameters(); 3: own optimizer; 4: torch's; 5: Dataset; 6: DataLoaders; 7: fit"
Data = Annotated[
    str,
    typer.Argument(help="mnist, a folder of IDX files or of pictures, a .csv or .parquet table, an .npz of x and y"),
]
Run = Annotated[Path, typer.Argument(help="a run's folder, such as runs/mnist-1")]
RunFolder = Annotated[Path | None, typer.Option("--out", "-o", help="the run's folder; runs/NAME-1, -2, … if left out")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; they decide speed and the last bits")]
Seed = Annotated[int, typer.Option(min=0, help="of weights, batch order and dropout")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", help="samples a batch")]
ModelName = Annotated[Model, typer.Option(help="auto: cnn for images, resnet18 for folders of pictures, mlp else")]
Hidden = Annotated[str, typer.Option(help="mlp: widths of the hidden layers; cnn: feature maps. 64 or 16,32,64")]
Epochs = Annotated[
    int | None, typer.Option("--epochs", "-n", help="passes over the training data; 4, and 20 for autoencoders")
]
LearningRate = Annotated[
    float | None, typer.Option(help="the largest; 0.01 for cnn, 0.001 for autoencoders, 0.003 else; sgd 0.1")
]
OptimizerName = Annotated[Optimizer | None, typer.Option(help="the optimizer; adamw, and adam for autoencoders")]
ShapeName = Annotated[Shape | None, typer.Option(help="of the learning rate; one-cycle, and constant for autoencoders")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print the result only")]
Valid = Annotated[float | None, typer.Option(help="share or number of training samples to hold out for validation")]

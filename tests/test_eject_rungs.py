"""Every recipe of the grid, printed on every rung that can express it, is the run again, to the bit."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim import lr_scheduler

import clearloop as cl
from clearloop import models, schedules
from clearloop.data import augment
from clearloop.eject import eject
from clearloop.errors import EjectError
from clearloop.printing.printer import WIDTH
from cli_tools import process, write_idx
from eject_tools import fitted, printed_by, run_programs

PACKAGE = Path(cl.__file__).parent

MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "linear": lambda: models.linear(784, 10),
    "mlp": lambda: models.mlp(784, 8, 10),
    "autoencoder": lambda: models.autoencoder(20, 8, 3),
    "cnn": lambda: models.cnn(10, 1, (4,)),
}
OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
SCHEDULES: dict[str, Any] = {
    "constant": None,
    "one-cycle": schedules.one_cycle(0.05, 6),
    "StepLR": functools.partial(lr_scheduler.StepLR, step_size=1, gamma=0.3),
    "plateau": functools.partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.5, factor=0.3),
}
GRID = list(itertools.product(MODELS, OPTIMIZERS, SCHEDULES))
OPTIONS: dict[str, dict[str, Any]] = {  # by what they show
    "clipping": {"clip": 0.3},
    "accumulation": {"accumulate": 3, "clip": 0.3, "schedule": schedules.one_cycle(0.05, 4)},
    "accumulation with dropout": {"accumulate": 2, "model": lambda: models.mlp(784, 8, 10, dropout=0.4)},
    "augmentation": {"augment": augment.random_shift(2)},
    "another augmentation": {"augment": augment.random_flip, "accumulate": 2},
    "dropout": {"model": lambda: models.mlp(784, 12, 8, 10, dropout=0.3)},
    "weight decay": {"opt_func": functools.partial(torch.optim.SGD, weight_decay=0.1)},
    "weight decay and momentum": {"opt_func": functools.partial(torch.optim.SGD, momentum=0.5, weight_decay=0.1)},
    "Nesterov": {"opt_func": functools.partial(torch.optim.SGD, momentum=0.5, nesterov=True, weight_decay=0.01)},
    "Adam with options": {
        "opt_func": functools.partial(torch.optim.Adam, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    },
    "AdamW with options": {"opt_func": functools.partial(torch.optim.AdamW, betas=(0.8, 0.9), weight_decay=0.3)},
    "milestones": {
        "schedule": functools.partial(lr_scheduler.MultiStepLR, milestones=[1, 1, 2], gamma=0.3),
        "epochs": 4,
    },
    "exponential": {"schedule": functools.partial(lr_scheduler.ExponentialLR, gamma=0.5)},
    "plateau with options": {
        "schedule": functools.partial(
            lr_scheduler.ReduceLROnPlateau,
            mode="min",
            patience=0,
            threshold=0.9,
            threshold_mode="abs",
            cooldown=1,
            min_lr=0.002,
        ),
        "epochs": 5,
    },
    "a sigmoid": {"model": lambda: models.autoencoder(20, 8, 3, output="sigmoid")},
    "no metrics": {"metrics": []},
    "pictures given back": {"model": lambda: models.autoencoder(784, 6, 2), "targets": "inputs"},
    "another seed": {"seed": 5},
}
OTHER_MODELS: dict[str, dict[str, Any]] = {  # what rung 1 alone cannot express
    "pictures given back by convolutions": {
        "model": lambda: models.conv_autoencoder(3, widths=(2,)),
        "targets": "inputs",
    },
    "a sparse code": {
        "model": lambda: models.autoencoder(784, 6, 2, with_code=True),
        "loss_func": functools.partial(models.sparse_mse, penalty=0.1),
        "metrics": [cl.mse],
        "targets": "inputs",
    },
}
LATER: dict[str, dict[str, Any]] = {  # what rungs 4 to 7 alone can express
    "a scheduler by steps": {"schedule": functools.partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=50)},
    "restarts": {"schedule": functools.partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=2)},
    "cosine by epochs": {"schedule": functools.partial(lr_scheduler.CosineAnnealingLR, T_max=3)},
    "cycles": {"schedule": functools.partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3)},
    "RMSprop": {"opt_func": torch.optim.RMSprop},
    "amsgrad": {"opt_func": functools.partial(torch.optim.Adam, amsgrad=True)},
    "dampening": {"opt_func": functools.partial(torch.optim.SGD, momentum=0.9, dampening=0.5)},
    "a plateau of what should grow": {"schedule": functools.partial(lr_scheduler.ReduceLROnPlateau, mode="max")},
}


def rungs_of(name: str) -> range:
    """The rungs that can express a recipe, and must."""
    if name in LATER:
        return range(4, 8)
    return range(2 if name.startswith("cnn") or name in OTHER_MODELS else 1, 8)


def recipes() -> dict[str, dict[str, Any]]:
    """Arguments of `fitted`, by name."""
    grid = {
        " ".join(point): {"model": MODELS[point[0]], "opt_func": OPTIMIZERS[point[1]], "schedule": SCHEDULES[point[2]]}
        for point in GRID
    }
    return {**grid, **OPTIONS, **OTHER_MODELS, **LATER}


RECIPES = recipes()


@dataclasses.dataclass(frozen=True)
class Printed:
    """A run, and on each rung its program and what that printed."""

    expected: list[str]
    paths: dict[int, Path]
    output: dict[int, list[str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of IDX files, and rows to be reconstructed."""
    folder = tmp_path_factory.mktemp("data")
    write_idx(folder / "idx")
    x = np.random.default_rng(0).random((300, 20), dtype=np.float32)
    np.savez(folder / "rows.npz", x_train=x[:200], y_train=x[:200], x_valid=x[200:], y_valid=x[200:])
    return folder


def train(data: Path, run: Path, options: dict[str, Any]) -> tuple[Path, cl.Learner]:
    """A run of two epochs in steps of 128 samples; which data it takes is seen from its model."""
    options = {"opt_func": torch.optim.SGD, "epochs": 2, **options}
    images, changes, targets = True, options.pop("augment", None), options.pop("targets", "labels")
    model = options.get("model", MODELS["mlp"])
    if type(model()[0]) is torch.nn.Sequential:  # an autoencoder
        images, options = targets == "inputs", {"loss_func": F.mse_loss, "metrics": [cl.mse], **options}
    source = data / ("idx" if images else "rows.npz")

    def dls(_: Path) -> cl.DataLoaders:
        if images:
            return cl.DataLoaders.idx(source, 128, seed=options.get("seed", 0), augment=changes, targets=targets)
        return cl.DataLoaders.npz(source, 128, seed=4)

    return source, fitted(data, run, dls=dls, **{**options, "model": model})


@pytest.fixture(scope="module")
def printed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Printed]:
    """Every recipe trained, printed on its rungs, removed, and its programs run."""
    folder = tmp_path_factory.mktemp("rungs")
    expected, commands = {}, {}
    for number, (name, options) in enumerate(RECIPES.items()):
        run = folder / f"run-{number}"
        source, _ = train(data, run, options)
        expected[name] = printed_by(run)
        for rung in rungs_of(name):
            commands[name, rung] = [eject(run, rung).write(folder / f"program_{number}_{rung}.py"), "--data", source]
        shutil.rmtree(run)
    output = dict(zip(commands, run_programs(commands.values(), folder), strict=True))
    return {
        name: Printed(
            lines,
            {rung: commands[name, rung][0] for rung in rungs_of(name)},
            {rung: output[name, rung] for rung in rungs_of(name)},
        )
        for name, lines in expected.items()
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_rung_prints_the_losses_of_the_run_and_ends_in_the_same_weights(printed: Any, name: str) -> None:
    assert len(printed[name].expected) > 2
    for rung in rungs_of(name):
        assert printed[name].output[rung] == printed[name].expected, f"rung {rung}"


def test_ruff_finds_nothing_in_the_programs(printed: dict[str, Printed]) -> None:
    paths = [path for one in printed.values() for path in one.paths.values()]
    assert len(paths) > 500
    done = process("-m", "ruff", "check", "--isolated", *paths)
    assert done.code == 0, done.out[:3000]
    rules = "E,F,W,I,B,UP,SIM,C4,PIE,RET,ARG,PLW,ERA,D101,D103"
    done = process("-m", "ruff", "check", "--isolated", "--select", rules, "--line-length", WIDTH, *paths)
    assert done.code == 0, done.out[:3000]
    done = process("-m", "ruff", "format", "--isolated", "--line-length", WIDTH, "--diff", *paths)
    assert done.code == 0, done.out[:3000]


REFUSED = {  # by what they show: a recipe, and what a rung says of it
    "a scheduler by steps": (2, "rung 2 asks a scheduler after epochs alone, got OneCycleLR after steps; see rungs 4"),
    "cosine by epochs": (1, "rung 1 has StepLR, MultiStepLR, ExponentialLR and ReduceLROnPlateau by hand; got Cosine"),
    "RMSprop": (3, "rung 3 moves the weights by hand, which it can as SGD (with momentum, also Nesterov's), Adam and"),
    "amsgrad": (1, "got Adam with amsgrad. Rungs 4 to 7 take any optimizer of torch's"),
    "dampening": (2, "got SGD"),
    "a plateau of what should grow": (3, "rung 3 has ReduceLROnPlateau by hand, but not its mode='max'"),
    "cnn sgd constant": (1, "got Conv2d. Rungs 2 to 7 take any model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rung_that_cannot_express_a_recipe_says_so_and_which_can(data: Path, tmp_path: Path, name: str) -> None:
    train(data, tmp_path / "run", {**RECIPES[name], "epochs": 1})
    rung, reason = REFUSED[name]
    with pytest.raises(EjectError) as caught:
        eject(tmp_path / "run", rung)
    assert reason in str(caught.value)
    assert f"see rungs {rungs_of(name)[0]}" in str(caught.value) or f"Rungs {rungs_of(name)[0]}" in str(caught.value)


@pytest.mark.parametrize("rung", range(1, 8))
def test_an_edit_of_a_loop_in_a_copy_of_the_package_changes_the_program(data: Path, tmp_path: Path, rung: int) -> None:
    train(data, tmp_path / "run", {"opt_func": torch.optim.Adam, "epochs": 1})
    before = eject(tmp_path / "run", rung).text
    copy = tmp_path / "copy" / "clearloop"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.gz", "__pycache__"))
    loop = "rungs/fit.py" if rung == 7 else "rungs/loops.py"
    edits = {
        loop: ("for epoch in range(epochs):", "for epoch in range(1, epochs):"),
        "rungs/updates.py": ("mean.lerp_(grad, 1 - beta)", "mean.lerp_(grad, beta)"),
        "rungs/layers.py": ("torch.where(x <= 0, 0.0, x)", "torch.where(x <= 0, 0.1, x)"),
        "rungs/report.py": ('sep="  ")', 'sep="   ")'),
        "rungs/data.py": ("yield from order.split(self.batch_size)", "yield from order.flip(0).split(self.batch_size)"),
    }
    edited = before
    for name, (old, new) in edits.items():
        (copy / name).write_text((copy / name).read_text().replace(old, new))
        edited = edited.replace(old, new)
    code = "import sys, clearloop.eject as e; sys.stdout.write(e.eject(sys.argv[1], int(sys.argv[2])).text)"
    done = process("-c", code, tmp_path / "run", rung, env={"PYTHONPATH": str(copy.parent)})
    assert done.code == 0, done.err
    assert done.out == edited != before

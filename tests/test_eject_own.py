"""Learner.eject and Learner.verify for parts of one's own: the program is the run again, to the bit, or a refusal."""

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import json
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from torch import Tensor, nn
from torch.optim import lr_scheduler

import clearloop as cl
from clearloop.data import augment
from clearloop.data.loaders import scale_images
from clearloop.errors import EjectError
from clearloop.printing.model import torch_expression
from cli_tools import process
from eject_tools import run_programs

USERS_FILE = '''
"""What somebody wrote for a task of theirs."""
from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
import torch as th
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor, optim
from torch.nn import functional

from clearloop.metrics import accuracy

WIDTH = 5
FACTORS = {"first": 0.5, "second": (1, 2.0)}
ORDER = [2, 0, 1]
HIDDEN, NAMES = 7, ("a", "b")
TYPED: int = 3
TEMPLATE = torch.ones(6)
EPOCHS = 9
Sizes = namedtuple("Sizes", "outputs")
SIZES = Sizes(3)


def squash(x: Tensor, power: float = 1.0) -> Tensor:
    # a comment of the user's stays
    return th.sign(x) * x.abs().pow(power) / math.sqrt(FACTORS["second"][1])


def twice(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def both(x: Any) -> Any:
        return f(f(x))

    return both


class Block(nn.Module):
    """A layer with a way around it."""

    def __init__(self, width: int, dropout: Optional[float] = None) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout or 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(squash(self.norm(self.linear(x)), power=0.5 + FACTORS["first"]))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, WIDTH)
        self.blocks = nn.ModuleList([Block(WIDTH), Block(WIDTH, 0.2)])
        self.last = nn.Linear(WIDTH, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.seen += 1
        x = self.first(x).relu()
        for block in self.blocks:
            x = block(x)
        return self.last(x)[:, ORDER]


class Base(nn.Module):
    """What several nets share."""

    def forward(self, x):
        return self.head(functional.leaky_relu(self.body(x.flatten(1)), self.slope))


class Wide(Base):
    def __init__(self, width, *, slope=0.1, inputs=6):
        super().__init__()
        self.slope = float(np.float32(slope))
        self.body, self.head = nn.Linear(inputs, width), nn.Linear(width, 3)


def make_wide():
    """How the wide net was made."""
    return Wide(HIDDEN, slope=0.3)


@dataclass
class Shape:
    inputs: int = 6
    outputs: int = TYPED


class Shaped(nn.Module):
    def __init__(self, shape: Shape = Shape()):
        super().__init__()
        self.layer = nn.Linear(shape.inputs, shape.outputs)

    def forward(self, x):
        return self.layer(twice(torch.tanh)(x))


class Slope(nn.Module):
    def __init__(self, slope=0.1):
        super().__init__()
        self.slope, self.layer = slope, nn.Linear(6, 3)

    def forward(self, x):
        return F.leaky_relu(self.layer(x), self.slope)


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x * TEMPLATE)


class Sized(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, SIZES.outputs)

    def forward(self, x):
        return self.layer(x)


class Shared(nn.Module):
    """One weight in two places; a count that is no argument."""

    def __init__(self, tied=True):
        super().__init__()
        self.there, self.back, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.calls = 0
        if tied:
            self.back.weight = self.there.weight

    def forward(self, x):
        self.calls += 1
        return self.last(self.back(self.there(x).tanh()))


def confident(preds, targets, sharpness=1.0):
    return F.cross_entropy(squash(preds) * sharpness, targets)


def margin(preds, targets):
    top = preds.topk(2, dim=1).values
    return (top[:, 0] - top[:, 1]).mean()


@torch.no_grad()
def far_off(preds, targets):
    """A mean of the larger errors."""
    return F.cross_entropy(squash(preds), targets)


def doubled(preds, targets):
    return 2 * accuracy(preds, targets)


class Signs(optim.Optimizer):
    """Steps of one length."""

    def __init__(self, params, lr, share=0.5):
        super().__init__(params, dict(lr=lr, share=share))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    mean = state.setdefault("mean", torch.zeros_like(p))
                    mean.lerp_(p.grad, group["share"])
                    p.add_(mean.sign(), alpha=-group["lr"])


def two_speeds(parameters, lr):
    return optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "lr": lr / 3}], lr=lr)


def its_own_rate(parameters, lr):
    return optim.SGD(parameters, lr=0.02)


def opt(parameters, lr):
    return optim.SGD(parameters, lr=lr)


def until_the_end(step):
    return 0.1 * (1 - step / (100 * EPOCHS))


def falling(step, start=0.1):
    return start / (1 + step)


def to_floats(batch):
    images, labels = batch
    return images.flatten(1).float() / 255, labels


def brighter(inputs, keys):
    return inputs * (1 + (keys % 7).view(-1, 1) / 10)


def report(preds, targets):
    return (preds.argmax(1) == targets).double().mean()


def evaluate(preds, targets):
    return F.cross_entropy(preds, targets)


class Sampler(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x)
'''

THRESHOLD = 0.05


def clamped(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(min=-THRESHOLD)


class Here(nn.Module):
    """A model of the file of tests."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, width), nn.Dropout(0.3), nn.Linear(width, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return clamped(self.layers(x))


def make_here() -> nn.Module:
    """How it was made."""
    return Here(4)


def make_frozen() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3).requires_grad_(False))


def right_here(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (clamped(preds).argmax(1) == targets).double().mean()


# -- data and runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The user's file, imported."""
    path = tmp_path_factory.mktemp("own") / "users_parts.py"
    path.write_text(USERS_FILE)
    yield imported(path)
    del sys.modules["users_parts"]


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def tensors(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of six numbers and their class, of three."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 6, generator=generator)
    return x, x[:, :3].argmax(dim=1)


def images(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey images of 8x8 bytes, and their class."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (samples, 8, 8), generator=generator, dtype=torch.uint8)
    return x, x.flatten(1)[:, :3].argmax(dim=1)


def loaders(train: Any = None, valid: Any = None, shuffle: bool = True, **options: Any) -> cl.DataLoaders:
    train = cl.TensorDataset(*tensors(50, 1)) if train is None else train
    valid = cl.TensorDataset(*tensors(23, 2)) if valid is None else valid
    return cl.DataLoaders(cl.DataLoader(train, 16, shuffle=shuffle, seed=3, **options), cl.DataLoader(valid, 10))


def fitted(model: nn.Module, dls: Any = None, *, epochs: int = 2, schedule: Any = None, **options: Any) -> cl.Learner:
    """A short run."""
    options = {"loss_func": F.cross_entropy, "metrics": cl.accuracy, "seed": 0, "device": "cpu", **options}
    learn = cl.Learner(loaders() if dls is None else dls, model, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*keeps its own order")
        learn.fit(epochs, 0.05, schedule=schedule, quiet=True)
    return learn


def lines_of(learn: cl.Learner) -> list[str]:
    """What the program has to print: the run's numbers, and a hash of its weights that is computed here."""
    lines = []
    for record in learn.history.epochs:
        values = {"train_loss": record.train_loss, "valid_loss": record.valid_loss, **record.metrics}
        lines.append("  ".join([f"epoch {record.epoch}", *(f"{name} {value!r}" for name, value in values.items())]))
    named = [
        *learn.model.named_parameters(remove_duplicate=False),
        *learn.model.named_buffers(remove_duplicate=False),
    ]
    digest = hashlib.sha256()
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(name.encode() + tensor.detach().numpy().tobytes())
    return [*lines, f"sha256 {digest.hexdigest()}"]


def subset(samples: int, seed: int) -> cl.Subset:
    x, y = tensors(samples + 9, seed)
    return cl.Subset(cl.TensorDataset(x, y), torch.randperm(samples + 9, generator=torch.Generator())[:samples])


def pairs(samples: int, seed: int) -> list[tuple[torch.Tensor, int]]:
    return [(x, int(y)) for x, y in zip(*tensors(samples, seed), strict=True)]


def valid_shuffled() -> cl.DataLoaders:
    valid = cl.DataLoader(cl.TensorDataset(*tensors(23, 2)), 10, shuffle=True, seed=8)
    return cl.DataLoaders(cl.DataLoader(cl.TensorDataset(*tensors(50, 1)), 16, shuffle=True, seed=3), valid)


def pictures(transform: Callable[[Any], Any], **options: Any) -> cl.DataLoaders:
    parts = [cl.TensorDataset(*images(samples, samples), transform=transform) for samples in (50, 23)]
    return loaders(*parts, **options)


def words(samples: int, seed: int) -> cl.TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(10, (samples, 4), generator=generator)
    return cl.TensorDataset(x, x.sum(dim=1) % 3)


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, momentum=0.2), nn.LeakyReLU(0.2, inplace=True)
        ),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(4, 6, (2, 3), stride=(1, 2), groups=2), nn.GELU("tanh")),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(6, eps=1e-3),
        nn.Linear(6, 3),
    )


def by_hand() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3))


EVERY, ALL, TORCH, OPTIMIZED = range(1, 8), (1, 4, 7), (2, 5), (3, 6)


@dataclasses.dataclass(frozen=True)
class Case:
    """A run with something of one's own, how to eject it, and the rungs that must print it."""

    fit: Callable[[Any], cl.Learner]
    rungs: Any = (2, 7)
    expr: Any = None


def simple(**options: Any) -> Callable[[Any], cl.Learner]:
    """A run of layers that have forms by hand, with one part from the user's file or from elsewhere."""
    return lambda own: fitted(
        by_hand(), **{name: part(own) if callable(part) else part for name, part in options.items()}
    )


CASES = {
    "a class without arguments": Case(lambda own: fitted(own.Net()), TORCH),
    "a class with arguments": Case(lambda own: fitted(own.Wide(5, slope=0.3)), expr=lambda own: "Wide(5, slope=0.3)"),
    "arguments from constants": Case(
        lambda own: fitted(own.Wide(own.HIDDEN, slope=own.FACTORS["first"])),
        expr=lambda own: "Wide(HIDDEN, slope=FACTORS['first'])",
    ),
    "a function that makes it": Case(lambda own: fitted(own.make_wide()), expr=lambda own: own.make_wide),
    "a call of a function that makes it": Case(lambda own: fitted(own.make_wide()), expr=lambda own: "make_wide()"),
    "an argument that is a class's default": Case(lambda own: fitted(own.Shaped())),
    "a model of the test file": Case(lambda own: fitted(make_here()), TORCH, lambda own: "Here(4)"),
    "a function of the test file": Case(
        lambda own: fitted(make_here(), metrics=[right_here]), expr=lambda own: make_here
    ),
    "a function with the class in it": Case(lambda own: fitted(local_model()), expr=lambda own: local_model),
    "a class in a class": Case(lambda own: fitted(Outer.Inner()), expr=lambda own: "Outer.Inner()"),
    "names of torch's in an expression": Case(
        lambda own: fitted(make_frozen()),
        expr=lambda own: "nn.Sequential(nn.Linear(6, 4), torch.nn.Tanh(), nn.Linear(4, 3).requires_grad_(False))",
    ),
    "weights in common": Case(lambda own: fitted(own.Shared())),
    "a model of ours": Case(lambda own: fitted(cl.models.mlp(6, 4, 3)), ALL),
    "nn.Linear alone": Case(lambda own: fitted(nn.Linear(6, 3)), EVERY),
    "layers in a row": Case(lambda own: fitted(by_hand()), ALL),
    "convolutions": Case(lambda own: fitted(convolutions(), pictures(scale_images)), TORCH),
    "an embedding": Case(
        lambda own: fitted(
            nn.Sequential(nn.Embedding(10, 3, padding_idx=2, max_norm=1.5), nn.Flatten(), nn.Linear(12, 3)),
            loaders(words(50, 1), words(23, 2)),
        ),
        TORCH,
    ),
    "a frozen layer": Case(
        lambda own: fitted(make_frozen(), opt_func=functools.partial(torch.optim.AdamW, weight_decay=0.1)),
        TORCH,
        lambda own: make_frozen,
    ),
    "a loss": Case(simple(loss_func=lambda own: own.confident), ALL),
    "a loss with an argument": Case(
        simple(loss_func=lambda own: functools.partial(own.confident, sharpness=2.0)), (1, 3, 7)
    ),
    "metrics": Case(simple(metrics=lambda own: [own.margin, cl.accuracy, cl.metrics.top_k_accuracy(2)]), ALL),
    "a metric with a decorator": Case(simple(metrics=lambda own: [own.far_off]), (1, 7)),
    "a metric with a name of its own": Case(
        simple(metrics=lambda own: [cl.metrics.mean_metric('the "far" ones', own.far_off)]), (1, 7)
    ),
    "a metric made of one of ours": Case(simple(metrics=lambda own: [own.doubled, cl.accuracy]), (1, 7)),
    "a function of torch's as a metric": Case(simple(metrics=[F.cross_entropy]), (1, 7)),
    "an optimizer": Case(simple(opt_func=lambda own: own.Signs), OPTIMIZED),
    "an optimizer with an argument": Case(
        simple(opt_func=lambda own: functools.partial(own.Signs, share=0.25)), OPTIMIZED
    ),
    "a function that makes an optimizer": Case(simple(opt_func=lambda own: own.two_speeds), OPTIMIZED),
    "two speeds with a schedule": Case(
        simple(opt_func=lambda own: own.two_speeds, schedule=lambda own: own.falling), (3, 5, 7)
    ),
    "an optimizer with a rate of its own": Case(simple(opt_func=lambda own: own.its_own_rate), (3, 5, 7)),
    "an optimizer with a schedule": Case(
        simple(opt_func=lambda own: own.Signs, schedule=lambda own: own.falling), OPTIMIZED
    ),
    "a schedule": Case(simple(schedule=lambda own: own.falling), ALL),
    "a schedule with an argument": Case(
        simple(schedule=lambda own: functools.partial(own.falling, start=0.03)), (1, 4, 7)
    ),
    "a scheduler of torch's": Case(
        simple(schedule=lambda own: functools.partial(lr_scheduler.StepLR, step_size=1, gamma=0.5)), (1, 4, 7)
    ),
    "clipped, in parts": Case(
        lambda own: fitted(own.Net(), clip=0.1, accumulate=2, loss_func=own.confident, metrics=[own.margin]), TORCH
    ),
    "batches that begin at odd addresses": Case(
        lambda own: fitted(
            nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
            cl.DataLoaders(
                cl.DataLoader(cl.TensorDataset(*tensors(50, 1)), 9, shuffle=True, seed=3),
                cl.DataLoader(cl.TensorDataset(*tensors(23, 2)), 9),
            ),
            accumulate=3,
        ),
        EVERY,
    ),
    "torch's TensorDataset": Case(
        simple(dls=lambda own: loaders(torch.utils.data.TensorDataset(*tensors(50, 1)))), (1, 7)
    ),
    "a subset": Case(simple(dls=lambda own: loaders(subset(50, 1), subset(23, 2))), ALL),
    "torch's Subset": Case(
        simple(
            dls=lambda own: loaders(
                torch.utils.data.Subset(torch.utils.data.TensorDataset(*tensors(60, 1)), list(range(55, 5, -1)))
            )
        ),
        (1, 7),
    ),
    "a split": Case(
        simple(dls=lambda own: loaders(*cl.random_split(cl.TensorDataset(*tensors(73, 1)), (0.7, 0.3), seed=4))), (1, 7)
    ),
    "a list of pairs": Case(simple(dls=lambda own: loaders(pairs(50, 1), pairs(23, 2))), ALL),
    "arrays": Case(
        simple(dls=lambda own: cl.DataLoaders.arrays(*tensors(50, 1), *tensors(23, 2), batch_size=16, seed=2)), (1, 7)
    ),
    "not shuffled": Case(simple(dls=lambda own: loaders(shuffle=False)), EVERY),
    "validation data shuffled": Case(simple(dls=lambda own: valid_shuffled()), ALL),
    "targets to be reconstructed": Case(
        lambda own: fitted(
            nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 6)),
            loaders(*(cl.TensorDataset(x, x) for x, _ in (tensors(50, 1), tensors(23, 2)))),
            loss_func=F.mse_loss,
            metrics=[cl.mae, cl.rmse],
        ),
        ALL,
    ),
    "bytes": Case(lambda own: fitted(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), pictures(scale_images)), ALL),
    "bytes augmented": Case(
        lambda own: fitted(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), pictures(scale_images, augment=augment.random_shift(1))
        ),
        EVERY,
    ),
    "a transform": Case(lambda own: fitted(nn.Linear(64, 3), pictures(own.to_floats)), (5, 6, 7)),
    "a transform, not shuffled": Case(
        lambda own: fitted(nn.Linear(64, 3), pictures(own.to_floats, shuffle=False)), (5, 6, 7)
    ),
    "an augmentation": Case(simple(dls=lambda own: loaders(augment=own.brighter)), ALL),
}


@dataclasses.dataclass(frozen=True)
class Printed:
    """A run's numbers, and on each rung the program and what it printed."""

    expected: list[str]
    paths: dict[int, Path]
    output: dict[int, list[str]]


@pytest.fixture(scope="module")
def printed(own: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Printed]:
    """Every case trained and printed; all programs run in one process, where clearloop and the user's file are not."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("programs")
    expected, paths, output = {}, {}, {}
    for number, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(number)
        learn = case.fit(own)
        expected[name] = lines_of(learn)
        expr = None if case.expr is None else case.expr(own)
        for rung in case.rungs:
            path = folder / f"program_{number}_{rung}.py"
            try:
                paths[name, rung] = learn.eject(rung, model_expr=expr).write(path)
            except EjectError as error:  # fails the test of this case alone
                output[name, rung] = [str(error)]
    output |= dict(zip(paths, run_programs([[path] for path in paths.values()], folder), strict=True))
    return {
        name: Printed(
            expected[name],
            {rung: paths[name, rung] for rung in case.rungs if (name, rung) in paths},
            {rung: output[name, rung] for rung in case.rungs},
        )
        for name, case in CASES.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_the_program_prints_the_losses_of_the_run_and_ends_in_the_same_weights(
    printed: dict[str, Printed], name: str
) -> None:
    assert len(printed[name].expected) == 3
    for rung in CASES[name].rungs:
        assert printed[name].output[rung] == printed[name].expected, f"rung {rung}"


def test_the_programs_import_torch_and_numpy_and_python_s_own_modules_alone(printed: dict[str, Printed]) -> None:
    for one in printed.values():
        for path in one.paths.values():
            modules = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    modules.add(node.module.split(".")[0])
            assert modules - set(sys.stdlib_module_names) <= {"torch", "numpy"}


def test_ruff_finds_no_name_that_is_missing_or_not_used_and_no_import_out_of_order(printed: dict[str, Printed]) -> None:
    paths = [path for one in printed.values() for path in one.paths.values()]
    done = process("-m", "ruff", "check", "--isolated", "--select", "F,E9,I", *paths)
    assert done.code == 0, done.out[:3000]


def test_the_user_s_source_is_printed_as_it_was_written(printed: dict[str, Printed]) -> None:
    text = printed["a class without arguments"].paths[5].read_text()
    for piece in ("def squash", "class Block", "class Net"):
        start = USERS_FILE.index(piece)
        assert USERS_FILE[start : USERS_FILE.index("\n\n\n", start)] in text
    assert text.index("def squash") < text.index("class Block") < text.index("class Net") < text.index("model = Net()")
    assert "twice" not in text
    assert "HIDDEN" not in text


def test_data_and_first_weights_lie_beside_the_program(printed: dict[str, Printed]) -> None:
    path = printed["bytes"].paths[7]
    with np.load(path.with_suffix(".data.npz")) as arrays:
        assert sorted(arrays) == ["x_train", "x_valid", "y_train", "y_valid"]
        assert arrays["x_train"].dtype == np.uint8  # as they were stored
        assert np.array_equal(arrays["x_train"], images(50, 50)[0].numpy())
    with np.load(path.with_suffix(".weights.npz")) as arrays:
        assert sorted(arrays) == ["1.bias", "1.weight"]


# -- verify, and what is written ---------------------------------------------------------------------------------------


def test_verify_runs_the_program_and_compares(own: ModuleType) -> None:
    learn = fitted(own.Wide(4), metrics=[own.margin])
    comparisons = learn.verify(7, model_expr="Wide(4)")
    assert [comparison.what for comparison in comparisons] == [
        *(f"epoch {epoch} {name}" for epoch in range(2) for name in ("train_loss", "valid_loss", "margin")),
        "sha256",
    ]
    assert all(comparison.same for comparison in comparisons)


def test_verify_sees_what_was_changed_after_the_run(own: ModuleType) -> None:
    learn = fitted(nn.Linear(6, 3))
    with torch.no_grad():
        learn.model.bias[0] += 1e-7
    same = [comparison.same for comparison in learn.verify(1)]
    assert same == [*[True] * 6, False]


def test_eject_leaves_the_run_and_the_random_states_as_they_were(own: ModuleType) -> None:
    learn = fitted(own.Net())
    before, lines = torch.get_rng_state(), lines_of(learn)
    first = learn.eject(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert lines_of(learn) == lines
    assert learn.eject(3).text == first.text
    assert str(first) == first.text
    learn.fit(1, 0.05, quiet=True)
    with pytest.raises(EjectError, match="expected a run of one fit, got 2"):
        learn.eject(3)


def test_files_are_written_beside_the_program_where_it_needs_them_and_only_there(
    own: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    fitted(own.Net()).eject().write(tmp_path / "own" / "net.py")
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["net.data.npz", "net.py", "net.weights.npz"]
    (tmp_path / "seeded").mkdir()
    torch.manual_seed(0)
    fitted(cl.models.mlp(6, 4, 3)).eject().write(tmp_path / "seeded" / "net.py")
    assert sorted(path.name for path in (tmp_path / "seeded").iterdir()) == ["net.data.npz", "net.py"]
    (tmp_path / "file").mkdir()
    x, y = tensors(60, 1)
    np.savez(tmp_path / "rows.npz", x=x.numpy(), y=y.numpy())
    torch.manual_seed(0)
    learn = fitted(cl.models.mlp(6, 4, 3), cl.DataLoaders.npz(tmp_path / "rows.npz", 16, seed=1))
    learn.eject().write(tmp_path / "file" / "net.py")
    assert [path.name for path in (tmp_path / "file").iterdir()] == ["net.py"]


def test_a_program_without_its_data_or_weights_says_which_file_is_missing(own: ModuleType, tmp_path: Path) -> None:
    learn = fitted(nn.Linear(6, 3))
    first, second = (learn.eject(2).write(tmp_path / name) for name in ("first.py", "second.py"))
    data, weights = first.with_suffix(".data.npz"), second.with_suffix(".weights.npz")
    moved = data.rename(tmp_path / "elsewhere.npz")
    weights.unlink()
    printed = run_programs([[first], [first, "--data", moved], [second, "--data", moved]], tmp_path)
    for lines, missing in ((printed[0], data), (printed[2], weights)):
        assert lines[-1].startswith("FileNotFoundError:")
        assert str(missing) in lines[-1]
    assert printed[1] == lines_of(learn)


# -- layers of torch's, as torch shows them ----------------------------------------------------------------------------

LAYERS = [
    nn.Linear(3, 2),
    nn.Linear(3, 2, bias=False),
    nn.Identity(),
    nn.Flatten(),
    nn.Flatten(2),
    nn.Flatten(0, 1),
    nn.Unflatten(1, (2, 3)),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.2),
    nn.LeakyReLU(inplace=True),
    nn.ELU(0.5, inplace=True),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.Hardtanh(-2.0, 3.0),
    nn.Softplus(2.0, 10.0),
    nn.Softshrink(0.2),
    nn.Threshold(0.1, 20),
    nn.PReLU(4),
    nn.RReLU(0.1, 0.2),
    nn.Softmax(dim=1),
    nn.LogSoftmax(dim=-1),
    nn.GLU(1),
    nn.Dropout(),
    nn.Dropout(0.2, inplace=True),
    nn.Dropout2d(0.1),
    nn.AlphaDropout(0.1),
    nn.Conv1d(1, 2, 3),
    nn.Conv2d(1, 8, 3, padding=1),
    nn.Conv2d(4, 8, (3, 5), stride=(1, 2), padding=(1, 0), dilation=2, groups=2, bias=False),
    nn.Conv3d(1, 2, (1, 2, 3), padding=(0, 1, 2)),
    nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1),
    nn.ConvTranspose1d(4, 8, 3, bias=False, dilation=3),
    nn.MaxPool2d(2),
    nn.MaxPool2d((3, 2), 2, 1, dilation=2, ceil_mode=True),
    nn.MaxPool1d(2),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool1d(4, 2),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((None, 7)),
    nn.AdaptiveMaxPool2d((1, 2)),
    nn.LPPool2d(1.2, 3, stride=2),
    nn.BatchNorm2d(4),
    nn.BatchNorm2d(4, eps=1e-3, momentum=0.2),
    nn.BatchNorm1d(4, momentum=None),
    nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    nn.LayerNorm(4),
    nn.LayerNorm([4, 5], eps=1e-3),
    nn.LayerNorm((4, 5), elementwise_affine=False),
    nn.GroupNorm(2, 4, eps=1e-2),
    nn.InstanceNorm2d(4, affine=True),
    nn.RMSNorm((4,), eps=1e-3),
    nn.LocalResponseNorm(2, alpha=1e-3),
    nn.Embedding(10, 3),
    nn.Embedding(10, 3, padding_idx=2, max_norm=1.5, norm_type=3.0, scale_grad_by_freq=True),
    nn.EmbeddingBag(10, 3, mode="sum"),
    nn.ZeroPad2d((1, 2, 3, 4)),
    nn.ConstantPad2d(1, 0.5),
    nn.Upsample(scale_factor=2),
    nn.Upsample(scale_factor=(2, 3), mode="bilinear"),
    nn.PixelShuffle(2),
    nn.Unfold((2, 3), padding=1, stride=2),
    nn.Sequential(),
    nn.Sequential(nn.Sequential(nn.Linear(3, 2, bias=False), nn.Tanh()), nn.Sequential(nn.Linear(2, 1))),
]


def arguments_of(layer: nn.Module) -> dict[str, str]:
    """What a layer keeps of the arguments that it was made with."""
    return {name: str(value) for name, value in vars(layer).items() if not name.startswith("_")}


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: repr(layer).replace("\n", ""))
def test_a_layer_of_torch_s_is_written_as_the_expression_that_makes_it(layer: nn.Module) -> None:
    expression = torch_expression(layer)
    assert expression is not None
    again = eval(expression, {"nn": nn})
    assert repr(again) == repr(layer)
    assert arguments_of(again) == arguments_of(layer)
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
        name: tensor.shape for name, tensor in layer.state_dict().items()
    }


def test_short_expressions_leave_out_what_is_the_default() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    inner = "nn.Conv2d(1, 8, kernel_size=(3, 3)), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2)"
    assert torch_expression(model) == f"nn.Sequential({inner})"


HIDDEN_ARGUMENTS: dict[str, Callable[[], nn.Module]] = {  # that torch does not show, or not as it takes them
    "a mean without the padding": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "corners": lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "sizes rounded up": lambda: nn.AvgPool2d(3, ceil_mode=True),
}


@pytest.mark.parametrize("name", HIDDEN_ARGUMENTS)
def test_arguments_that_torch_does_not_show_are_asked_for(name: str) -> None:
    learn = fitted(nn.Sequential(HIDDEN_ARGUMENTS[name](), nn.Flatten(), nn.LazyLinear(3)), pictures(scale_images))
    refused(learn, 7, None, "Sequential", "does not remember the arguments", "learn.eject(model_expr=")


# -- refusals ----------------------------------------------------------------------------------------------------------


def refused(learn: cl.Learner, rung: int, expr: Any, *words: str) -> None:
    """Assert that eject and verify refuse in one line that has all the words."""
    for ask in (learn.eject, learn.verify):
        with pytest.raises(EjectError) as caught:
            ask(rung, model_expr=expr)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message


def local_model() -> nn.Module:
    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    return Local()


def local_loss() -> Callable[..., torch.Tensor]:
    scale = 2.0

    def scaled(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return scale * F.cross_entropy(preds, targets)

    return scaled


Found = type(local_model())


class Outer:
    """Holds a model."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)


def typed_in() -> Any:
    """A model of which there is no source anywhere."""
    namespace: dict[str, Any] = {"nn": nn, "__name__": "typed_in"}
    exec("class Typed(nn.Linear):\n    pass", namespace)
    return namespace["Typed"](6, 3)


class Smooth(nn.Module):
    """A loss that is a module."""

    def forward(self, preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(preds, targets, label_smoothing=0.1)


class Falling:
    """A schedule that is an object."""

    def __call__(self, step: int) -> float:
        return 0.1 / (1 + step)


class Squares:
    """Items that are made when they are asked for."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((6,), float(index)), index % 3


class Counting:
    """A metric that keeps its own state."""

    def update(self, preds: Any, targets: Any) -> None:
        pass

    def compute(self) -> float:
        return 0.5

    def reset(self) -> None:
        pass


def of_torch() -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors(50, 1)), 16)


def with_loader(**options: Any) -> cl.DataLoaders:
    options = {"shuffle": True, "seed": 3, **options}
    return cl.DataLoaders(
        cl.DataLoader(cl.TensorDataset(*tensors(50, 1)), 16, **options),
        cl.DataLoader(cl.TensorDataset(*tensors(23, 2))),
    )


def weighted_sampler() -> Any:
    return with_loader(shuffle=False, sampler=cl.data.sampler.WeightedSampler(torch.ones(50), seed=1))


def half() -> cl.Learner:
    x, y = tensors(50, 1)
    halves = cl.TensorDataset(x.bfloat16(), y)
    return fitted(nn.Linear(6, 3).bfloat16(), loaders(halves, halves))


class Half(nn.Module):
    """A model whose weights NumPy does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3, dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.bfloat16()).float()


def doubles() -> cl.Learner:
    parts = [cl.TensorDataset(x.double(), y) for x, y in (tensors(50, 1), tensors(23, 2))]
    return fitted(nn.Linear(6, 3).double(), loaders(*parts))


def three_parts() -> cl.Learner:
    x, y = tensors(50, 1)
    parts = cl.TensorDataset(x, x, y)
    return fitted(nn.Bilinear(6, 6, 3), loaders(parts, parts))


def with_part(**options: Any) -> Callable[[Any], cl.Learner]:
    """A run of layers in a row; what is given by name is from the user's file."""

    def fit(own: Any) -> cl.Learner:
        return fitted(by_hand(), **{k: getattr(own, v) if isinstance(v, str) else v for k, v in options.items()})

    return fit


CALLED = "which has no name to print it under; define it with def"
REFUSED: dict[str, tuple[Callable[[Any], cl.Learner], int, Any, tuple[str, ...]]] = {
    "a lambda as loss": (
        with_part(loss_func=lambda preds, targets: F.cross_entropy(preds, targets)),
        7,
        None,
        ("the loss is a lambda", CALLED),
    ),
    "a lambda as metric": (
        with_part(metrics=lambda preds, targets: preds.mean()),
        1,
        None,
        ("the metric is a lambda", CALLED),
    ),
    "a lambda as schedule": (with_part(schedule=lambda step: 0.1), 3, None, ("the schedule is a lambda", CALLED)),
    "a lambda as optimizer": (
        with_part(opt_func=lambda parameters, lr: torch.optim.SGD(parameters, lr)),
        4,
        None,
        ("the optimizer is a lambda", CALLED),
    ),
    "a lambda as transform": (
        lambda own: fitted(nn.Linear(64, 3), pictures(lambda batch: (batch[0].flatten(1).float(), batch[1]))),
        6,
        None,
        ("the transform of the data is a lambda", CALLED),
    ),
    "a lambda as model_expr": (
        lambda own: fitted(own.Net()),
        7,
        lambda own: lambda: own.Net(),
        ("is a lambda", CALLED),
    ),
    "a model inside a function": (
        lambda own: fitted(Found()),
        7,
        lambda own: "Found()",
        ("class Local is defined inside a function", "define it at the top of a file or cell"),
    ),
    "a model inside a function, without an expression": (
        lambda own: fitted(local_model()),
        7,
        None,
        ("class Local is defined inside a function", "define it at the top of a file or cell"),
    ),
    "a loss inside a function": (
        with_part(loss_func=local_loss()),
        7,
        None,
        ("the loss scaled is defined inside a function", "define it at the top of a file or in a notebook cell"),
    ),
    "a loss that is an object": (
        with_part(loss_func=Smooth()),
        7,
        None,
        ("the loss, an object of Smooth, cannot be made again", "use a function"),
    ),
    "a method as metric": (
        with_part(metrics=[Smooth().forward]),
        7,
        None,
        ("the metric", "expected a function or class"),
    ),
    "a metric that keeps its own state": (
        with_part(metrics=[Counting()]),
        7,
        None,
        ("the metric Counting cannot be printed", "a function (preds, targets) -> mean"),
    ),
    "a model without source": (lambda own: fitted(typed_in()), 7, None, ("Typed", "learn.eject(model_expr=")),
    "arguments that are not known": (
        lambda own: fitted(own.Wide(5)),
        7,
        None,
        ("the model, a Wide, does not remember", 'learn.eject(model_expr="Wide(...)")'),
    ),
    "an argument that is not the default": (
        lambda own: fitted(own.Slope(0.3)),
        7,
        None,
        ("Slope", "learn.eject(model_expr="),
    ),
    "an expression with another argument that shows nowhere": (
        lambda own: fitted(own.Slope(0.3)),
        7,
        lambda own: "Slope(0.2)",
        ("Slope(0.2) gives another model", "slope"),
    ),
    "an expression for another model": (
        lambda own: fitted(own.Wide(5)),
        2,
        lambda own: "Wide(6)",
        ("Wide(6) gives another model than the one that was trained", "out_features=6", "out_features=5"),
    ),
    "a layer that is there twice": (
        lambda own: fitted(twice_there()),
        7,
        None,
        ("Sequential", "learn.eject(model_expr="),
    ),
    "an expression for a model with weights in common": (
        lambda own: fitted(own.Shared()),
        7,
        lambda own: "Shared(tied=False)",
        ("Shared(tied=False) gives another model", "back.weight"),
    ),
    "an expression that is no Python": (
        lambda own: fitted(own.Wide(5)),
        7,
        lambda own: "Wide(5",
        ("Wide(5", "was never closed"),
    ),
    "an expression that raises": (
        lambda own: fitted(own.Wide(5)),
        7,
        lambda own: "Wide()",
        ("Wide() cannot be evaluated: TypeError", "width"),
    ),
    "an expression that raises in several lines": (
        lambda own: fitted(own.Wide(5)),
        7,
        lambda own: "Wide(5).load_state_dict({})",
        ("cannot be evaluated: RuntimeError", "Missing key"),
    ),
    "an expression with a name that is not known": (
        lambda own: fitted(own.Wide(5)),
        7,
        lambda own: "Broad(5)",
        ("Broad(5) cannot be evaluated: NameError", "Broad"),
    ),
    "an expression that gives no model": (
        lambda own: fitted(own.Wide(5)),
        7,
        lambda own: "WIDTH",
        ("WIDTH gives int: expected a model",),
    ),
    "a tensor of the file": (
        lambda own: fitted(own.Weighted()),
        7,
        None,
        ("Weighted uses 'TEMPLATE', an object of Tensor that cannot be printed", "make it an argument"),
    ),
    "a name of the loop's": (
        with_part(metrics="report"),
        7,
        None,
        ("two parts of the program would be called 'report'", "your report", "give your own another name"),
    ),
    "a name of the evaluation's": (
        with_part(loss_func="evaluate"),
        7,
        None,
        ("two parts of the program would be called 'evaluate'", "give your own another name"),
    ),
    "a name of the program's variables": (
        with_part(opt_func="opt"),
        7,
        None,
        ("two parts of the program would be called 'opt'", "give your own another name"),
    ),
    "a name of the program's constants": (
        with_part(schedule="until_the_end"),
        7,
        None,
        ("two parts of the program would be called 'EPOCHS'", "give your own another name"),
    ),
    "a named tuple of the file": (
        lambda own: fitted(own.Sized()),
        7,
        None,
        ("Sized uses 'SIZES', an object of Sizes that cannot be printed", "make it an argument"),
    ),
    "a name of the data's": (
        lambda own: fitted(own.Sampler()),
        7,
        None,
        ("two parts of the program would be called 'Sampler'", "give your own another name"),
    ),
    "torch's loader": (
        lambda own: fitted(by_hand(), (of_torch(), of_torch())),
        7,
        None,
        ("the training data cannot be printed: expected a DataLoader of clearloop's", "keeps its own order"),
    ),
    "torch's loader to validate with": (
        lambda own: fitted(by_hand(), (loaders().train, of_torch())),
        7,
        None,
        ("the validation data cannot be printed: expected a DataLoader of clearloop's",),
    ),
    "batches left out": (
        lambda own: fitted(by_hand(), with_loader(drop_last=True)),
        7,
        None,
        ("the training data cannot be printed: expected drop_last=False",),
    ),
    "weighted samples": (
        lambda own: fitted(by_hand(), weighted_sampler()),
        7,
        None,
        ("in their own order or shuffled, got a WeightedSampler",),
    ),
    "items that are made": (
        lambda own: fitted(by_hand(), loaders(Squares(), Squares())),
        7,
        None,
        ("expected a TensorDataset or a list of pairs, got Squares",),
    ),
    "three tensors": (lambda own: three_parts(), 7, None, ("expected pairs of two tensors, inputs and targets",)),
    "no validation data": (
        lambda own: fitted(by_hand(), (loaders().train, None)),
        7,
        None,
        ("expected a validation set, got none",),
    ),
    "bfloat16": (lambda own: half(), 7, None, ("tensors of a type that NumPy has, got bfloat16",)),
    "bfloat16 in the model": (lambda own: fitted(Half()), 7, None, ("weights", "types that NumPy has, got bfloat16")),
    "double precision on rung 1": (lambda own: doubles(), 1, None, ("rung 1", "Linear of float64", "Rungs 2 to 7")),
    "a milestone before the first epoch, by hand": (
        with_part(schedule=functools.partial(lr_scheduler.MultiStepLR, milestones=[0, 1])),
        3,
        None,
        ("rung 3", "MultiStepLR", "milestone", "rungs 4 to 7"),
    ),
    "augmented in the order of the data": (
        lambda own: fitted(by_hand(), loaders(shuffle=False, augment=own.brighter)),
        7,
        None,
        ("data that are augmented and not shuffled", "expected shuffle=True"),
    ),
    "two transforms": (
        lambda own: fitted(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
            cl.DataLoaders(pictures(own.to_floats).train, pictures(scale_images).valid),
        ),
        7,
        None,
        ("different transforms: expected the same, or none",),
    ),
    "a transform on rung 1": (
        lambda own: fitted(nn.Linear(64, 3), pictures(own.to_floats)),
        1,
        None,
        ("your transform to_floats", "rungs 5 to 7"),
    ),
    "a transform on rung 4": (
        lambda own: fitted(nn.Linear(64, 3), pictures(own.to_floats)),
        4,
        None,
        ("your transform to_floats", "rungs 5 to 7"),
    ),
    "an optimizer on rung 1": (with_part(opt_func="Signs"), 1, None, ("rung 1", "Signs", "see rungs 3 to 7")),
    "an optimizer on rung 2": (with_part(opt_func="Signs"), 2, None, ("rung 2", "Signs", "see rungs 3 to 7")),
    "a frozen layer on rung 1": (
        lambda own: fitted(make_frozen()),
        1,
        lambda own: make_frozen,
        ("rung 1 changes every weight, and '2.weight' is frozen", "rungs 2 to 7"),
    ),
    "a model of one's own on rung 1": (
        lambda own: fitted(own.Net()),
        1,
        None,
        ("rung 1 writes layers out by hand", "got Net", "Rungs 2 to 7 take any model"),
    ),
    "a layer without a form by hand": (
        lambda own: fitted(nn.Sequential(nn.Linear(6, 3), nn.ELU())),
        1,
        None,
        ("got ELU", "Rungs 2 to 7 take any model"),
    ),
    "no such rung": (lambda own: fitted(by_hand()), 8, None, ("expected a rung from 1", "got 8")),
}


def twice_there() -> nn.Module:
    """A net with one layer in two places."""
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(6, 3))


def make_free() -> nn.Module:
    """The net of make_frozen with nothing frozen."""
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_printed_is_refused_in_one_line_that_says_what_to_do(
    own: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit, rung, expr, words = REFUSED[name]
    refused(fit(own), rung, None if expr is None else expr(own), *words)
    assert list(tmp_path.iterdir()) == []


def test_nothing_can_be_printed_before_a_fit() -> None:
    learn = cl.Learner(loaders(), nn.Linear(6, 3), F.cross_entropy, device="cpu")
    refused(learn, 7, None, "there is nothing to print yet: call fit first")


FOREIGN = {
    "a package": ("import PIL", "PIL.Image.__name__ + str(x)", "uses 'PIL' from PIL"),
    "a function of a package": ("from PIL.Image import new", "new(x)", "uses 'new' from PIL"),
    "a module of a package": ("import rich.text as text", "text.Text(x)", "uses 'text' from rich"),
    "a module of the user's": ("import users_parts", "users_parts.squash(x)", "uses 'users_parts' from users_parts"),
    "a name that is not defined": ("", "mystery(x)", "uses 'mystery', which is not defined"),
    "an object": ("LINES = iter([1])", "next(LINES)", "uses 'LINES', an object of list_iterator"),
    "a function by another name": ("def f(x):\n    return x\n\ng = f", "g(x)", "uses f by another name, g"),
}
FOREIGN_FILE = """
import torch
{line}

class Foreign(torch.nn.Linear):
    def __init__(self):
        super().__init__(6, 3)

    def shown(self, x):
        return {use}
"""


@pytest.mark.parametrize("name", FOREIGN)
def test_what_a_program_cannot_have_is_named_with_who_uses_it(
    own: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, use, reason = FOREIGN[name]
    path = tmp_path / f"foreign_{[*FOREIGN].index(name)}.py"
    path.write_text(FOREIGN_FILE.format(line=line, use=use))
    module = imported(path)
    try:
        refused(fitted(module.Foreign()), 7, None, f"Foreign {reason}")
    finally:
        del sys.modules[path.stem]


def test_helpers_from_another_file_of_the_user_s_are_printed_with_what_they_use(
    own: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "users_net.py"
    line = "from users_parts import Block, WIDTH, squash\nfrom torch.nn import functional as F"
    source = FOREIGN_FILE.format(line=line, use="x").replace("def shown", "def forward")
    path.write_text(source.replace("return x", "return squash(super().forward(x)) * WIDTH + F.relu(x[:, :3])"))
    module = imported(path)
    try:
        learn = fitted(module.Foreign(), loss_func=own.confident)
        assert all(comparison.same for comparison in learn.verify())
    finally:
        del sys.modules["users_net"]


# -- notebooks ---------------------------------------------------------------------------------------------------------

CELLS = [
    """
import json, pathlib, torch
import torch.nn as nn
import torch.nn.functional as F
import clearloop as cl
from clearloop.weights import named_tensors, weights_sha256

torch.set_num_threads(1)
x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
y = x[:, :3].argmax(1)
dls = cl.DataLoaders(
    cl.DataLoader(cl.TensorDataset(x[:40], y[:40]), 8, shuffle=True, seed=1),
    cl.DataLoader(cl.TensorDataset(x[40:], y[40:]), 9),
)
expected = {}

def done(learn, program, name):
    program.write(f"{name}.py")
    rows = [[record.train_loss, record.valid_loss, *record.metrics.values()] for record in learn.history.epochs]
    expected[name] = [rows, weights_sha256(named_tensors(learn.model))]
    pathlib.Path("expected.json").write_text(json.dumps(expected))
""",
    """
WIDTH = 4
SHARE = 0.3
""",
    """
def bent(x):
    return torch.where(x > 0, x, SHARE * x)
""",
    """
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(6, width)

    def forward(self, x):
        return self.layer(x)
""",
    """
class Net(nn.Module):
    \"\"\"The better one, of a later cell.\"\"\"

    def __init__(self, width):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(6, width), nn.Dropout(0.2), nn.Linear(width, 3)

    def forward(self, x):
        return self.last(self.drop(bent(self.first(x))))

def near(preds, targets):
    return (preds.topk(2, dim=1).indices == targets[:, None]).any(dim=1).float().mean()

def loss(preds, targets):
    return F.cross_entropy(bent(preds), targets)

learn = cl.Learner(dls, Net(WIDTH), loss, metrics=[near, cl.accuracy], seed=0, device="cpu")
learn.fit(2, 0.1, quiet=True)
""",
    """
done(learn, learn.eject(7, model_expr="Net(WIDTH)"), "text")
done(learn, learn.eject(2, model_expr="Net(width=4)"), "number")
""",
    """
def make():
    return Net(WIDTH)

done(learn, learn.eject(3, model_expr=make), "function")
""",
    """
class Plain(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, width), nn.Linear(width, 3))

    def forward(self, x):
        return self.layers(bent(x))

plain = cl.Learner(dls, Plain(), seed=0, device="cpu")
plain.fit(1, 0.1, quiet=True)
done(plain, plain.eject(5), "plain")
row = cl.Learner(dls, nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), F.cross_entropy, seed=0, device="cpu")
row.fit(1, 0.1, quiet=True)
done(row, row.eject(1), "row")
""",
    """
class Net(nn.Module):
    \"\"\"Another one again, made after the run: the same layers, put together differently.\"\"\"

    def __init__(self, width):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(6, width), nn.Dropout(0.2), nn.Linear(width, 3)

    def forward(self, x):
        return self.last(self.drop(self.first(x)))

from clearloop.errors import EjectError

try:
    done(learn, learn.eject(7, model_expr="Net(WIDTH)"), "redefined")
except EjectError as error:
    print(error)
""",
    """
try:
    learn.eject(model_expr=lambda: Net(WIDTH))
except EjectError as error:
    print(error)
""",
    """
try:
    learn.eject(model_expr="table")
except EjectError as error:
    print(error)
""",
]


def test_parts_from_the_cells_of_a_notebook(tmp_path: Path) -> None:
    notebook = new_notebook(cells=[new_code_cell(source.replace('\\"', '"').strip()) for source in CELLS])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    expected = json.loads((tmp_path / "expected.json").read_text())
    assert list(expected) == ["text", "number", "function", "plain", "row"]
    printed = run_programs([[tmp_path / f"{name}.py"] for name in expected], tmp_path)
    for (name, (rows, sha256)), lines in zip(expected.items(), printed, strict=True):
        found = [[float(value) for value in line.split()[3::2]] for line in lines[:-1]]
        assert found == rows, name
        assert lines[-1] == f"sha256 {sha256}", name
    text = (tmp_path / "text.py").read_text()
    assert "The better one, of a later cell." in text
    assert text.count("class Net") == 1
    assert "model = Net(WIDTH)" in text
    redefined, a_lambda, unknown = [output.text for cell in notebook.cells for output in cell.outputs]
    assert "Net(WIDTH) gives another model than the one that was trained" in redefined
    assert "is a lambda" in a_lambda
    assert "table cannot be evaluated: NameError" in unknown


# -- what is printed though it takes a second look ---------------------------------------------------------------------


class Steep(nn.Module):
    """A layer that is made without arguments."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.tanh()


class Focal(nn.Module):
    """A loss that keeps its argument."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
        losses = F.cross_entropy(preds, targets, reduction="none")
        return ((1 - (-losses).exp()) ** self.gamma * losses).mean()


def half_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    return model


def one_padded_by_a_word() -> cl.Learner:
    layer = nn.Conv2d(1, 2, 3, padding="same", padding_mode="reflect")
    return fitted(nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3)), pictures(scale_images))


PRINTED_TOO: dict[str, tuple[Callable[[], cl.Learner], range]] = {
    "layers by name": (
        lambda: fitted(nn.Sequential(OrderedDict(first=nn.Linear(6, 4), act=nn.ReLU(), last=nn.Linear(4, 3)))),
        range(1, 8),
    ),
    "a layer of one's own among torch's": (
        lambda: fitted(nn.Sequential(nn.Linear(6, 4), Steep(), nn.Linear(4, 3))),
        range(2, 8),
    ),
    "a loss that is an object": (lambda: fitted(nn.Linear(6, 3), loss_func=Focal(1.5)), range(1, 8)),
    "frozen layers": (lambda: fitted(half_frozen()), range(2, 8)),
    "no bias": (lambda: fitted(nn.Sequential(nn.Linear(6, 3, bias=False))), range(1, 8)),
    "padding by a word": (one_padded_by_a_word, range(2, 8)),
    "an end that came early": (
        lambda: fitted(nn.Linear(6, 3), cbs=cl.EarlyStopping(patience=1, min_delta=10.0)),
        range(1, 8),
    ),
}


@pytest.mark.parametrize("name", PRINTED_TOO)
def test_programs_of_such_runs_print_their_losses_too(name: str, tmp_path: Path) -> None:
    make, rungs = PRINTED_TOO[name]
    learn = make()
    programs = [learn.eject(rung).write(tmp_path / f"program_{rung}.py") for rung in rungs]
    for printed in run_programs([[program] for program in programs], tmp_path):
        assert printed == lines_of(learn)


def test_a_model_with_hooks_or_that_evaluation_changes_is_refused() -> None:
    hooked = nn.Linear(6, 3)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    refused(fitted(hooked), 7, None, "the model has hooks, at its top", "remove them")
    held = nn.Linear(6, 3)
    held.weight.register_hook(lambda grad: 2 * grad)
    refused(fitted(held), 7, None, "the weights weight have hooks")
    refused(fitted(Counting2()), 7, None, "changes its buffer 'calls' in evaluation too", "if self.training")


class Counting2(nn.Module):
    """Counts how often it was called, also in evaluation."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x)


def test_weights_in_common_are_not_written_as_two_on_the_first_rung() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    refused(fitted(nn.Sequential(first, nn.ReLU(), second, nn.Linear(6, 3))), 1, None, "shares another's")


def test_a_run_that_was_loaded_with_other_data_is_refused(tmp_path: Path) -> None:
    learn = fitted(nn.Linear(6, 3))
    learn.save(tmp_path / "run")
    learn.loss_func = F.multi_margin_loss
    refused(learn, 7, None, "the loss_func of this Learner is not the one that")


def test_two_modules_that_mean_different_things_by_a_name_are_not_mixed(tmp_path: Path, monkeypatch: Any) -> None:
    for name, scale in (("helpers_a", 2), ("helpers_b", 5)):
        (tmp_path / f"{name}.py").write_text(
            f"import torch.nn.functional as F\n\nSCALE = {scale}\n\n\ndef helper(x):\n    return x * SCALE\n\n\n"
            f"def {name}_loss(preds, targets):\n    return helper(F.cross_entropy(preds, targets))\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    first, second = importlib.import_module("helpers_a"), importlib.import_module("helpers_b")
    learn = fitted(nn.Linear(6, 3), loss_func=first.helpers_a_loss, metrics=[second.helpers_b_loss])
    refused(learn, 7, None, "two parts of the program would be called", "give your own another name")

"""The seven loops end in the same weights and print the same lines, to the bit, from one seed, whatever the options."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler

from clearloop.data.augment import random_flip
from clearloop.metrics import accuracy, error_rate
from clearloop.rungs import loops, schedulers, updates
from clearloop.rungs.data import DataLoader, Dataset, Sampler, in_order, keyed
from clearloop.rungs.fit import fit
from clearloop.rungs.layers import Dropout, Layers, Linear, ReLU
from clearloop.rungs.loader import AugmentingLoader, TensorLoader
from clearloop.rungs.optimizers import Optimizer
from clearloop.schedules import one_cycle

SAMPLES, VALID, BATCH_SIZE, EPOCHS, LR = 70, 33, 16, 3, 0.05
STEPS = EPOCHS * -(-SAMPLES // BATCH_SIZE)

RULES: dict[str, tuple[Callable[[], updates.Update | None], Callable[..., Any]]] = {
    "sgd": (lambda: None, torch.optim.SGD),
    "momentum": (updates.momentum, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)),
    "adam": (updates.adam, torch.optim.Adam),
    "adamw": (updates.adamw, torch.optim.AdamW),
}
SCHEDULES: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[Any], dict[str, Any]]]] = {
    "constant": (dict, lambda opt: {}),
    "one cycle": (
        lambda: {"schedule": one_cycle(LR, STEPS)},
        lambda opt: {"schedule": one_cycle(LR, STEPS)},
    ),
    "StepLR": (
        lambda: {"scheduler": schedulers.StepLR(LR, step_size=1, gamma=0.3)},
        lambda opt: {"epoch_scheduler": lr_scheduler.StepLR(opt, step_size=1, gamma=0.3)},
    ),
    "plateau": (
        lambda: {"scheduler": schedulers.ReduceLROnPlateau(LR, patience=0, threshold=0.5, factor=0.3)},
        lambda opt: {"plateau_scheduler": lr_scheduler.ReduceLROnPlateau(opt, patience=0, threshold=0.5, factor=0.3)},
    ),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip": 0.2},
    "in parts": {"part_size": 6},
    "clipped, in parts": {"clip": 0.2, "part_size": 6},
}


class Batches(Sampler):
    """For torch's DataLoader, which wants lists of indices."""

    def __iter__(self) -> Any:
        return (indices.tolist() for indices in super().__iter__())


class Recipe:
    """One training, as each of the loops takes it; makes everything anew for every loop."""

    def __init__(
        self, rule: str, schedule: str, seed: int | None = 5, dropout: float = 0.0, augment: Any = None, **options: Any
    ) -> None:
        self.update, self.opt = RULES[rule]
        self.by_hand, self.by_torch = SCHEDULES[schedule]
        self.seed, self.dropout, self.augment, self.options = seed, dropout, augment, options
        generator = torch.Generator().manual_seed(8)
        self.x = torch.randn(SAMPLES + VALID, 12, generator=generator)
        self.y = (self.x @ torch.randn(12, 4, generator=generator)).argmax(dim=1)
        self.data = Dataset(self.x[:SAMPLES], self.y[:SAMPLES])
        self.valid = (self.x[SAMPLES:], self.y[SAMPLES:])

    def sampler(self) -> Sampler:
        return Sampler(SAMPLES, BATCH_SIZE, self.seed)

    def model(self, layers: bool = False) -> Any:
        torch.manual_seed(0)
        if layers:
            made: dict[str, Any] = {"0": Linear(12, 9), "1": ReLU(), "3": Linear(9, 4)}
            made = made if not self.dropout else {**made, "2": Dropout(self.dropout)}
            return Layers(dict(sorted(made.items())))
        between = [nn.Dropout(self.dropout)] if self.dropout else []
        return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), *between, nn.Linear(9, 4))

    def run(self, loop: Callable[..., Any], rung: int, loader: Any = None) -> list[Tensor]:
        """The weights in which a loop ends."""
        model = self.model(layers=rung == 1)
        options = {"metrics": [accuracy, error_rate], **self.options}
        arguments: list[Any] = [EPOCHS, model, F.cross_entropy]
        if rung <= 2:
            options |= {"lr": LR, "update": self.update(), **self.by_hand()}
        elif rung == 3:
            arguments.append(Optimizer(model.parameters(), LR, self.update() or updates.sgd))
            options |= self.by_hand()
        else:
            arguments.append(self.opt(model.parameters(), LR))
            options |= self.by_torch(arguments[-1])
        if rung <= 4:
            arguments += [(self.data.x, self.data.y), list(in_order(self.valid, 10)), self.sampler()]
        elif rung == 5:
            arguments += [self.data, list(in_order(self.valid, 10)), self.sampler()]
        else:
            arguments += [loader(), TensorLoader(Dataset(*self.valid), Sampler(VALID, 10))]
        if self.augment is not None and rung <= 5:
            options["augment"] = keyed(self.augment, self.seed or 0)
        torch.manual_seed(1)  # what dropout draws from
        loop(*arguments, **options)
        return [parameter.detach() for parameter in model.parameters()]

    def loaders(self) -> dict[str, Callable[[], Any]]:
        """Each kind of loader over the training data."""
        if self.augment is not None:
            change = keyed(self.augment, self.seed or 0)
            return {"by hand": lambda: AugmentingLoader(self.data, self.sampler(), change)}

        def torch_s() -> Any:
            return torch.utils.data.DataLoader(
                self.data,
                batch_sampler=Batches(SAMPLES, BATCH_SIZE, self.seed),
                generator=torch.Generator(),  # or it would draw from the generator of dropout
            )

        return {
            "by hand": lambda: TensorLoader(self.data, self.sampler()),
            "sample by sample": lambda: DataLoader(self.data, self.sampler()),
            "torch's": torch_s,
        }

    def runs(self) -> dict[str, Callable[[], list[Tensor]]]:
        """Every loop, with every kind of loader."""
        indexed = [
            (1, loops.raw_layers),
            (2, loops.parameters),
            (3, loops.own_optimizer),
            (4, loops.torch_optimizer),
            (5, loops.with_dataset),
        ]
        found = {loop.__name__: lambda loop=loop, rung=rung: self.run(loop, rung) for rung, loop in indexed}
        for name, loader in self.loaders().items():
            found[f"with_loader, {name}"] = lambda loader=loader: self.run(loops.with_loader, 6, loader)
        found["fit"] = lambda: self.run(fit, 7, self.loaders()["by hand"])
        return found


def check(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Assert that all loops agree in lines and weights; returns the lines."""
    ends, lines = {}, {}
    for name, run in recipe.runs().items():
        ends[name] = run()
        lines[name] = capsys.readouterr().out.splitlines()
    first = lines["raw_layers"]
    assert len(first) == EPOCHS
    for name, weights in ends.items():
        assert lines[name] == first, name
        for mine, other in zip(ends["raw_layers"], weights, strict=True):
            assert torch.equal(mine, other), name
    return first


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("rule", "schedule"), list(itertools.product(RULES, SCHEDULES)))
def test_all_seven_loops_end_in_the_same_bits_and_print_the_same_lines(
    rule: str, schedule: str, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check(Recipe(rule, schedule, **OPTIONS[options]), capsys)


@pytest.mark.parametrize(
    "recipe",
    [
        {"seed": None},
        {"dropout": 0.4},
        {"dropout": 0.4, "part_size": 6},
        {"augment": random_flip},
        {"augment": random_flip, "dropout": 0.3, "part_size": 5, "clip": 0.5},
        {"part_size": 1},
        {"part_size": 1000},
    ],
    ids=lambda options: re.sub(" at 0x[0-9a-f]+", "", str(options)),  # no addresses: several processes run the tests
)
def test_they_agree_also_on(recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    check(Recipe("momentum", "one cycle", **recipe), capsys)


def test_every_option_changes_what_is_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    """Or the loops would agree because they all leave it out."""
    recipes: list[dict[str, Any]] = [{}, {"clip": 0.2}, {"part_size": 6}, {"augment": random_flip}, {"dropout": 0.4}]
    points = [
        *(Recipe("sgd", "constant", **options) for options in recipes),
        Recipe("sgd", "constant", seed=6),
        *(Recipe("sgd", schedule) for schedule in SCHEDULES if schedule != "constant"),
        *(Recipe(rule, "constant") for rule in RULES if rule != "sgd"),
    ]
    ends = [torch.cat([weights.flatten() for weights in point.run(loops.raw_layers, 1)]) for point in points]
    for one, other in itertools.combinations(ends, 2):
        assert not torch.equal(one, other)


def test_the_same_loop_again_ends_in_the_same_bits(capsys: pytest.CaptureFixture[str]) -> None:
    for run in Recipe("adam", "plateau", dropout=0.2, clip=0.5).runs().values():
        first, lines = run(), capsys.readouterr().out
        assert all(torch.equal(mine, same) for mine, same in zip(first, run(), strict=True))
        assert capsys.readouterr().out == lines


def test_the_loops_learn(capsys: pytest.CaptureFixture[str]) -> None:
    lines = check(Recipe("adam", "constant"), capsys)
    losses = [float(line.split()[3]) for line in lines]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.85 * losses[0]


def test_fit_returns_the_numbers_that_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe("sgd", "constant")
    model = recipe.model()
    valid = [recipe.valid]
    opt = torch.optim.SGD(model.parameters(), LR)
    rows = fit(2, model, F.cross_entropy, opt, TensorLoader(recipe.data, recipe.sampler()), valid)
    printed = [[float(part) for part in line.split()[3::2]] for line in capsys.readouterr().out.splitlines()]
    assert rows == printed
    assert not model.training  # the last thing that was done
    with torch.no_grad():
        preds = model(recipe.valid[0])
    assert rows[-1][1] == pytest.approx(F.cross_entropy(preds, recipe.valid[1]).item(), rel=1e-6)
    assert rows[-1][2] == accuracy(preds, recipe.valid[1]).item()


def test_a_frozen_layer_stays_as_it_was_on_rungs_two_to_seven(capsys: pytest.CaptureFixture[str]) -> None:
    class Frozen(Recipe):
        def model(self, layers: bool = False) -> Any:
            made = super().model(layers)
            made[0].requires_grad_(False)
            return made

    recipe = Frozen("adamw", "constant", clip=0.2)
    before = recipe.model()[0].weight
    runs = {name: run for name, run in recipe.runs().items() if name != "raw_layers"}
    ends = [run() for run in runs.values()]
    for end in ends:
        assert torch.equal(end[0], before)
        assert all(torch.equal(mine, other) for mine, other in zip(ends[0], end, strict=True))
    capsys.readouterr()

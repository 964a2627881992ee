"""The compiled engine takes eager's steps, whatever is trained; test_compiled_programs asks torch.compile itself.

With `compiler=lambda function: function` a program is the very function that torch.compile would get, which is fast
to make, and all that surrounds it is what runs in earnest.
"""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, lr_scheduler

import clearloop as cl
from clearloop import packing, rng
from clearloop.engines import CompiledEngine, payback
from clearloop.engines.compiled import CHANGES, CHECKS, PROGRAMS
from clearloop.engines.programs import Layout
from clearloop.losses import count_for
from clearloop.step import Span, TrainState
from clearloop.tree import length
from clearloop.weights import named_tensors

STEPS, EPOCHS, BATCH_SIZE, SAMPLES = 9, 3, 5, 43  # steps an epoch, the last of three samples
EAGER = 1 + CHECKS  # steps of a run that are not compiled ones


def plain(function: Any) -> Any:
    """A compiler that compiles nothing."""
    return function


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Programs that Learners make are the plain functions, at once, on every machine."""
    monkeypatch.setitem(CompiledEngine.__init__.__kwdefaults__, "compiler", plain)
    monkeypatch.setattr("clearloop.engines.compiled.no_compiler", lambda device: None)
    monkeypatch.setattr("clearloop.learner.SPAN_SECONDS", 1e9)  # spans of 1, 2, 4 and more steps on any machine
    monkeypatch.setenv("CLEARLOOP_HOME", str(tmp_path / "cache"))


# -- what is trained ---------------------------------------------------------------------------------------------------


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x, z):
        return self.head(torch.tanh(self.first(x) + self.second(z)))


class Odd(nn.Module):
    """With parameters that nothing uses, weights that are tied, and buffers that are put anew."""

    def __init__(self):
        super().__init__()
        self.encode, self.unused = nn.Linear(6, 3), nn.Linear(2, 2)
        self.decode = nn.Linear(6, 3, bias=False)
        self.decode.weight = self.encode.weight
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            self.calls = self.calls + 1
        return self.encode(x - self.mean) + self.decode(x)


class Outputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 2), nn.Linear(2, 6)

    def forward(self, x):
        code = torch.tanh(self.encode(x))
        return self.decode(code), code


def reconstruction(preds: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    return F.mse_loss(preds[0], targets) + 0.01 * preds[1].abs().mean()


def arrays() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(SAMPLES, 6, generator=generator), torch.randint(3, (SAMPLES,), generator=generator)


def tensors(**options: Any) -> cl.DataLoader:
    return cl.DataLoader(cl.TensorDataset(*arrays()), BATCH_SIZE, shuffle=True, seed=3, **options)


def of(dataset: Any, **options: Any) -> cl.DataLoader:
    return cl.DataLoader(dataset, BATCH_SIZE, shuffle=True, seed=3, **options)


class Rows(cl.Dataset):
    """A dataset of one's own, whose samples are dicts of tensors with noise of the run."""

    def __len__(self):
        return SAMPLES

    def gather(self, indices):
        x, y = arrays()
        return {"x": x[indices] + 0.01 * torch.randn(len(x[indices]), 1), "z": x[indices]}, y[indices]


def noisy(batch: Any) -> Any:
    """A transform that draws the run's random numbers."""
    return batch[0] + 0.1 * torch.randn_like(batch[0]), *batch[1:]


def shifted(images: Tensor, keys: Tensor) -> Tensor:
    return images + (keys % 3).float()[:, None]


class Mix(cl.Callback):
    def before_step(self, learn):
        learn.window = [(x + x.flip(0), y) for x, y in learn.window]


class Halve(cl.Callback):
    """No batch is as large as the first that was seen."""

    def before_step(self, learn):
        learn.window = [(x[:3], y[:3]) for x, y in learn.window]


class Freeze(cl.Callback):
    """The first layer is frozen in the second epoch."""

    def before_fit(self, learn):
        self.before_epoch(learn)

    def before_epoch(self, learn):
        learn.model[0].requires_grad_(learn.epoch != 1)


class Anneal(cl.Callback):
    """Puts another buffer in place of the model's before each step."""

    def before_step(self, learn):
        learn.model.scale = torch.tensor(1 + 0.1 * learn.history.steps)


class Scaled(nn.Linear):
    def __init__(self):
        super().__init__(6, 3)
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x):
        return super().forward(x) * self.scale


def two_groups(parameters: Any, lr: float) -> SGD:
    first, *others = parameters
    return SGD([{"params": [first], "lr": lr / 10, "weight_decay": 0.1}, {"params": others}], lr=lr, momentum=0.5)


def foreign() -> Any:
    return torch.utils.data.DataLoader([(x, y) for x, y in zip(*arrays(), strict=True)], BATCH_SIZE)


def subset() -> cl.DataLoader:
    more = torch.cat([arrays()[0], torch.ones(7, 6)]), torch.cat([arrays()[1], torch.ones(7, dtype=torch.int64)])
    return of(cl.Subset(cl.Subset(cl.TensorDataset(*more), torch.arange(49)), torch.arange(SAMPLES)))


LINEAR = functools.partial(nn.Linear, 6, 3)
CASES: dict[str, dict[str, Any]] = {
    "batch norm, dropout, one cycle, clipping": {"clip": 0.5, "schedule": cl.one_cycle(0.1, EPOCHS * STEPS)},
    "a constant learning rate": {},
    "StepLR": {"schedule": functools.partial(lr_scheduler.StepLR, step_size=1)},
    "warm restarts": {"schedule": functools.partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=4)},
    "OneCycleLR without momentum": {
        "schedule": functools.partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=40, cycle_momentum=False)
    },
    "a lambda a step": {
        "schedule": cl.TorchSchedule(functools.partial(lr_scheduler.LambdaLR, lr_lambda=lambda n: 0.9**n), per="step")
    },
    "accumulation": {"accumulate": 4, "clip": 0.5},
    "momentum": {"opt_func": functools.partial(SGD, momentum=0.9, nesterov=True, weight_decay=0.01)},
    "dampening": {"opt_func": functools.partial(SGD, momentum=0.9, dampening=0.5)},
    "uphill": {"opt_func": functools.partial(SGD, maximize=True, weight_decay=0.1)},
    "Adam": {"opt_func": functools.partial(Adam, weight_decay=0.1), "clip": 0.5},
    "AdamW": {"opt_func": functools.partial(AdamW, weight_decay=0.1)},
    "amsgrad": {"opt_func": functools.partial(AdamW, amsgrad=True, maximize=True)},
    "groups": {"opt_func": two_groups, "schedule": cl.one_cycle(0.1, EPOCHS * STEPS)},
    "averages": {"cbs": cl.EMA(0.9)},
    "a changed window": {"cbs": Mix()},
    "smaller batches": {"cbs": Halve(), "opt_func": Adam},
    "a changed buffer": {"cbs": Anneal(), "model": Scaled},
    "odd parameters and buffers": {"model": Odd, "opt_func": functools.partial(AdamW, weight_decay=0.1)},
    "float64": {"model": lambda: mlp().double(), "data": lambda: tensors_as(torch.float64), "opt_func": Adam},
    "a tuple of inputs": {"model": TwoInputs, "data": lambda: of(cl.TensorDataset(arrays()[0], *arrays()))},
    "a dict of inputs": {"model": TwoInputs, "data": lambda: of(Rows())},
    "several outputs": {
        "model": Outputs,
        "data": lambda: of(cl.TensorDataset(arrays()[0], arrays()[0])),
        "loss_func": reconstruction,
    },
    "class weights": {"loss_func": nn.CrossEntropyLoss(torch.tensor([0.2, 1.0, 3.0])), "accumulate": 2},
    "labels left out": {"loss_func": functools.partial(F.cross_entropy, ignore_index=0)},
    "a subset": {"data": subset},
    "torch's TensorDataset": {"data": lambda: of(torch.utils.data.TensorDataset(*arrays()))},
    "items": {"data": lambda: of([(x, int(y)) for x, y in zip(*arrays(), strict=True)])},
    "augmentation": {"data": lambda: tensors(augment=shifted)},
    "a transform that draws": {"data": lambda: of(cl.TensorDataset(*arrays(), transform=noisy))},
    "the last batch left out": {"data": lambda: tensors(drop_last=True)},
    "one batch an epoch": {"data": lambda: cl.DataLoader(cl.TensorDataset(*arrays()), 64), "epochs": 8},
    "bfloat16": {"precision": "bf16"},
}


def tensors_as(dtype: torch.dtype) -> cl.DataLoader:
    x, y = arrays()
    return of(cl.TensorDataset(x.to(dtype), y))


def learner(
    fast: str = "compile", model: Any = mlp, data: Any = tensors, loss_func: Any = F.cross_entropy, **options: Any
) -> cl.Learner:
    options = {"lr": 0.05, "seed": 5, "device": "cpu"} | options
    options.pop("epochs", None), options.pop("schedule", None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cl.Learner((data(), None), model(), loss_func, fast=fast, **options)


def trained(fast: str = "compile", *, epochs: int = EPOCHS, schedule: Any = None, **options: Any) -> cl.Learner:
    learn = learner(fast, **options)
    learn.fit(epochs, schedule=schedule, quiet=True)
    return learn


def bits(learn: cl.Learner) -> list[Any]:
    """All that a run ends with."""
    kept = [values for group in learn.opt.param_groups for p in group["params"] for values in [learn.opt.state[p]]]
    flat = [*named_tensors(learn.model).values(), *(value for values in kept for value in values.values())]
    states = [learn.random_states["torch"].tolist(), [group["lr"] for group in learn.opt.param_groups]]
    tensors = [(str(each.dtype), each.flatten().tolist()) if isinstance(each, Tensor) else each for each in flat]
    return [tensors, learn.history.losses, learn.history.lrs, list(map(float, learn.history.counts)), states]


def assert_close(learn: cl.Learner, other: cl.Learner, tolerance: float = 2e-4) -> None:
    """The same up to rounding; what does not round is the same."""
    for (name, one), two in zip(named_tensors(learn.model).items(), named_tensors(other.model).values(), strict=True):
        torch.testing.assert_close(
            one, two, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name} {text}"
        )
    assert learn.history.losses == pytest.approx(other.history.losses, rel=tolerance, abs=tolerance)
    assert learn.history.lrs == other.history.lrs
    assert [float(count) for count in learn.history.counts] == [float(count) for count in other.history.counts]
    assert [group["lr"] for group in learn.opt.param_groups] == [group["lr"] for group in other.opt.param_groups]
    assert torch.equal(learn.random_states["torch"], other.random_states["torch"])


def aside(learn: cl.Learner) -> str | None:
    return learn.engine.state_dict()["aside"]


@pytest.mark.parametrize("name", CASES)
def test_compiled_steps_are_eager_ones_up_to_rounding(name):
    learn, eager = trained("compile", **CASES[name]), trained("off", **CASES[name])
    assert aside(learn) is None
    assert learn.history.epochs[-1].fast_steps == learn.history.steps - EAGER
    assert_close(learn, eager, 0.02 if name == "bfloat16" else 2e-4)


@pytest.mark.parametrize("name", CASES)
def test_several_steps_a_call_are_single_ones_to_the_bit(name):
    assert bits(trained("compile:3", **CASES[name])) == bits(trained("compile", **CASES[name]))


@pytest.mark.filterwarnings("ignore:the training loader keeps its own order")
def test_a_loader_of_torch_is_compiled_too():
    learn, eager = trained("compile", data=foreign), trained("off", data=foreign)
    assert learn.engine.fast_steps == EPOCHS * STEPS - EAGER
    assert_close(learn, eager)


def test_layers_that_are_frozen_and_thawed_keep_their_steps():
    options = {"cbs": Freeze(), "opt_func": functools.partial(SGD, momentum=0.9, weight_decay=0.1)}
    learn, eager = trained(**options), trained("off", **options)
    assert learn.engine.fast_steps == EPOCHS * STEPS - EAGER
    assert_close(learn, eager)


def test_a_layer_that_is_thawed_first_takes_an_eager_step():
    class Thaw(cl.Callback):
        def before_epoch(self, learn):
            learn.model[0].requires_grad_(learn.epoch > 0)

    learn, eager = trained(cbs=Thaw(), opt_func=Adam), trained("off", cbs=Thaw(), opt_func=Adam)
    assert learn.engine.fast_steps == EPOCHS * STEPS - EAGER - 1
    assert_close(learn, eager)


def test_what_changes_all_the_time_is_left_to_eager_steps():
    class Decay(cl.Callback):
        def after_step(self, learn):
            learn.opt.param_groups[0]["weight_decay"] = 0.01 * learn.history.steps

    with pytest.warns(UserWarning, match="an option of the optimizer, changes all the time"):
        learn = trained(cbs=Decay())
    assert 0 < learn.engine.fast_steps <= CHANGES + 1
    assert_close(learn, trained("off", cbs=Decay()))


@pytest.mark.parametrize("scheduler", [lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR])
def test_a_schedule_that_cycles_momentum_is_left_to_eager_steps_and_the_next_fit_is_not(scheduler):
    limits = {"max_lr": 0.2, **({"total_steps": 40} if scheduler is lr_scheduler.OneCycleLR else {"base_lr": 0.01})}
    runs = {}
    for fast in ("compile", "off"):
        learn = runs[fast] = learner(fast, opt_func=functools.partial(SGD, momentum=0.9))
        cycle = functools.partial(scheduler, **limits)
        for schedule in (None, cycle, None):
            if fast == "compile" and schedule is not None:
                with pytest.warns(UserWarning, match="cycle_momentum=False"):
                    learn.fit(1, schedule=schedule, quiet=True)
            else:
                learn.fit(1, schedule=schedule, quiet=True)
    first, second, third = (record.fast_steps for record in runs["compile"].history.epochs)
    assert (first, third) == (STEPS - EAGER, second + STEPS - EAGER)
    assert second <= first + 1
    assert_close(runs["compile"], runs["off"])


# -- data --------------------------------------------------------------------------------------------------------------


def test_other_data_of_the_same_shapes_are_seen_by_the_next_fit():
    runs = []
    for fast in ("compile", "off"):
        learn = learner(fast)
        learn.fit(2, quiet=True)
        x, y = arrays()
        learn.dls = cl.DataLoaders(of(cl.TensorDataset(x.flip(0) * 3, y)))
        learn.fit(2, quiet=True)
        runs.append(learn)
    assert runs[0].engine.fast_steps == 4 * STEPS - EAGER
    assert_close(*runs)


def test_another_transform_is_seen_by_the_next_fit():
    runs = []
    for fast in ("compile", "off"):
        learn = learner(fast)
        learn.fit(2, quiet=True)
        learn.dls.train.dataset.transform = lambda batch: (batch[0] * 2, *batch[1:])
        learn.fit(2, quiet=True)
        runs.append(learn)
    assert_close(*runs)


@pytest.mark.parametrize("make", [tensors, subset, lambda: tensors(augment=shifted), lambda: of(Rows())])
def test_programs_gather_from_tensors_by_themselves(make):
    batches = make().batches(0)
    known = batches.tensors is not None
    assert known == (make in (tensors, subset))
    if known:
        expected = next(make().batches(0))
        assert all(map(torch.equal, batches.made(batches.take(1)[0]), expected))


def test_batches_are_made_one_step_at_a_time_where_that_may_draw():
    made = []

    class Watched(cl.Dataset):
        def __len__(self):
            return SAMPLES

        def gather(self, indices):
            made.append(len(indices))
            x, y = arrays()
            return x[indices], y[indices]

    seen = []

    class Look(cl.Callback):
        interval = STEPS

        def after_step(self, learn):
            seen.append(learn.history.steps)

    learn = learner("compile:4", data=lambda: of(Watched()))
    calls = []
    program = learn.engine.compiler
    learn.engine.compiler = lambda function: lambda *parts: calls.append(len(made)) or program(function)(*parts)
    learn.fit(EPOCHS, quiet=True)
    assert calls == sorted(set(calls))  # never two steps of batches that were made together


def test_a_transform_that_changes_how_many_samples_there_are_counts_as_it_does_in_eager_steps():
    def doubled(batch):
        return torch.cat([batch[0], batch[0].flip(1)]), torch.cat([batch[1], batch[1]])

    def data():
        return of(cl.TensorDataset(*arrays(), transform=doubled))

    learn = trained(data=data)
    assert any("differ: the samples of a batch" in note for note in learn.engine.notes)
    assert bits(learn) == bits(trained("off", data=data))


def test_batches_of_many_sizes_are_left_to_eager_steps():
    def sizes():
        return [(x, y) for n in range(2, 20) for x, y in [(torch.ones(n, 6) * n, torch.ones(n, dtype=torch.int64))]]

    def data():
        return torch.utils.data.DataLoader(sizes(), batch_size=None)

    with (
        pytest.warns(UserWarning, match=rf"more than {PROGRAMS} sizes"),
        pytest.warns(UserWarning, match="keeps its own order"),
    ):
        learn = trained(data=data, epochs=1)
    assert learn.engine.fast_steps == PROGRAMS - CHECKS


# -- what is trusted ---------------------------------------------------------------------------------------------------


def wrong(change: Any, after: int = 0) -> Any:
    """A compiler whose programs do something else from some call on."""
    calls = [0]

    def compiler(function):
        def program(weights, buffers, kept, windows, lrs):
            losses = function(weights, buffers, kept, windows, lrs)
            calls[0] += 1
            return change(weights, buffers, kept, losses) or losses if calls[0] > after else losses

        return program

    return compiler


def other_weights(weights, buffers, kept, losses):
    weights[0][0].mul_(1.001)


def other_buffers(weights, buffers, kept, losses):
    buffers["model.1.running_mean"].add_(0.01)


def other_moments(weights, buffers, kept, losses):
    kept[0][0][0].mul_(1.01)


def other_losses(weights, buffers, kept, losses):
    return [loss + 0.1 for loss in losses]


def other_draws(weights, buffers, kept, losses):
    torch.rand(1)


def python_draws(weights, buffers, kept, losses):
    import random

    random.random()


def lost(weights, buffers, kept, losses):
    weights[0][0].fill_(math.nan)


WRONG = [other_weights, other_buffers, other_moments, other_losses, other_draws, python_draws, lost]


@pytest.mark.parametrize("after", [0, CHECKS - 1])
@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_program_is_found_and_eager_steps_are_taken_to_the_bit(change, after):
    options = {"opt_func": functools.partial(SGD, momentum=0.9), "schedule": cl.one_cycle(0.1, EPOCHS * STEPS)}
    learn = learner(**options)
    learn.engine.compiler = wrong(change, after)
    with pytest.warns(UserWarning, match="compiled and eager steps differ"):
        learn.fit(EPOCHS, schedule=options["schedule"], quiet=True)
    assert learn.engine.fast_steps == 0
    assert bits(learn) == bits(trained("off", **options))


def test_a_program_of_several_steps_with_other_bits_is_not_used():
    learn, single = learner("compile:3"), trained("compile")

    def compiler(function):
        def program(weights, buffers, kept, windows, lrs):
            losses = function(weights, buffers, kept, windows, lrs)
            if len(windows) > 1:
                weights[0][0].view(-1)[0].add_(1e-6)
            return losses

        return program

    learn.engine.compiler = compiler
    learn.fit(EPOCHS, quiet=True)
    assert any("one step a call: 3 steps in one call end in other bits" in note for note in learn.engine.notes)
    assert bits(learn) == bits(single)


class Cannot(Exception):
    """What a compiler raises."""


def failing(calls: dict[str, int], which: Any) -> Any:
    """A compiler that fails for some windows, in the middle of the first call."""

    def compiler(function):
        def program(weights, buffers, kept, windows, lrs):
            if which(windows):
                calls["failed"] = calls.get("failed", 0) + 1
                weights[0][0].add_(1.0)  # by then it has begun
                raise Cannot("no such kernel\nRuntimeError: a matrix is missing.")
            return function(weights, buffers, kept, windows, lrs)

        return program

    return compiler


def size_of(windows: Any) -> int:
    source = windows[0][0][0]
    return len(source) if isinstance(source, Tensor) else length(source[1])


def test_a_program_that_cannot_be_made_loses_nothing():
    learn, calls = learner(), {}
    learn.engine.compiler = failing(calls, lambda windows: True)
    with pytest.warns(UserWarning, match=r"the step cannot be compiled: RuntimeError: a matrix is missing$"):
        learn.fit(EPOCHS, quiet=True)
    assert calls["failed"] == 2  # with indices, and with batches
    assert learn.engine.fast_steps == 0
    assert bits(learn) == bits(trained("off"))


@pytest.mark.parametrize("fast", ["compile", "compile:3"])
def test_a_tail_whose_program_cannot_be_made_is_left_to_eager_steps_and_the_run_resumes(fast, monkeypatch):
    def compiler(function):
        return failing(calls, lambda windows: size_of(windows) == 3)(function)

    calls: dict[str, int] = {}
    monkeypatch.setitem(CompiledEngine.__init__.__kwdefaults__, "compiler", compiler)
    learn = trained(fast)
    assert calls == {"failed": 1}
    assert learn.engine.fast_steps == EPOCHS * STEPS - EAGER - EPOCHS
    (note,) = (note for note in learn.engine.notes if note.startswith("eager steps"))
    assert "smaller: the step cannot be compiled: RuntimeError: a matrix is missing" in note
    assert_close(learn, trained("off"))
    for at in (STEPS - 1, STEPS, STEPS + 1, 2 * STEPS):
        assert bits(resumed(fast, at, {})) == bits(learn)


def test_a_tail_whose_program_is_wrong_is_left_to_eager_steps():
    learn = learner()

    def compiler(function):
        def program(weights, buffers, kept, windows, lrs):
            losses = function(weights, buffers, kept, windows, lrs)
            if size_of(windows) == 3:
                weights[0][0].fill_(math.nan)
            return losses

        return program

    learn.engine.compiler = compiler
    learn.fit(EPOCHS, quiet=True)
    assert learn.engine.fast_steps == EPOCHS * STEPS - EAGER - EPOCHS
    assert_close(learn, trained("off"))


def test_a_program_of_several_steps_that_cannot_be_made_loses_nothing():
    learn, calls = learner("compile:3"), {}
    learn.engine.compiler = failing(calls, lambda windows: len(windows) > 1)
    learn.fit(EPOCHS, quiet=True)
    assert calls == {"failed": 1}
    assert bits(learn) == bits(trained("compile"))


@pytest.mark.parametrize("data", [tensors, lambda: of(cl.TensorDataset(*arrays(), transform=noisy))])
def test_where_the_gathering_cannot_be_compiled_batches_are_given(data):
    learn, calls = learner(data=data), {}
    learn.engine.compiler = failing(calls, lambda windows: isinstance(windows[0][0][0], Tensor))
    learn.fit(EPOCHS, quiet=True)
    assert calls == {"failed": 1}
    assert learn.engine.state_dict()["inside"] is False
    assert learn.engine.fast_steps == EPOCHS * STEPS - EAGER
    assert_close(learn, trained("off", data=data))


def test_hooks_on_gradients_are_called_and_change_no_bits():
    class Watch(cl.Callback):
        """Looks at one step in each epoch."""

        def __init__(self):
            self.seen = []

        def before_epoch(self, learn):
            weight = learn.model[0].weight
            self.hook = weight.register_hook(lambda grad: self.seen.append((learn.history.steps, grad.norm())))

        def after_step(self, learn):
            self.hook.remove()

    watch = Watch()
    assert bits(trained("compile:3", cbs=watch)) == bits(trained("compile"))
    assert [step for step, _ in watch.seen] == [0, STEPS, 2 * STEPS]
    assert all(isinstance(norm, Tensor) for _, norm in watch.seen)


def test_hooks_that_change_gradients_are_found():
    learn = learner()
    learn.model[0].weight.register_hook(lambda grad: 2 * grad)
    with pytest.warns(UserWarning, match=r"differ: 0\.weight by"):
        learn.fit(EPOCHS, quiet=True)
    assert learn.engine.fast_steps == 0


def test_errors_of_a_program_that_was_trusted_are_the_users():
    class Broken(cl.Callback):
        def after_epoch(self, learn):
            learn.dls.train.dataset.tensors[1].fill_(7)  # labels that are none

    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        trained(cbs=Broken())


@pytest.mark.parametrize("fast", ["compile", "compile:3"])
def test_a_loss_that_is_not_finite_names_its_step(fast):
    class Spoil(cl.Callback):
        interval = 4

        def after_step(self, learn):
            if learn.history.steps == 13:
                learn.model[0].weight.data.fill_(math.inf)

    with pytest.raises(cl.NonFiniteError, match="step 13"):
        trained(fast, cbs=Spoil())


# -- spans and resuming ------------------------------------------------------------------------------------------------


def state_of(model: nn.Module) -> TrainState:
    opt = Adam(model.parameters(), lr=0.01)
    example = next(tensors().batches(0))
    return TrainState(model, opt, F.cross_entropy, model, count_for(F.cross_entropy), 0.5, None, example)


@functools.cache
def in_one_span(steps_per_call: int, lrs: bool) -> list[Any]:
    return in_spans([20], steps_per_call, lrs)


def in_spans(spans: list[int], steps_per_call: int, lrs: bool) -> list[Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    state, engine = state_of(mlp()), CompiledEngine(compiler=plain, steps_per_call=steps_per_call)
    batches, rates, losses = tensors_of_size(2).batches(0), [0.01 + 0.001 * (step // 3) for step in range(20)], []
    for steps in spans:
        first = len(losses)
        span = Span(batches, steps, rates[first : first + steps] if lrs else None, 1, first, 20 - first)
        losses += engine.run(state, span)[0]
    return [[float(loss) for loss in losses], [t.tolist() for t in named_tensors(state.model).values()]]


def tensors_of_size(batch_size: int) -> cl.DataLoader:
    return cl.DataLoader(cl.TensorDataset(*arrays()), batch_size, shuffle=True, seed=3)


@pytest.mark.parametrize("lrs", [True, False])
@settings(max_examples=20)
@given(cuts=st.sets(st.integers(1, 19)), steps_per_call=st.sampled_from([1, 2, 3, 8]))
def test_spans_cut_anywhere_give_the_same_bits(lrs, cuts, steps_per_call):
    edges = [0, *sorted(cuts), 20]
    spans = [stop - start for start, stop in itertools.pairwise(edges)]
    assert in_spans(spans, steps_per_call, lrs) == in_one_span(1, lrs)


class Interrupt(cl.Callback):
    """Ctrl-C in the middle of a step: the run stops after it."""

    recorded = False

    def __init__(self, at: int) -> None:
        self.at = at

    def after_step(self, learn):
        if learn.history.steps == self.at:
            signal.raise_signal(signal.SIGINT)


RESUMED = {
    "one cycle": {"schedule": cl.one_cycle(0.1, EPOCHS * STEPS), "opt_func": functools.partial(SGD, momentum=0.9)},
    "accumulation": {"accumulate": 4},
    "augmentation": {"data": lambda: tensors(augment=shifted)},
    "odd": {"model": Odd, "opt_func": AdamW},
    "freezing": {"cbs": [Freeze()]},
    "smaller batches": {"cbs": [Halve()], "opt_func": Adam},
}


def stopped(fast: str, at: int, options: dict[str, Any]) -> cl.Learner:
    """A run that is stopped after a step."""
    learn = learner(fast, **{**options, "cbs": [*options.get("cbs", []), Interrupt(at)]})
    with pytest.raises(KeyboardInterrupt):
        learn.fit(EPOCHS, schedule=options.get("schedule"), quiet=True)
    return learn


def resumed(fast: str, at: int, options: dict[str, Any]) -> cl.Learner:
    """A run that is stopped after a step, and finished by another Learner."""
    learn, again = stopped(fast, at, options), learner(fast, **options)
    again.load_state_dict(packing.unpack(*packing.pack(learn.state_dict())), copy.deepcopy(learn.history))
    assert again.engine.state_dict() == learn.engine.state_dict()
    again.resume(quiet=True)
    return again


TELLING = [1, EAGER - 1, EAGER, EAGER + 1, STEPS - 1, STEPS, STEPS + 1, 2 * STEPS + 3]  # steps where something changes


@pytest.mark.parametrize("fast", ["compile", "compile:3"])
@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("steps", [TELLING, pytest.param(range(EPOCHS * STEPS), marks=pytest.mark.slow)])
def test_a_run_resumes_at_any_step_to_the_bit(name, fast, steps):
    options = RESUMED[name]
    whole = trained(fast, **options)
    expected = bits(whole)
    for at in (step for step in steps if 0 < step < whole.history.steps):
        again = resumed(fast, at, options)
        assert bits(again) == expected, at
        assert again.history.epochs[-1].fast_steps == whole.history.epochs[-1].fast_steps


@pytest.mark.parametrize("at", [2, EAGER + 1, STEPS])
def test_a_run_in_a_folder_resumes_to_the_bit(at, tmp_path):
    learn = stopped("compile:3", at, {"opt_func": Adam})
    learn.save(tmp_path / "run")
    parts = learner()
    again = cl.Learner.load(tmp_path / "run", dls=parts.dls, model=parts.model, cbs=[])
    assert again.engine.state_dict() == learn.engine.state_dict()
    again.resume(quiet=True)
    assert bits(again) == bits(trained("compile:3", opt_func=Adam))


@pytest.mark.filterwarnings("ignore:compiled steps were asked for")
@pytest.mark.parametrize("at", [5, 9, 11, 13])
def test_a_run_that_stepped_aside_for_what_it_saw_does_so_when_resumed(at):
    class Change(cl.Callback):
        """Another option every two steps: one change more than is borne."""

        def after_step(self, learn):
            learn.opt.param_groups[0]["weight_decay"] = 0.01 * (learn.history.steps // 2)

    options = {"cbs": [Change()]}
    whole = trained(**options)
    assert "changes all the time" in (aside(whole) or "")
    again = resumed("compile", at, options)
    assert bits(again) == bits(whole)
    assert again.engine.state_dict() == whole.engine.state_dict()


@pytest.mark.filterwarnings("ignore:compiled steps were asked for")
def test_sizes_that_were_seen_before_count_in_a_resumed_run():
    class Cut(cl.Callback):
        """Batches of eight sizes, again and again, and one of a ninth."""

        def before_step(self, learn):
            ((x, y),) = learn.window
            size = 9 if learn.history.steps == 20 else 1 + learn.history.steps % PROGRAMS
            learn.window = [(x.repeat(3, 1)[:size], y.repeat(3)[:size])]

    options = {"cbs": [Cut()], "model": LINEAR, "opt_func": Adam}
    whole = trained(**options)
    assert "sizes" in (aside(whole) or "")
    again = resumed("compile", 13, options)
    assert bits(again) == bits(whole)
    assert again.engine.state_dict() == whole.engine.state_dict()


@pytest.mark.filterwarnings("ignore:compiled steps were asked for")
def test_a_run_that_gives_batches_goes_on_so_when_resumed(monkeypatch):
    calls: dict[str, int] = {}
    compiler = failing(calls, lambda windows: isinstance(windows[0][0][0], Tensor))
    monkeypatch.setitem(CompiledEngine.__init__.__kwdefaults__, "compiler", compiler)
    resumed("compile", 9, {})
    assert calls == {"failed": 1}


@pytest.mark.parametrize("fast", ["compile", "compile:3"])
def test_gathering_that_fails_only_where_a_run_is_resumed_fails_once(fast, monkeypatch):
    calls: dict[str, int] = {}
    learn = stopped(fast, STEPS - 1, {})  # the next step is a tail
    compiler = failing(calls, lambda windows: isinstance(windows[0][0][0], Tensor) and size_of(windows) == BATCH_SIZE)
    monkeypatch.setitem(CompiledEngine.__init__.__kwdefaults__, "compiler", compiler)
    again = learner(fast)
    again.load_state_dict(packing.unpack(*packing.pack(learn.state_dict())), copy.deepcopy(learn.history))
    again.resume(quiet=True)
    assert calls == {"failed": 1}
    assert again.engine.fast_steps == EPOCHS * STEPS - EAGER
    assert_close(again, trained("off"))


def test_runs_of_before_there_was_a_choice_are_loaded():
    learn = trained("off", epochs=1)
    other = learner("compile")
    other.load_state_dict(learn.state_dict(), learn.history)
    other.fit(2, quiet=True)
    assert other.engine.fast_steps == 2 * STEPS - EAGER


# -- auto --------------------------------------------------------------------------------------------------------------


class Fixed(payback.Timing):
    """Ten steps are enough to know that each takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(warm_up=0)
        self.fixed = seconds

    known = property(lambda timing: timing.steps >= 10)
    seconds = property(lambda timing: timing.fixed)


def auto(eager: float, fast: float, **options: Any) -> cl.Learner:
    """A Learner whose eager and compiled steps take so long, as far as its engine can see."""
    learn = learner("auto", **options)
    learn.engine._eager_time, learn.engine._fast_time = Fixed(eager), Fixed(fast)
    return learn


@pytest.fixture
def pays(monkeypatch):
    """A program costs nothing, and may save whatever a step takes."""
    monkeypatch.setattr(payback, "overhead", lambda state: 1e9)
    monkeypatch.setattr(payback, "COLD_S", 0.0)


def test_auto_compiles_whole_batches_where_that_pays(pays):
    learn = auto(eager=1.0, fast=0.1)
    learn.fit(EPOCHS, quiet=True)
    assert aside(learn) is None
    since = learn.engine.state_dict()["since"]
    whole = [step for step in range(since, EPOCHS * STEPS) if step % STEPS != STEPS - 1]  # tails are eager
    assert learn.engine.fast_steps == len(whole) > 0
    (note,) = learn.engine.notes
    assert note.startswith("compiled steps: 100 ms each, eager ones took 1e+03")
    assert_close(learn, trained("off"))


def test_the_choice_of_auto_is_in_every_checkpoint(pays, tmp_path):
    learn = auto(1.0, 0.1, cbs=Interrupt(20))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(EPOCHS, quiet=True)
    learn.save(tmp_path / "run")
    ends = []
    for _ in range(2):
        parts = learner("auto")
        again = cl.Learner.load(tmp_path / "run", dls=parts.dls, model=parts.model, loss_func=F.cross_entropy, cbs=[])
        assert again.engine.state_dict()["since"] == learn.engine.state_dict()["since"] is not None
        again.resume(quiet=True)
        ends.append(bits(again))
    learn.resume(quiet=True)
    assert ends == [bits(learn)] * 2


def test_auto_takes_eager_steps_where_compiling_cannot_pay_and_says_so_once_a_fit():
    learn = auto(eager=1e-4, fast=1e-5)
    for fits, epochs in enumerate((EPOCHS, 2, 1), start=1):
        learn.fit(epochs, quiet=True)
        assert len(learn.engine.notes) == fits
    assert learn.engine.notes[0].startswith("eager steps: the ")
    other = learner("off")
    for epochs in (EPOCHS, 2, 1):
        other.fit(epochs, quiet=True)
    assert bits(learn) == bits(other)


def test_auto_goes_back_for_good_where_compiled_steps_are_slower(pays):
    learn = auto(eager=1.0, fast=2.0)
    learn.fit(6, quiet=True)
    assert learn.engine.notes == ["eager steps: compiled ones take 2e+03 ms, eager ones 1e+03"]
    fast_steps = learn.engine.fast_steps
    assert fast_steps > 0
    learn.fit(7, quiet=True)
    assert learn.engine.fast_steps == fast_steps
    assert len(learn.engine.notes) == 1


def test_the_learning_rate_finder_decides_nothing(pays):
    learn = learner("auto")
    learn.lr_find(steps=30)
    assert learn.engine.state_dict() == CompiledEngine().state_dict()
    assert learn.engine.notes == []
    found = learner("off").lr_find(steps=30)
    assert learner("compile").lr_find(steps=30).losses == found.losses


@pytest.mark.parametrize("opt_func", [Adam, functools.partial(SGD, momentum=0.9)])
@pytest.mark.parametrize("steps", [0, 2])
def test_measuring_what_a_program_could_save_leaves_no_trace(opt_func, steps):
    learn = learner(opt_func=opt_func, clip=0.5)
    state, batches = learn.prepared(), tensors().batches(0)
    learn.engine.alone.run(state, Span(batches, steps))
    before, draws = copy.deepcopy(learn.state_dict()), torch.get_rng_state()
    assert payback.overhead(state) > 0
    for part in ("model", "optim"):
        assert_equal(learn.state_dict()[part], before[part])
    assert torch.equal(draws, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in learn.model.parameters())


def assert_equal(one: Any, other: Any) -> None:
    """Nested containers of the same values."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    else:
        assert one == other


def test_what_making_a_program_took_is_known_to_the_next_process(tmp_path, monkeypatch):
    state = state_of(mlp())
    assert payback.expected_cost(state) == payback.COLD_S
    payback.note_cost(state, 1.25)
    assert payback.expected_cost(state) == 1.25
    (path,) = (tmp_path / "cache").rglob("*.json")
    again = state_of(mlp())
    again.loss_func = lambda preds, targets: F.cross_entropy(preds, targets)
    assert payback.expected_cost(again) == payback.COLD_S  # another loss
    path.write_text("[]")
    assert payback.expected_cost(state) == payback.COLD_S
    assert path.stem == "".join(character for character in path.stem if character in "0123456789abcdef")


def test_a_function_has_the_same_note_wherever_it_lies(tmp_path):
    state, other = state_of(mlp()), state_of(mlp())
    other.loss_func = type(F.cross_entropy)(F.cross_entropy.__code__, {}, "cross_entropy")  # at another address
    payback.note_cost(state, 1.25)
    assert payback.expected_cost(other) == 1.25


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLEARLOOP_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(payback, "MEASURED_S", 0.0)
    monkeypatch.setattr(payback, "FEWEST", 1)
    learn = trained(epochs=2)
    assert learn.engine._reported
    assert learn.engine.fast_steps == 2 * STEPS - EAGER


def test_a_model_that_cannot_take_two_samples_is_left_to_eager_steps():
    class Pairs(nn.Linear):
        def forward(self, x):
            if self.training and len(x) < 3:
                raise ValueError("at least three samples")
            return super().forward(x)

    with pytest.warns(UserWarning, match="it cannot be seen what is trained: at least three samples"):
        learn = trained(model=functools.partial(Pairs, 6, 3))
    assert bits(learn) == bits(trained("off", model=functools.partial(Pairs, 6, 3)))


# -- what cannot be compiled -------------------------------------------------------------------------------------------


class Mine(SGD):
    """An optimizer of one's own."""


@pytest.mark.parametrize("opt_func", [torch.optim.RMSprop, Mine])
def test_an_optimizer_that_is_not_known_is_left_to_eager_steps(opt_func):
    name = opt_func.__name__
    with pytest.warns(UserWarning, match=f"the optimizer is {name}; SGD, Adam and AdamW of torch can be compiled"):
        learn = trained(opt_func=opt_func, epochs=1)
    assert bits(learn) == bits(trained("off", opt_func=opt_func, epochs=1))


def test_an_optimizer_with_step_hooks_is_left_to_eager_steps():
    learn, steps = learner(), []
    learn.opt.register_step_post_hook(lambda *parts: steps.append(1))
    with pytest.warns(UserWarning, match="step hooks"):
        learn.fit(1, quiet=True)
    assert len(steps) == STEPS


# -- around it ---------------------------------------------------------------------------------------------------------


def test_validation_leaves_no_trace_in_compiled_runs():
    valid = cl.DataLoader(cl.TensorDataset(*arrays()), 64)
    runs = []
    for loader in (None, valid):
        learn = learner("compile:3", metrics=cl.accuracy)
        learn.dls = cl.DataLoaders(learn.dls.train, loader)
        learn.fit(EPOCHS, quiet=True)
        runs.append(bits(learn))
    assert runs[0] == runs[1]


def test_two_learners_of_one_process_do_not_disturb_each_other():
    alone = bits(trained())
    one, other = learner(), learner(opt_func=Adam)
    for _ in range(EPOCHS):
        one.fit(1, quiet=True)
        other.fit(1, quiet=True)
    again = learner()
    for _ in range(EPOCHS):
        again.fit(1, quiet=True)
    assert bits(one) == bits(again)
    assert bits(one)[0] == alone[0]  # fits one after the other are as one


def test_callers_random_states_are_as_before():
    torch.manual_seed(11)
    before = rng.capture()
    trained()
    assert torch.equal(before["torch"], torch.get_rng_state())


@pytest.mark.parametrize("fast", ["auto", "compile", "compile:3"])
def test_such_runs_are_checked_and_saved_but_not_printed(fast, tmp_path):
    learn = learner(fast, model=functools.partial(cl.models.mlp, 6, 8, 3))
    assert learn.check(quiet=True).ok
    learn.fit(1, quiet=True)
    learn.save(tmp_path / "run")
    with pytest.raises(cl.EjectError, match="the eager engine, got fast="):
        learn.eject()


def test_a_longer_run_holds_no_more_memory():
    def held(epochs: int) -> int:
        learn = trained("compile:3", epochs=epochs, opt_func=Adam)
        gc.collect()
        count = sum(type(each) in (Tensor, nn.Parameter) for each in gc.get_objects())
        assert learn.engine.fast_steps == epochs * STEPS - EAGER
        return count

    held(2)
    assert held(2) == held(8)


def test_each_learning_rate_is_a_tensor_of_its_own():
    """A program that was made for equal tensors would be made anew for others."""
    state = state_of(mlp())
    layout = Layout(state)
    for lrs in (None, [0.1, 0.1, 0.1]):
        rates = layout.lrs(state.opt, Span(iter(()), 3, lrs), 3)
        assert len({id(rate) for (rate,) in rates}) == 3
        assert all(float(rate) == pytest.approx(0.1 if lrs else 0.01) for (rate,) in rates)


def test_losses_hold_no_graph():
    state = state_of(mlp())
    losses, _ = CompiledEngine(compiler=plain).run(state, Span(tensors().batches(0), STEPS, None, 1, 0, STEPS))
    assert not any(loss.requires_grad for loss in losses)
    assert all(parameter.grad is None for parameter in state.model.parameters())

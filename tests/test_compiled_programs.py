"""The compiled engine with torch.compile itself: few and small programs, shared by the tests, as each takes seconds."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clearloop as cl
from clearloop import packing
from clearloop.engines.compiled import CHECKS, CompiledEngine, no_compiler
from clearloop.weights import named_tensors

needs_compiler = pytest.mark.skipif(no_compiler(torch.device("cpu")) is not None, reason="there is no C++ compiler")
STEPS, EPOCHS = 9, 14  # steps an epoch, the last of four samples


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What was noted of earlier programs is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEARLOOP_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("clearloop.learner.SPAN_SECONDS", 1e9)
        yield


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def data(samples: int = 44, **options: Any) -> cl.DataLoader:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(samples, 6, generator=generator), torch.randint(3, (samples,), generator=generator)
    return cl.DataLoader(cl.TensorDataset(x, y), 5, shuffle=True, seed=3, **options)


def learner(fast: str, model: Any = mlp, loader: Any = data, **options: Any) -> cl.Learner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cl.Learner(
            (loader(), None), model(), F.cross_entropy, fast=fast, lr=0.05, seed=5, device="cpu", **options
        )


def digits(fast: str, *cbs: cl.Callback) -> cl.Learner:
    """Dropout, batch norm, one cycle and clipping."""
    opt_func = functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=0.01)
    return learner(fast, opt_func=opt_func, clip=0.5, cbs=list(cbs))


def fit(learn: cl.Learner) -> cl.Learner:
    torch.set_num_threads(1)
    learn.fit(EPOCHS, schedule=cl.one_cycle(0.1, EPOCHS * STEPS), quiet=True)
    return learn


def graphs() -> int:
    """How many graphs torch has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


class Keep(cl.Callback):
    """Keeps what a checkpoint after some step would hold, and how many graphs there were then."""

    recorded = False

    def __init__(self, at: int) -> None:
        self.at = at

    def after_step(self, learn):
        if learn.history.steps == self.at:
            self.saved = copy.deepcopy(packing.pack(learn.state_dict())), copy.deepcopy(learn.history)
            self.graphs = graphs()

    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def run() -> tuple[cl.Learner, Keep]:
    """A compiled run, and its state in the middle."""
    torch.set_num_threads(1)
    keep = Keep(at=3 * STEPS)
    return fit(digits("compile", keep)), keep


def bits(learn: cl.Learner) -> list[Any]:
    kept = [values for state in learn.opt.state.values() for values in state.values() if isinstance(values, Tensor)]
    tensors = [tensor.flatten().tolist() for tensor in [*named_tensors(learn.model).values(), *kept]]
    return [tensors, learn.history.losses, learn.random_states["torch"].tolist()]


def assert_close(learn: cl.Learner, eager: cl.Learner) -> None:
    for one, two in zip(named_tensors(learn.model).values(), named_tensors(eager.model).values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    assert learn.history.losses == pytest.approx(eager.history.losses, rel=1e-3, abs=1e-4)
    assert torch.equal(learn.random_states["torch"], eager.random_states["torch"])  # the same dropout masks


@needs_compiler
def test_nearly_all_steps_are_compiled_and_end_where_eager_ones_do(run):
    learn, _ = run
    assert learn.engine.state_dict()["aside"] is None
    assert learn.history.epochs[-1].fast_steps == EPOCHS * STEPS - 1 - CHECKS >= 0.95 * EPOCHS * STEPS
    assert_close(learn, fit(digits("off")))


@needs_compiler
def test_no_program_is_made_twice(run):
    _, keep = run
    assert graphs() >= keep.graphs >= 2  # whole batches, and the last of an epoch
    before = graphs()
    learn = digits("compile")
    learn.fit(4, schedule=cl.one_cycle(0.1, 4 * STEPS), quiet=True)
    assert graphs() == before + 2


@needs_compiler
def test_a_compiled_run_resumes_to_the_bit(run):
    learn, keep = run
    state, history = keep.saved
    again = digits("compile", keep)
    again.load_state_dict(packing.unpack(*state), copy.deepcopy(history))
    again.resume(schedule=cl.one_cycle(0.1, EPOCHS * STEPS), quiet=True)
    assert bits(again) == bits(learn)
    assert again.engine.fast_steps == learn.engine.fast_steps


@needs_compiler
def test_several_steps_a_call_end_in_the_bits_of_single_ones_or_are_not_taken(run):
    learn = fit(digits("compile:3"))
    assert bits(learn) == bits(run[0])
    assert learn.engine.fast_steps == run[0].engine.fast_steps


class Counting(nn.Linear):
    """Puts another buffer in place of its own at each call."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls = self.calls + 1
        return super().forward(x)


@needs_compiler
def test_adam_accumulation_groups_and_buffers_that_are_put_anew_are_compiled():
    def groups(parameters: Any, lr: float) -> torch.optim.Optimizer:
        weight, bias = parameters
        return torch.optim.Adam([{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "lr": lr / 10}], lr=lr)

    runs = []
    for fast in ("compile", "off"):
        learn = learner(fast, Counting, lambda: data(40), opt_func=groups, accumulate=2)
        learn.fit(3, quiet=True)
        runs.append(learn)
    assert runs[0].engine.fast_steps == 12 - 1 - CHECKS
    assert_close(*runs)


class Undecided(nn.Linear):
    """Looks at the values of its inputs, which no program can."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum().item() > 0 else super().forward(-x)


@needs_compiler
def test_a_model_that_cannot_be_compiled_is_trained_eagerly_to_the_bit():
    model = functools.partial(Undecided, 6, 3)
    learn, eager = learner("compile", model), learner("off", model)
    with pytest.warns(UserWarning, match="eager ones are taken: the step cannot be compiled: "):
        learn.fit(2, quiet=True)
    eager.fit(2, quiet=True)
    assert bits(learn) == bits(eager)
    assert learn.engine.fast_steps == 0


def test_without_a_compiler_the_run_says_so_in_one_line_and_is_eager(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    learn, eager = learner("compile"), learner("off")
    with pytest.warns(UserWarning, match="there is no C.. compiler '") as caught:
        learn.fit(2, quiet=True)
    eager.fit(2, quiet=True)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert bits(learn) == bits(eager)


def test_a_compiler_is_looked_for_under_the_name_that_torch_takes(monkeypatch, tmp_path):
    (tmp_path / "my-compiler").write_text("")
    os.chmod(tmp_path / "my-compiler", 0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "my-compiler")
    assert no_compiler(torch.device("cpu")) is None
    monkeypatch.setenv("CXX", "other")
    assert "'other'" in (no_compiler(torch.device("cpu")) or "")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("opt_func", "options"),
    [
        (functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.1), {}),
        (functools.partial(torch.optim.SGD, momentum=0.9, dampening=0.5, maximize=True), {}),
        (functools.partial(torch.optim.AdamW, weight_decay=0.1, amsgrad=True), {"clip": 0.5}),
        (functools.partial(torch.optim.Adam, maximize=True), {}),
        (torch.optim.SGD, {"precision": "bf16"}),
    ],
)
def test_every_rule_is_compiled_as_it_is_taken(opt_func, options):
    runs = []
    for fast in ("compile", "off"):
        learn = learner(fast, loader=lambda: data(40), opt_func=opt_func, **options)
        learn.fit(3, quiet=True)
        runs.append(learn)
    assert runs[0].engine.state_dict()["aside"] is None
    assert runs[0].engine.fast_steps == 24 - 1 - CHECKS
    assert runs[0].history.losses == pytest.approx(
        runs[1].history.losses, rel=2e-2 if options.get("precision") else 1e-3
    )


class Python(nn.Linear):
    """Counts its calls in Python: a constant of a program, which is another one each time."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().forward(x) * (1 + 0.01 * self.calls)


@pytest.mark.slow
@needs_compiler
def test_a_model_that_is_another_program_each_time_is_left_to_eager_steps():
    learn = learner("compile", functools.partial(Python, 6, 3))
    with pytest.warns(UserWarning, match="eager ones are taken"):
        learn.fit(3, quiet=True)


@pytest.mark.slow
@needs_compiler
def test_an_interrupt_while_a_program_is_made_leaves_a_run_to_go_on_from():
    def compiler(function: Any) -> Any:
        def program(*parts: Any) -> Any:
            raise KeyboardInterrupt

        return program

    learn = learner("compile")
    learn.engine = CompiledEngine(compiler=compiler)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, quiet=True)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in named_tensors(learn.model).values())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_compiled_steps_on_a_gpu_end_where_eager_ones_do():
    runs = []
    for fast in ("compile:3", "off"):
        learn = digits(fast)
        learn = cl.Learner(
            learn.dls, learn.model, F.cross_entropy, learn.opt_func, 0.05, clip=0.5, seed=5, device="cuda", fast=fast
        )
        runs.append(fit(learn))
    assert runs[0].engine.state_dict()["aside"] is None
    assert runs[0].history.epochs[-1].fast_steps >= 0.95 * EPOCHS * STEPS
    for one, two in zip(*(named_tensors(learn.model).values() for learn in runs), strict=True):
        torch.testing.assert_close(one, two, rtol=5e-3, atol=5e-4)

"""What every engine promises: the losses, counts and weights of the steps written one after the other."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearloop import ConfigError, DataError
from clearloop.engines import CompiledEngine, EagerEngine, make_engine
from clearloop.losses import count_for
from clearloop.step import Span, TrainState, accumulated_step, set_lr, train_step

ENGINES = {"off": EagerEngine, "auto": CompiledEngine, "compile": CompiledEngine, "compile:2": CompiledEngine}
every_engine = pytest.mark.parametrize("fast", ENGINES)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of the compiled engine are the functions that torch.compile would get."""
    monkeypatch.setitem(CompiledEngine.__init__.__kwdefaults__, "compiler", lambda function: function)
    monkeypatch.setattr("clearloop.engines.compiled.no_compiler", lambda device: None)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def state_of(model: nn.Module, loss_func: Any = F.cross_entropy, **options: Any) -> TrainState:
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return TrainState(model, opt, loss_func, model, count_for(loss_func), example=next(batches([8])), **options)


def assert_same(one: Tensor, other: Tensor, fast: str) -> None:
    """To the bit, or where steps are compiled, up to rounding."""
    torch.testing.assert_close(one, other, rtol=0.0 if fast == "off" else 1e-5, atol=0.0 if fast == "off" else 1e-6)


def batches(sizes: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        yield torch.randn(size, 4, generator=generator), torch.randint(3, (size,), generator=generator)


@every_engine
def test_each_choice_of_an_engine_makes_it(fast):
    engine = make_engine(fast)
    assert type(engine) is ENGINES[fast]


@pytest.mark.parametrize(
    "fast", ["on", "", None, True, 8, "compile:0", "compile:", "compile:100", "compile:8 ", "Compile"]
)
def test_an_engine_that_does_not_exist_is_refused(fast):
    with pytest.raises(ConfigError, match="fast must be"):
        make_engine(fast)


@every_engine
@pytest.mark.parametrize("lrs", [None, [0.3, 0.2, 0.1, 0.05, 0.2, 0.2, 0.1, 0.05]])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_span_equals_its_steps_one_after_the_other(fast, lrs, clip):
    state, by_hand = state_of(net(), clip=clip), state_of(net(), clip=clip)
    sizes = [8, 8, 8, 3, 8, 8, 8, 8]
    losses, counts = make_engine(fast).run(state, Span(batches(sizes), 8, lrs, left=8))
    for step, (inputs, targets) in enumerate(batches(sizes)):
        if lrs is not None:
            set_lr(by_hand.opt, lrs[step])
        loss = train_step(by_hand.model, F.cross_entropy, by_hand.opt, inputs, targets, clip)
        assert_same(losses[step], loss, fast)
    for one, other in zip(state.model.parameters(), by_hand.model.parameters(), strict=True):
        assert_same(one, other, fast)
    assert counts == sizes
    assert state.opt.param_groups[0]["lr"] == by_hand.opt.param_groups[0]["lr"]
    assert not any(loss.requires_grad for loss in losses)


@every_engine
def test_spans_of_any_lengths_give_the_same(fast):
    found = []
    for spans in ([9], [1] * 9, [2, 7], [8, 1]):
        state, engine, loader, losses = state_of(net()), make_engine(fast), batches([5] * 9), []
        for steps in spans:
            losses += engine.run(state, Span(loader, steps, None, 1, len(losses), 9 - len(losses)))[0]
        found.append([float(loss) for loss in losses])
    assert all(losses == found[0] for losses in found)


@every_engine
def test_a_span_takes_no_more_batches_than_its_steps_need(fast):
    loader = batches([4] * 7)
    make_engine(fast).run(state_of(net()), Span(loader, 2, None, 3))
    assert len(list(loader)) == 1


@every_engine
def test_accumulated_windows_count_all_their_samples_the_last_one_too(fast):
    state, by_hand = state_of(net()), state_of(net())
    sizes = [4, 4, 4, 2] + [4] * 10 + [3]
    losses, counts = make_engine(fast).run(state, Span(batches(sizes), 8, None, 2, left=8))
    assert counts == [8, 6, *[8] * 5, 3]
    loader = batches(sizes)
    for step in range(8):
        window = list(itertools.islice(loader, 2))
        loss = accumulated_step(by_hand.model, F.cross_entropy, by_hand.opt, window, [len(t) for _, t in window])
        assert_same(losses[step], loss, fast)


@every_engine
def test_with_class_weights_a_step_counts_the_sum_of_weights(fast):
    weight = torch.tensor([0.5, 2.0, 1.0])
    state = state_of(net(), functools.partial(F.cross_entropy, weight=weight))
    sizes = [6, 5, 6, 6, 6, 6, 5]
    _, counts = make_engine(fast).run(state, Span(batches(sizes), 7, left=7))
    expected = [float(weight[targets].sum()) for _, targets in batches(sizes)]
    assert [float(count) for count in counts] == pytest.approx(expected)


@every_engine
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("steps", [1, 6])
def test_a_loader_that_ends_early_is_reported(fast, accumulate, steps):
    span = Span(batches([4] * accumulate * steps), steps + 1, None, accumulate, left=9)
    with pytest.raises(DataError, match="the training loader ended before the number of batches"):
        make_engine(fast).run(state_of(net()), span)


@every_engine
def test_an_engine_holds_nothing_that_a_checkpoint_would_need(fast):
    one, other = state_of(net()), state_of(net())
    engine = make_engine(fast)
    first = engine.run(one, Span(batches([4, 4]), 2))[0]
    second = engine.run(other, Span(batches([4, 4]), 2))[0]  # the same engine, another run
    assert [float(loss) for loss in first] == [float(loss) for loss in second]

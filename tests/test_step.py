"""One step and one evaluation, against the same written out in plain PyTorch."""

from __future__ import annotations

import functools
import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from clearloop.guard import evaluating
from clearloop.metrics import accuracy
from clearloop.step import accumulated_step, evaluate, pair, set_lr, train_step, update

OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "RMSprop": torch.optim.RMSprop,
}
every_optimizer = pytest.mark.parametrize("make_opt", OPTIMIZERS.values(), ids=OPTIMIZERS)


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batch(samples: int = 12, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 4, generator=generator), torch.randint(3, (samples,), generator=generator)


def assert_same_bits(one: nn.Module, two: nn.Module) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@every_optimizer
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_step_equals_the_one_written_out_to_the_bit(make_opt, clip):
    ours, theirs = net(), net()
    opt, their_opt = (make_opt(model.parameters(), lr=0.05) for model in (ours, theirs))
    for step in range(5):
        inputs, targets = batch(seed=step)
        loss = train_step(ours, F.cross_entropy, opt, inputs, targets, clip)
        their_loss = F.cross_entropy(theirs(inputs), targets)
        their_loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        their_opt.step()
        their_opt.zero_grad()
        assert torch.equal(loss, their_loss.detach())
        assert not loss.requires_grad
    assert_same_bits(ours, theirs)


@every_optimizer
def test_steps_converge_on_one_batch(make_opt):
    model = net()
    opt = make_opt(model.parameters(), lr=0.5 if make_opt is torch.optim.SGD else 0.02)
    losses = [float(train_step(model, F.cross_entropy, opt, *batch())) for _ in range(300)]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("clip", [None, 0.05])
@given(cuts=st.lists(st.integers(1, 11), max_size=4))
def test_parts_of_a_batch_give_the_step_of_the_whole(clip, cuts):
    inputs, targets = (tensor.double() if tensor.is_floating_point() else tensor for tensor in batch())
    edges = [0, *sorted(set(cuts)), 12]
    window = [(inputs[a:b], targets[a:b]) for a, b in itertools.pairwise(edges)]
    whole, parts = net().double(), net().double()
    opts = [torch.optim.SGD(model.parameters(), lr=0.5) for model in (whole, parts)]
    loss = train_step(whole, F.cross_entropy, opts[0], inputs, targets, clip)
    summed = accumulated_step(parts, F.cross_entropy, opts[1], window, [len(t) for _, t in window], clip)
    torch.testing.assert_close(summed, loss)
    for a, b in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_window_of_another_length_than_its_counts_is_refused():
    model = net()
    with pytest.raises(ValueError, match="zip"):
        accumulated_step(model, F.cross_entropy, torch.optim.SGD(model.parameters()), [batch()], [12, 12])


@pytest.mark.parametrize("clip", [0.01, 0.5])
def test_clipping_bounds_the_norm_of_all_gradients_together(clip):
    model = net()
    norms = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            norms.append(torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]]).norm())

    groups = [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters())}]
    train_step(model, F.cross_entropy, Spy(groups, lr=0.1), *batch(), clip)
    assert norms[0] == pytest.approx(clip, rel=1e-3) or norms[0] < clip
    assert norms[0] <= clip


def test_an_update_clears_the_gradients():
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(batch()[0]), batch()[1]).backward()
    update(opt)
    assert all(parameter.grad is None for parameter in model.parameters())


class FakeScaler:
    """Doubles the loss and halves the gradients; records what it was asked in which order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def scale(self, loss: Tensor) -> Tensor:
        self.calls.append("scale")
        return loss * 2

    def unscale_(self, opt: Any) -> None:
        self.calls.append("unscale")
        self._halve(opt)

    def step(self, opt: Any) -> None:
        if "unscale" not in self.calls:
            self._halve(opt)
        self.calls.append("step")
        opt.step()

    def update(self) -> None:
        self.calls.append("update")

    def _halve(self, opt: Any) -> None:
        for group in opt.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 2


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_scaler_is_asked_in_the_right_order_and_changes_nothing_else(clip, parts):
    scaled, plain = net(), net()
    scaler = FakeScaler()
    inputs, targets = batch()
    for model, used in ((scaled, scaler), (plain, None)):
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        if parts == 1:
            train_step(model, F.cross_entropy, opt, inputs, targets, clip, used)
        else:
            window = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
            accumulated_step(model, F.cross_entropy, opt, window, [4, 8], clip, used)
    assert_same_bits(scaled, plain)
    assert scaler.calls == ["scale"] * parts + (["unscale"] if clip else []) + ["step", "update"]


def test_every_group_gets_the_learning_rate_times_its_scale():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 0.5}, {"params": [nn.Parameter(torch.zeros(1))]}]
    opt = torch.optim.SGD(groups, lr=1.0)
    set_lr(opt, 0.2)
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.2]


def test_the_last_of_a_batch_is_the_targets():
    a, b, c = torch.zeros(1), torch.ones(1), torch.ones(2)
    assert pair((a, b)) == (a, b)
    assert pair((a, b, c)) == ((a, b), c)
    assert pair([a, b]) == [a, b]


def test_evaluation_needs_no_gradient_and_one_pass():
    calls = []

    def model(inputs: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return inputs

    preds, targets = torch.randn(10, 3), torch.randint(3, (10,))
    batches = iter([(preds[:4], targets[:4]), (preds[4:], targets[4:])])
    loss, share = evaluate(model, F.cross_entropy, [accuracy], batches)
    assert calls == [False, False]
    assert loss == pytest.approx(F.cross_entropy(preds, targets).item(), rel=1e-6)
    assert share == (preds.argmax(1) == targets).double().mean().item()


# -- the guard around evaluation ---------------------------------------------------------------------------------------


class Changing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.frozen = nn.Dropout()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("rebound", torch.zeros(2), persistent=False)
        self.register_buffer("nothing", None)


def spoil(model: Changing) -> None:
    """Change everything that an evaluation could change."""
    assert not any(module.training for module in model.modules())
    model.count += 1
    model.rebound = torch.full((2,), 7.0)
    model.norm.train()
    model.norm(torch.randn(5, 2))
    random.random(), np.random.rand(), torch.rand(1)


@pytest.mark.parametrize("fails", [False, True])
def test_after_an_evaluation_modes_buffers_and_random_states_are_as_before(fails):
    model = Changing().train()
    model.frozen.eval()
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    try:
        with evaluating(model):
            spoil(model)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert (model.training, model.norm.training, model.frozen.training) == (True, True, False)
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1])
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_evaluations_can_be_nested():
    model = Changing()
    with evaluating(model), evaluating(model):
        spoil(model)
    assert model.training
    assert float(model.count) == 0

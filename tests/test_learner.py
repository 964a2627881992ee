"""The Learner does what the loop that one would write by hand does, to the bit, and leaves no trace elsewhere."""

from __future__ import annotations

import copy
import functools
import math
import random
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import data as torch_data

import clearloop
from clearloop import (
    Callback,
    ConfigError,
    DataError,
    DataLoader,
    DataLoaders,
    Learner,
    ModelError,
    NonFiniteError,
    TensorDataset,
    accuracy,
    models,
    mse,
    one_cycle,
)
from clearloop.data.loaders import scale_images
from clearloop.data.sampler import shuffled_order

SAMPLES, VALID, BATCH = 600, 300, 64
STEPS = math.ceil(SAMPLES / BATCH)


def states() -> list[Any]:
    """All random states of the caller."""
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, one), two in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def blobs(samples: int = 100, features: int = 5, classes: int = 3) -> TensorDataset:
    """Points around a centre for each class, unevenly many."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(classes, (samples,), generator=generator) * torch.randint(2, (samples,), generator=generator)
    return TensorDataset(torch.randn(samples, features, generator=generator) + labels[:, None], labels)


def small(
    batch_size: int = 16, samples: int = 100, valid_batch_size: int = 32, seed: int = 3
) -> tuple[DataLoader, DataLoader]:
    data = blobs(samples)
    return DataLoader(data, batch_size, shuffle=True, seed=seed), DataLoader(data, valid_batch_size)


def net(dropout: float | None = None) -> nn.Sequential:
    return seeded(lambda: models.mlp(5, 8, 3, dropout=dropout))


def learner(dls: Any = None, model: nn.Module | None = None, **options: Any) -> Learner:
    options.setdefault("seed", 0)
    return Learner(small() if dls is None else dls, net() if model is None else model, device="cpu", **options)


# -- the default path is the loop written by hand ----------------------------------------------------------------------

NETS = {
    "mlp": lambda: models.mlp(784, 32, 10, dropout=0.2),
    "cnn with batch norm": lambda: models.cnn(widths=(4, 8)),
}
OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-3, nesterov=True),
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
}
LR = {"SGD": 0.1, "momentum": 0.05, "Adam": 1e-3, "AdamW": 1e-3}


@pytest.fixture(scope="module")
def some_digits(digits) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, labels = digits.train_images, digits.train_labels
    return images[:SAMPLES], labels[:SAMPLES], images[-VALID:], labels[-VALID:]


def digit_loaders(some_digits: tuple[Tensor, ...]) -> DataLoaders:
    images, labels, valid_images, valid_labels = some_digits
    return DataLoaders(
        DataLoader(TensorDataset(images, labels, transform=scale_images), BATCH, shuffle=True, seed=7),
        DataLoader(TensorDataset(valid_images, valid_labels, transform=scale_images), 128),
    )


def train_by_hand(model, opt, images, labels, valid_images, valid_labels, schedule=None):
    """Two epochs of the loop that a careful person would write; plain PyTorch, but for the order of the samples."""
    losses, valid_rows, step = [], [], 0
    for epoch in range(2):
        model.train()
        order = shuffled_order(len(images), 7, epoch)
        for start in range(0, len(images), BATCH):
            indices = order[start : start + BATCH]
            inputs = images[indices].unsqueeze(1).float() / 255
            targets = labels[indices]
            if schedule is not None:
                for group in opt.param_groups:
                    group["lr"] = schedule(step)
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
            step += 1
        model.eval()
        with torch.no_grad():
            preds = model(valid_images.unsqueeze(1).float() / 255)
            valid_loss = F.cross_entropy(preds.double(), valid_labels).item()
            valid_rows.append((valid_loss, (preds.argmax(1) == valid_labels).double().mean().item()))
    return losses, valid_rows


@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "one cycle"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_weights_and_losses_equal_the_loop_written_by_hand_to_the_bit(some_digits, make, optimizer, scheduled):
    lr = LR[optimizer]
    by_hand = seeded(make)
    opt = OPTIMIZERS[optimizer](by_hand.parameters(), lr=lr)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        schedule = one_cycle(lr, 2 * STEPS) if scheduled else None
        losses, valid_rows = train_by_hand(by_hand, opt, *some_digits, schedule)

    learn = Learner(
        digit_loaders(some_digits),
        seeded(make),
        F.cross_entropy,
        OPTIMIZERS[optimizer],
        metrics=accuracy,
        seed=11,
        device="cpu",
    )
    if scheduled:
        learn.fit_one_cycle(2, lr, quiet=True)
    else:
        learn.fit(2, lr, quiet=True)

    assert_same_bits(learn.model, by_hand)
    assert learn.history.losses == losses
    assert learn.history.lrs == (
        [one_cycle(lr, 2 * STEPS)(step) for step in range(2 * STEPS)] if scheduled else [lr] * 2 * STEPS
    )
    counts = ([BATCH] * (STEPS - 1) + [SAMPLES - BATCH * (STEPS - 1)]) * 2
    for epoch, record in enumerate(learn.history.epochs):
        part = slice(epoch * STEPS, (epoch + 1) * STEPS)
        mean = sum(n * loss for n, loss in zip(counts[part], losses[part], strict=True)) / SAMPLES
        assert record.train_loss == pytest.approx(mean, rel=1e-12)
        assert record.valid_loss == pytest.approx(valid_rows[epoch][0], rel=1e-6)
        assert record.metrics["accuracy"] == valid_rows[epoch][1]
    assert learn.history.losses[-1] < learn.history.losses[0]


def test_a_foreign_loader_gives_what_the_loop_over_it_gives():
    def loader():
        return torch_data.DataLoader(blobs(), batch_size=16, shuffle=True)

    by_hand = net(dropout=0.3)
    opt = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = loader()
        for _ in range(3):
            for inputs, targets in theirs:
                loss = F.cross_entropy(by_hand(inputs), targets)
                loss.backward()
                opt.step()
                opt.zero_grad()
                losses.append(loss.item())

    learn = learner((loader(), None), net(dropout=0.3), seed=5)
    with pytest.warns(UserWarning, match="keeps its own order: a run that resumes inside an epoch will not be exact"):
        learn.fit(3, 0.1, quiet=True)
    assert learn.history.losses == losses
    assert_same_bits(learn.model, by_hand)


def test_the_plain_function_fit_equals_the_loop_and_weighs_by_samples(capsys):
    train_dl, valid_dl = clearloop.get_dls(blobs(), blobs(50), batch_size=12)
    train_dl = DataLoader(blobs(), 12, shuffle=True, seed=2)
    by_hand, model = net(), net()
    opt = torch.optim.SGD(by_hand.parameters(), lr=0.2)
    losses = []
    for epoch in range(2):
        for inputs, targets in DataLoader(blobs(), 12, shuffle=True, seed=2).batches(epoch):
            loss = F.cross_entropy(by_hand(inputs), targets)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append((loss.item(), len(targets)))
    rows = clearloop.fit(2, model, F.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.2), train_dl, valid_dl)
    assert_same_bits(model, by_hand)
    for epoch, (train_loss, _, _) in enumerate(rows):
        part = losses[epoch * 9 : epoch * 9 + 9]
        assert train_loss == pytest.approx(sum(loss * n for loss, n in part) / 100, rel=1e-12)
    with torch.no_grad():
        preds, targets = model(blobs(50).tensors[0]), blobs(50).tensors[1]
    assert rows[-1][1] == pytest.approx(F.cross_entropy(preds, targets).item(), rel=1e-5)
    assert rows[-1][2] == (preds.argmax(1) == targets).double().mean().item()
    assert capsys.readouterr().out.count("epoch ") == 2


def test_the_plain_function_follows_a_schedule_and_clips_like_the_learner():
    schedule = one_cycle(0.5, 14)
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    train_dl, valid_dl = small()
    rows = clearloop.fit(2, model, F.cross_entropy, opt, train_dl, valid_dl, schedule=schedule, clip=0.1)
    learn = learner(loss_func=F.cross_entropy, metrics=accuracy, clip=0.1)
    learn.fit(2, schedule=schedule, quiet=True)
    assert_same_bits(model, learn.model)
    assert rows == learn.history.values


def test_learning_converges_on_an_easy_problem():
    learn = learner(metrics=accuracy, opt_func=torch.optim.Adam)
    before = learn.validate()
    learn.fit(30, 0.02, quiet=True)
    after = learn.validate()
    assert after[0] < 0.5 * before[0]
    assert after[1] > 0.8


# -- accumulation, clipping, precision, weights ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss_func", [F.cross_entropy, nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 0.3]))], ids=["plain", "weighted"]
)
@pytest.mark.parametrize("samples", [100, 96, 97])
def test_accumulated_batches_equal_one_big_batch(samples, loss_func):
    def run(batch_size: int, accumulate: int) -> Learner:
        dls = (DataLoader(blobs(samples), batch_size, shuffle=True, seed=3), None)
        model = net().double()
        dls[0].dataset.transform = lambda batch: (batch[0].double(), batch[1])
        weighted = copy.deepcopy(loss_func).double() if isinstance(loss_func, nn.Module) else loss_func
        learn = learner(dls, model, loss_func=weighted, accumulate=accumulate)
        learn.fit(2, 0.3, quiet=True)
        return learn

    big, small_batches = run(32, 1), run(8, 4)
    assert big.history.steps == small_batches.history.steps == 2 * math.ceil(samples / 32)
    torch.testing.assert_close(weights(small_batches.model), weights(big.model), rtol=1e-9, atol=1e-12)
    assert small_batches.history.losses == pytest.approx(big.history.losses, rel=1e-9)
    assert [float(count) for count in small_batches.history.counts] == pytest.approx(
        [float(c) for c in big.history.counts]
    )
    if loss_func is F.cross_entropy:
        assert (
            small_batches.history.counts[: math.ceil(samples / 32)]
            == [32, 32, 32, samples - 96][: math.ceil(samples / 32)]
        )
    assert small_batches.history.epochs[-1].train_loss == pytest.approx(big.history.epochs[-1].train_loss, rel=1e-9)


def test_accumulation_by_batches_of_unequal_size_gives_every_sample_one_vote():
    inputs, targets = blobs(10).tensors
    parts = [(inputs[:1], targets[:1]), (inputs[1:8], targets[1:8]), (inputs[8:], targets[8:])]
    learn = learner((parts, None), accumulate=3, loss_func=F.cross_entropy)
    with pytest.warns(UserWarning, match="its own order"):
        learn.fit(1, 0.5, quiet=True)
    by_hand = net()
    opt = torch.optim.SGD(by_hand.parameters(), lr=0.5)
    F.cross_entropy(by_hand(inputs), targets).backward()
    opt.step()
    torch.testing.assert_close(weights(learn.model), weights(by_hand), rtol=1e-6, atol=1e-7)
    assert learn.history.counts == [10]


def test_clipping_equals_torchs_own_to_the_bit():
    by_hand = net()
    opt = torch.optim.SGD(by_hand.parameters(), lr=0.5)
    for inputs, targets in small()[0].batches(0):
        F.cross_entropy(by_hand(inputs), targets).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.05)
        opt.step()
        opt.zero_grad()
    learn = learner(clip=0.05)
    learn.fit(1, 0.5, quiet=True)
    assert_same_bits(learn.model, by_hand)
    free = learner()
    free.fit(1, 0.5, quiet=True)
    assert not torch.equal(free.model[1].weight, by_hand[1].weight)


def test_bfloat16_trains_and_keeps_weights_losses_and_preds_in_float32():
    learn, exact = learner(precision="bf16"), learner()
    for one in (learn, exact):
        one.fit(3, 0.1, quiet=True)
    assert learn.history.losses != exact.history.losses
    assert learn.history.losses == pytest.approx(exact.history.losses, rel=0.05)
    assert all(tensor.dtype == torch.float32 for tensor in weights(learn.model).values())
    assert learn.get_preds()[0].dtype == torch.float32


WEIGHT = torch.tensor([0.2, 3.0, 1.5])
WEIGHTED = {
    "module": nn.CrossEntropyLoss(weight=WEIGHT),
    "partial": functools.partial(F.cross_entropy, weight=WEIGHT),
    "smoothed": nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1),
}


@pytest.mark.parametrize("loss_func", WEIGHTED.values(), ids=WEIGHTED)
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_with_class_weights_losses_are_averaged_by_the_sum_of_weights(loss_func, batch_size):
    learn = learner(small(batch_size, valid_batch_size=batch_size), loss_func=loss_func)
    inputs, targets = blobs().tensors
    with torch.no_grad():
        exact = loss_func(learn.model(inputs), targets).item()
    learn.fit(1, lr=0.0, quiet=True)  # the weights stay, so that the epoch's loss is that of all the data
    record = learn.history.epochs[0]
    assert record.train_loss == pytest.approx(exact, rel=1e-5)
    assert record.valid_loss == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 100, 1000])
def test_losses_and_metrics_do_not_depend_on_the_batch_size(batch_size):
    def share_of_zeros(preds, targets):
        return (preds.argmax(1) == 0).float().mean()

    learn = learner(metrics=[accuracy, share_of_zeros, clearloop.top_k_accuracy(2)])
    inputs, targets = blobs().tensors
    with torch.no_grad():
        preds = learn.model(inputs)
        exact = [
            F.cross_entropy(preds, targets),
            (preds.argmax(1) == targets).double().mean(),
            (preds.argmax(1) == 0).double().mean(),
            (preds.topk(2).indices == targets[:, None]).any(1).double().mean(),
        ]
    assert learn.validate(DataLoader(blobs(), batch_size)) == pytest.approx([value.item() for value in exact], rel=1e-6)
    learn.fit(1, lr=0.0, quiet=True)
    assert learn.history.epochs[0].train_loss == pytest.approx(exact[0].item(), rel=1e-6)


class Streaming:
    """A metric object with update, compute and reset, as torchmetrics has them."""

    def __init__(self) -> None:
        self.reset()

    def update(self, preds: Tensor, targets: Tensor) -> None:
        self.right += int((preds.argmax(1) == targets).sum())
        self.seen += len(targets)

    def compute(self) -> Tensor:
        return torch.tensor(self.right / self.seen)

    def reset(self) -> None:
        self.right = self.seen = 0


def test_a_metric_object_starts_anew_each_time_also_after_an_evaluation_that_failed():
    learn = learner(metrics=[Streaming(), accuracy])
    learn.fit(2, 0.1, quiet=True)
    for record in learn.history.epochs:
        assert record.metrics["Streaming"] == pytest.approx(record.metrics["accuracy"])
    inputs, targets = blobs().tensors
    with pytest.raises(ValueError, match="batch_size"):  # the second batch does not fit together
        learn.validate([(inputs, 1 - targets.clamp(max=1)), (inputs, targets[:3])])
    _, streamed, share = learn.validate()
    assert streamed == pytest.approx(share)


def test_metrics_of_one_name_are_told_apart():
    learn = learner(metrics=[lambda preds, targets: 1.0, lambda preds, targets: 2.0])
    learn.fit(1, 0.1, quiet=True)
    assert sorted(learn.history.epochs[0].metrics.values()) == [1.0, 2.0]


# -- evaluation never touches training ---------------------------------------------------------------------------------


class Meddler(nn.Module):
    """Changes a buffer and draws a random number in every forward pass, in eval mode too."""

    def __init__(self, fail_in_eval: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("rebound", torch.zeros(()), persistent=False)
        self.frozen = nn.BatchNorm1d(5)
        self.fail_in_eval = fail_in_eval

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.rebound = self.rebound + 1
        torch.rand(1), random.random(), np.random.rand()
        if self.fail_in_eval and not self.training:
            raise RuntimeError("failed while evaluating")
        return self.linear(self.frozen(inputs)) + torch.rand(())


def frozen_meddler(fail_in_eval: bool = False) -> Meddler:
    model = seeded(Meddler)
    model.train()
    model.frozen.eval()
    model.fail_in_eval = fail_in_eval
    return model


EVALUATIONS = {
    "validate": lambda learn: learn.validate(),
    "validate on another loader": lambda learn: learn.validate(DataLoader(blobs(), 9, seed=0)),
    "get_preds": lambda learn: learn.get_preds(),
}
every_evaluation = pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)


def trace(learn: Learner) -> list[Any]:
    model = learn.model
    buffers = {name: (tensor.tolist(), id(tensor)) for name, tensor in model.named_buffers()}
    modes = [module.training for module in model.modules()]
    parameters = [parameter.tolist() for parameter in model.parameters()]
    return [states(), buffers, modes, parameters, learn.opt.state_dict(), learn.random_states["torch"].tolist()]


@every_evaluation
def test_evaluation_leaves_random_states_buffers_and_modes_as_they_were(evaluate):
    learn = learner(model=frozen_meddler())
    before = trace(learn)
    first = evaluate(learn)
    assert trace(learn) == before
    second = evaluate(learn)
    assert trace(learn) == before
    assert len(first) == len(second)


@every_evaluation
def test_an_evaluation_that_raises_leaves_them_too(evaluate):
    learn = learner(model=frozen_meddler())
    learn.validate()
    learn.model.fail_in_eval = True
    before = trace(learn)
    with pytest.raises(RuntimeError, match="failed while evaluating"):
        evaluate(learn)
    assert trace(learn) == before


class Looker(Callback):
    """Does, in the middle of training, what a curious person does."""

    def after_step(self, learn: Learner) -> None:
        learn.validate()
        learn.get_preds(learn.dls.train)
        next(iter(learn.dls.train))
        torch.rand(0)


@pytest.mark.parametrize("make", [lambda: net(dropout=0.5), lambda: seeded(Meddler)], ids=["dropout", "meddler"])
def test_looking_at_batches_and_validating_between_steps_changes_nothing(make):
    plain, looked_at = learner(model=make()), learner(model=make(), cbs=[Looker()])
    for learn in (plain, looked_at):
        learn.fit(2, 0.1, quiet=True)
    assert plain.history.losses == looked_at.history.losses
    assert_same_bits(plain.model, looked_at.model)


def test_training_with_and_without_a_validation_set_is_the_same():
    train, valid = small()
    with_valid, without = learner((train, valid), seeded(Meddler)), learner((train, None), seeded(Meddler))
    for learn in (with_valid, without):
        learn.fit(2, 0.1, quiet=True)
    assert with_valid.history.losses == without.history.losses
    assert without.history.epochs[0].valid_loss is None
    assert without.history.epochs[0].metrics == {}
    with pytest.raises(DataError, match="there is no validation set: give a loader"):
        without.validate()


def test_validation_runs_in_eval_mode_and_training_in_train_mode():
    seen = []

    class Recorder(nn.Linear):
        def forward(self, inputs):
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(inputs)

    learn = learner(model=Recorder(5, 3))
    learn.prepared()
    seen.clear()
    learn.fit(1, 0.1, quiet=True)
    assert seen == [(True, True)] * 7 + [(False, False)] * 4


def test_a_model_left_in_eval_mode_is_trained_in_train_mode():
    left, plain = learner(model=net(dropout=0.5)), learner(model=net(dropout=0.5))
    left.model.eval()
    for learn in (left, plain):
        learn.fit(2, 0.1, quiet=True)
    assert left.history.losses == plain.history.losses
    assert left.model.training


# -- the caller's world stays as it was --------------------------------------------------------------------------------


class Fails(Callback):
    def after_step(self, learn: Learner) -> None:
        torch.set_num_threads(2)
        raise KeyboardInterrupt


@pytest.mark.parametrize("cbs", [[], [Fails()]], ids=["", "a fit that is interrupted"])
def test_fit_gives_the_callers_random_states_and_threads_back(cbs):
    learn = learner(model=net(dropout=0.5), cbs=cbs)
    before = states()
    if cbs:
        with pytest.raises(KeyboardInterrupt):
            learn.fit(1, 0.1, quiet=True)
    else:
        learn.fit(1, 0.1, quiet=True)
    assert states() == before
    assert torch.get_num_threads() == 1


def test_a_fit_runs_with_the_threads_that_the_learner_was_made_under():
    seen = []

    class Threads(Callback):
        def after_step(self, learn):
            seen.append(torch.get_num_threads())

    learn = learner(cbs=Threads())
    torch.set_num_threads(2)
    learn.fit(1, 0.1, quiet=True)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


def test_without_a_seed_torchs_generator_governs():
    def run(seed: int) -> list[float]:
        torch.manual_seed(seed)
        learn = Learner(small(), net(dropout=0.5), device="cpu")
        learn.fit(1, 0.1, quiet=True)
        return learn.history.losses

    assert run(1) == run(1) != run(2)


def test_with_a_seed_the_callers_generators_do_not_matter():
    def run(callers_seed: int, seed: int) -> list[float]:
        torch.manual_seed(callers_seed)
        random.seed(callers_seed)
        learn = learner(model=net(dropout=0.5), seed=seed)
        learn.fit(1, 0.1, quiet=True)
        return learn.history.losses

    assert run(1, 5) == run(2, 5) != run(1, 6)


def test_the_first_look_at_the_data_consumes_nothing():
    class Noisy:
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return torch.randn(5), index % 3

    def run(look: bool) -> list[float]:
        dls = (DataLoader(Noisy(), 4, seed=1), None)
        learn = learner(dls, net(dropout=0.5))
        if look:
            learn.prepared()
            learn.get_preds(dls[0])
        learn.fit(2, 0.1, quiet=True)
        return learn.history.losses

    assert run(False) == run(True)


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opt_func", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_second_fit_goes_on_where_the_first_one_ended(opt_func):
    once, twice = (learner(model=net(dropout=0.3), opt_func=opt_func) for _ in range(2))
    once.fit(3, 0.05, quiet=True)
    twice.fit(1, 0.05, quiet=True)
    torch.rand(7)
    twice.validate()
    twice.fit(2, 0.05, quiet=True)
    assert_same_bits(once.model, twice.model)
    assert once.history.losses == twice.history.losses
    assert [record.epoch for record in twice.history.epochs] == [0, 1, 2]
    assert [record.steps for record in twice.history.epochs] == [7, 14, 21]
    assert once.history.values == twice.history.values


def test_the_schedule_of_a_second_fit_begins_at_its_own_step_0():
    learn = learner()
    learn.fit(1, schedule=lambda step: 0.1 + step, quiet=True)
    learn.fit(1, schedule=lambda step: 0.2 + step, quiet=True)
    assert learn.history.lrs == [0.1 + step for step in range(7)] + [0.2 + step for step in range(7)]


def test_a_fit_without_a_learning_rate_takes_the_learners():
    learn = learner(lr=0.07)
    learn.fit(1, quiet=True)
    learn.fit(1, 0.02, quiet=True)
    learn.fit(1, quiet=True)
    assert [record.lr for record in learn.history.epochs] == [0.07, 0.02, 0.07]


def test_parameter_groups_keep_their_share_of_the_learning_rate():
    def two_groups(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": parameters[:2], "lr_scale": 0.1}, {"params": parameters[2:]}], lr)

    learn = learner(opt_func=two_groups)
    learn.fit(1, 0.5, quiet=True)
    assert [group["lr"] for group in learn.opt.param_groups] == [0.05, 0.5]
    learn.fit(1, schedule=lambda step: 0.4, quiet=True)
    assert [group["lr"] for group in learn.opt.param_groups] == pytest.approx([0.04, 0.4])


def test_resume_has_nothing_to_do_after_a_fit_that_ended():
    learn = learner()
    with pytest.raises(ConfigError, match="there is no fit to resume"):
        learn.resume(quiet=True)
    learn.fit(1, 0.1, quiet=True)
    before = weights(learn.model)
    learn.resume(quiet=True)
    assert learn.history.steps == 7
    torch.testing.assert_close(weights(learn.model), before, rtol=0, atol=0)


class Interrupted(Callback):
    def __init__(self, step: int) -> None:
        self.at = step

    def after_step(self, learn: Learner) -> None:
        if learn.history.steps == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("at", [1, 7, 10])
def test_an_interrupted_fit_that_is_resumed_ends_like_one_that_never_stopped(at):
    whole, stopped = learner(model=net(dropout=0.5)), learner(model=net(dropout=0.5), cbs=[Interrupted(at)])
    whole.fit_one_cycle(2, 0.3, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit_one_cycle(2, 0.3, quiet=True)
    stopped.cbs = []
    torch.rand(9)
    stopped.resume(quiet=True)
    assert stopped.history.losses == whole.history.losses
    assert stopped.history.lrs == whole.history.lrs
    assert stopped.history.values == whole.history.values
    assert_same_bits(stopped.model, whole.model)


def test_an_epoch_left_in_the_middle_is_named_when_a_new_fit_begins():
    learn = learner(cbs=[Interrupted(3)])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, 0.1, quiet=True)
    learn.cbs = []
    with pytest.warns(UserWarning, match=r"epoch 0 was left at step 3; resume\(\) would finish it"):
        learn.fit(1, 0.1, quiet=True)
    assert learn.history.steps == 10


# -- a loss that is lost -----------------------------------------------------------------------------------------------


class Poison(Callback):
    def __init__(self, at: int, value: float) -> None:
        self.at, self.value = at, value

    def before_step(self, learn: Learner) -> None:
        if learn.history.steps == self.at:
            inputs, targets = learn.window[0]
            learn.window = [(inputs * self.value, targets)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 4, 9])
def test_a_loss_that_is_not_finite_stops_with_its_step_and_learning_rate(value, at):
    learn = learner(cbs=[Poison(at, value)])
    with pytest.raises(NonFiniteError, match=rf"the loss is nan at step {at} \(learning rate 0\.125\)") as caught:
        learn.fit(2, 0.125, quiet=True)
    assert "clip=1.0" in str(caught.value)
    assert learn.failure is caught.value
    assert len(learn.history.epochs) == at // 7


def test_a_learning_rate_that_blows_up_is_caught_within_the_epoch():
    data = TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    learn = Learner((DataLoader(data, 8), None), seeded(lambda: nn.Linear(4, 1)), F.mse_loss, device="cpu", seed=0)
    with pytest.raises(NonFiniteError, match=r"the loss is (inf|nan) at step \d+ \(learning rate 1e\+20\)"):
        learn.fit(1, 1e20, quiet=True)


# -- models, inputs and outputs of every shape -------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.linear(left) - self.linear(right)


def test_several_inputs_are_handed_over_one_by_one():
    inputs, targets = blobs().tensors
    dls = (
        DataLoader(TensorDataset(inputs, inputs.flip(0), targets), 16),
        DataLoader(TensorDataset(inputs, inputs.flip(0), targets), 30),
    )
    learn = learner(dls, seeded(TwoInputs), metrics=accuracy)
    learn.fit(2, 0.1, quiet=True)
    preds, seen = learn.get_preds()
    assert torch.equal(seen, targets)
    with torch.no_grad():
        torch.testing.assert_close(preds, learn.model(inputs, inputs.flip(0)))


class Named:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        inputs = blobs().tensors[0]
        return {"right": inputs[-1 - index], "left": inputs[index]}, index % 3


def test_inputs_in_a_dict_are_handed_over_by_name():
    learn = learner((DataLoader(Named(), 16), DataLoader(Named(), 7)), seeded(TwoInputs))
    learn.fit(1, 0.1, quiet=True)
    preds, targets = learn.get_preds()
    inputs = blobs().tensors[0]
    with torch.no_grad():
        torch.testing.assert_close(preds, learn.model(inputs[:40], inputs.flip(0)[:40]))
    assert targets.tolist() == [index % 3 for index in range(40)]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(5, 3), nn.Linear(5, 1)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(inputs), self.other(inputs)


def test_preds_in_a_tuple_go_to_the_loss_and_the_metrics_as_they_are():
    def loss_func(preds, targets):
        return F.cross_entropy(preds[0], targets) + preds[1].square().mean()

    def first_is_right(preds, targets):
        return (preds[0].argmax(1) == targets).float().mean()

    learn = learner(model=seeded(TwoHeads), loss_func=loss_func, metrics=first_is_right)
    learn.fit(2, 0.1, quiet=True)
    (logits, values), targets = learn.get_preds()
    assert logits.shape == (100, 3)
    assert values.shape == (100, 1)
    assert learn.validate()[1] == pytest.approx((logits.argmax(1) == targets).double().mean().item())


def test_predictions_come_in_the_order_of_the_loader():
    learn = learner()
    inputs, targets = blobs().tensors
    with torch.no_grad():
        exact = learn.model.eval()(inputs)
    preds, seen = learn.get_preds()
    torch.testing.assert_close(preds, exact)
    assert torch.equal(seen, targets)
    order = shuffled_order(100, 3, 0)
    preds, seen = learn.get_preds(learn.dls.train)
    torch.testing.assert_close(preds, exact[order])
    assert torch.equal(seen, targets[order])
    assert not preds.requires_grad


def test_another_loader_can_be_validated_on():
    learn = learner(metrics=accuracy)
    part = TensorDataset(*(tensor[:10] for tensor in blobs().tensors))
    with torch.no_grad():
        preds = learn.model.eval()(part.tensors[0])
    exact = [
        F.cross_entropy(preds, part.tensors[1]).item(),
        (preds.argmax(1) == part.tensors[1]).double().mean().item(),
    ]
    assert learn.validate(DataLoader(part, 3)) == pytest.approx(exact, rel=1e-6)
    assert learn.validate(torch_data.DataLoader(part, batch_size=3)) == pytest.approx(exact, rel=1e-6)
    assert learn.validate([part[:4], part[4:]]) == pytest.approx(exact, rel=1e-6)


def test_a_data_parallel_wrapper_works_on_the_cpu():
    wrapped, plain = learner(model=nn.DataParallel(net())), learner()
    for learn in (wrapped, plain):
        learn.fit(2, 0.1, quiet=True)
    assert wrapped.history.losses == plain.history.losses
    assert_same_bits(wrapped.model.module, plain.model)


def test_frozen_parameters_stay_as_they_are():
    model = net()
    model[1].weight.requires_grad_(False)
    before = weights(model)
    learn = learner(model=model, opt_func=functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1), clip=1.0)
    learn.fit(2, 0.1, quiet=True)
    after = weights(model)
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert not torch.equal(after["1.bias"], before["1.bias"])


def test_parameters_that_are_used_twice_are_trained_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(5, 5)
            self.two = self.one
            self.last = nn.Linear(5, 3)

        def forward(self, inputs):
            return self.last(self.two(self.one(inputs)))

    learn = learner(model=seeded(Tied))
    learn.fit(2, 0.1, quiet=True)
    assert learn.model.two.weight is learn.model.one.weight


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.randint(3, (20,)), F.cross_entropy),
        (torch.randn(20, 3), F.mse_loss),
    ],
    ids=["labels", "floats"],
)
def test_the_loss_is_chosen_from_the_targets(targets, expected):
    learn = learner((DataLoader(TensorDataset(torch.randn(20, 5), targets), 5), None))
    learn.fit(1, 0.1, quiet=True)
    assert learn.loss_func is expected


def test_regression_is_measured_exactly():
    inputs = torch.randn(50, 5)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    learn = learner(
        (DataLoader(data, 8, shuffle=True, seed=0), DataLoader(data, 7)), seeded(lambda: nn.Linear(5, 1)), metrics=mse
    )
    learn.fit(20, 0.1, quiet=True)
    loss, error = learn.validate()
    assert loss == pytest.approx(error, rel=1e-6)
    assert loss < 1e-3


# -- arguments that cannot work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": math.nan}, "lr must be a finite number of 0 or more, got nan"),
        ({"lr": -0.1}, "lr must be a finite number"),
        ({"clip": 0.0}, "clip must be above 0, or None"),
        ({"accumulate": 0}, "accumulate must be a whole number of at least 1, got 0"),
        ({"accumulate": 1.5}, "accumulate must be a whole number"),
        ({"fast": "on"}, "fast must be"),
        ({"precision": "fp16"}, 'precision="fp16" needs a CUDA GPU'),
        ({"precision": "int8"}, 'precision must be None, "bf16" or "fp16"'),
        ({"metrics": [3]}, "a metric must be a function"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_options_that_cannot_work_are_refused_at_once(options, message):
    with pytest.raises(ConfigError, match=message):
        learner(**options)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, None])
def test_a_number_of_epochs_that_is_none_is_refused(epochs):
    with pytest.raises(ConfigError, match="epochs must be a whole number of at least 1"):
        learner().fit(epochs, quiet=True)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ModelError, match="no parameters, so there is nothing to train"):
        learner(model=nn.ReLU())


@pytest.mark.parametrize("device", ["meta", "cuda:99", "quantum", "cuda:x"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used here"):
        Learner(small(), net(), device=device)


def test_a_model_on_the_meta_device_is_refused():
    with torch.device("meta"):
        model = nn.Linear(5, 3)
    with pytest.raises(ConfigError, match="meta device"):
        learner(model=model)


def test_a_loader_that_ends_early_is_named():
    class Short(list):
        def __len__(self):
            return 5

    batches = Short([tuple(tensor[:10] for tensor in blobs().tensors)] * 3)
    learn = learner((batches, None))
    with pytest.warns(UserWarning, match="its own order"), pytest.raises(DataError, match="ended before the number"):
        learn.fit(1, 0.1, quiet=True)


def test_the_history_is_known_as_the_recorder_too():
    learn = learner(metrics=accuracy)
    learn.fit(2, 0.1, quiet=True)
    assert learn.recorder is learn.history
    assert [len(row) for row in learn.recorder.values] == [3, 3]

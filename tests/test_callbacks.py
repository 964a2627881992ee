"""Hooks are called when they should be; every callback keeps the contract; early stopping and averages are exact."""

from __future__ import annotations

import copy
import math
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import clearloop
import cli_tools
from clearloop import (
    EMA,
    Callback,
    Checkpoints,
    ConfigError,
    CSVLogger,
    DataError,
    DataLoader,
    EarlyStopping,
    Learner,
    Progress,
    SaveReconstructions,
    SyncBatchNorm,
    TensorBoard,
    TensorDataset,
    Timing,
    accuracy,
    error_rate,
    reconstruct,
)
from clearloop.adapters import by_name
from clearloop.callback import overriding
from clearloop.history import EpochRecord

HOOKS = [
    "before_fit",
    "before_epoch",
    "before_step",
    "after_step",
    "before_validate",
    "after_validate",
    "after_epoch",
    "after_fit",
]
STEPS = 4  # of 8, the last of 6


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (30,), generator=generator)
    return TensorDataset(torch.randn(30, 4, generator=generator) + labels[:, None], labels)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 3))


def linear(inputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(inputs, 4)


def learner(cbs: Any = (), valid: bool = True, **options: Any) -> Learner:
    dls = (DataLoader(data(), 8, shuffle=True, seed=4), DataLoader(data(), 16) if valid else None)
    options = {"metrics": [accuracy, error_rate], **options}
    return Learner(dls, net(), F.cross_entropy, lr=0.1, cbs=cbs, seed=0, device="cpu", **options)


class Recorder(Callback):
    """Notes every hook with the cursor."""

    def __init__(self, name: str = "", order: int = 0, interval: int | None = 1, into: list | None = None) -> None:
        self.name, self.order, self.interval = name, order, interval
        self.calls: list[Any] = [] if into is None else into

    def note(self, hook: str, learn: Learner) -> None:
        self.calls.append((self.name + hook, learn.epoch, learn.step))

    def before_fit(self, learn: Learner) -> None:
        self.note("before_fit", learn)

    def before_epoch(self, learn: Learner) -> None:
        assert learn.model.training
        self.note("before_epoch", learn)

    def before_step(self, learn: Learner) -> None:
        assert learn.model.training
        assert len(learn.window) == 1
        self.note("before_step", learn)

    def after_step(self, learn: Learner) -> None:
        assert len(learn.history.lrs) == learn.history.steps
        self.note("after_step", learn)

    def before_validate(self, learn: Learner) -> None:
        self.note("before_validate", learn)

    def after_validate(self, learn: Learner) -> None:
        self.note("after_validate", learn)

    def after_epoch(self, learn: Learner) -> None:
        assert learn.history.epochs[-1].epoch == learn.epoch - 1
        self.note("after_epoch", learn)

    def after_fit(self, learn: Learner) -> None:
        assert learn.failure is None
        self.note("after_fit", learn)


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_all_hooks_are_called_in_order_with_the_cursor_where_it_is():
    recorder = Recorder()
    learner(recorder).fit(2, quiet=True)
    expected: list[Any] = [("before_fit", 0, 0)]
    for epoch in range(2):
        expected.append(("before_epoch", epoch, 0))
        for step in range(STEPS):
            expected += [("before_step", epoch, step), ("after_step", epoch, step + 1)]
        expected += [("before_validate", epoch, STEPS), ("after_validate", epoch, STEPS), ("after_epoch", epoch + 1, 0)]
    assert recorder.calls == [*expected, ("after_fit", 2, 0)]


def test_the_eight_hooks_are_all_there_are():
    state = {"state_dict", "load_state_dict"}
    assert {name for name in vars(Callback) if callable(getattr(Callback, name)) and not name.startswith("_")} == {
        *HOOKS,
        *state,
    }


def test_an_epoch_that_is_resumed_does_not_begin_again():
    class Interrupt(Callback):
        def after_step(self, learn):
            if learn.history.steps == 2:
                signal.raise_signal(signal.SIGINT)

    recorder = Recorder()
    learn = learner(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, quiet=True)
    learn.cbs = [recorder]
    learn.resume(quiet=True)
    hooks = [(hook, epoch, step) for hook, epoch, step in recorder.calls if hook in ("before_fit", "before_epoch")]
    assert hooks == [("before_fit", 0, 2), ("before_epoch", 1, 0)]
    assert recorder.calls[1] == ("before_step", 0, 2)


def test_evaluation_outside_of_a_fit_calls_its_two_hooks():
    recorder = Recorder()
    learn = learner(recorder)
    learn.validate()
    learn.get_preds()
    assert [hook for hook, *_ in recorder.calls] == ["before_validate", "after_validate"] * 2


def test_a_fit_without_validation_calls_no_validation_hooks():
    recorder = Recorder()
    learner(recorder, valid=False).fit(1, quiet=True)
    assert not any("validate" in hook for hook, *_ in recorder.calls)


def test_small_orders_come_first_and_equals_in_the_order_of_the_list():
    calls: list[Any] = []
    cbs = [Recorder("b ", 5, into=calls), Recorder("a ", -1, into=calls), Recorder("c ", 5, into=calls)]
    learner(cbs).fit(1, quiet=True)
    names = [call[0].split()[0] for call in calls if call[0].endswith("after_epoch")]
    assert names == ["a", "b", "c"]


@pytest.mark.parametrize(("interval", "expected"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4]), (4, [4]), (100, [4])])
@pytest.mark.parametrize("with_before_step", [False, True])
def test_after_step_is_called_every_interval_and_at_the_end_of_the_epoch(interval, expected, with_before_step):
    steps = []

    class Sparse(Callback):
        def after_step(self, learn):
            steps.append(learn.step)

    sparse = Sparse()
    sparse.interval = interval
    others = [Recorder()] if with_before_step else []
    learner([sparse, *others]).fit(2, quiet=True)
    assert steps == expected * 2


def test_different_intervals_do_not_disturb_each_other():
    seen: dict[int | None, list[int]] = {2: [], 3: [], None: []}

    class Sparse(Callback):
        def __init__(self, interval):
            self.interval = interval

        def after_step(self, learn):
            seen[self.interval].append(learn.step)

    dls = (DataLoader(data(), 2, seed=0), None)
    learn = Learner(dls, net(), F.cross_entropy, cbs=[Sparse(2), Sparse(3), Sparse(None)], seed=0, device="cpu")
    learn.fit(1, quiet=True)
    assert seen[2] == [2, 4, 6, 8, 10, 12, 14, 15]
    assert seen[3] == [3, 6, 9, 12, 15]
    assert seen[None] == sorted(set(seen[None]))
    assert seen[None][-1] == 15


def test_intervals_do_not_change_what_is_trained():
    plain = learner()
    plain.fit(2, quiet=True)
    for interval in (1, 2, 3, None):
        watched = learner(Recorder(interval=interval))
        watched.fit(2, quiet=True)
        assert watched.history.losses == plain.history.losses


def test_hooks_that_nobody_overrides_are_never_called(monkeypatch):
    def fail(self, learn):
        raise AssertionError("called")

    for hook in HOOKS:
        monkeypatch.setattr(Callback, hook, fail)
    learn = learner([Callback(), EarlyStopping()])
    learn.fit(2, quiet=True)
    assert learn.history.steps == 2 * STEPS


def test_only_what_a_class_defines_or_inherits_counts_as_overriding():
    class Base(Callback):
        def after_step(self, learn):
            pass

    class Child(Base):
        pass

    child = Child()
    assert overriding([Callback(), child], "after_step") == [child]
    assert overriding([child], "after_epoch") == []


def test_before_step_may_replace_the_batches():
    class Doubled(Callback):
        def before_step(self, learn):
            learn.window = [(inputs * 2, targets) for inputs, targets in learn.window]

    learn = learner(Doubled(), metrics=())
    learn.fit(2, quiet=True)
    twice = TensorDataset(data().tensors[0] * 2, data().tensors[1])
    by_hand = Learner(
        (DataLoader(twice, 8, shuffle=True, seed=4), None), net(), F.cross_entropy, lr=0.1, seed=0, device="cpu"
    )
    by_hand.fit(2, quiet=True)
    assert learn.history.losses == by_hand.history.losses


def test_the_window_holds_all_batches_of_an_accumulated_step():
    sizes = []

    class Sizes(Callback):
        def before_step(self, learn):
            sizes.append([len(targets) for _, targets in learn.window])

    learner(Sizes(), accumulate=3).fit(1, quiet=True)
    assert sizes == [[8, 8, 8], [6]]


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook != "after_fit"])
def test_whatever_fails_after_fit_is_called_and_knows_why(hook):
    class Failing(Callback):
        def fail(self, learn):
            raise ZeroDivisionError("on purpose")

    setattr(Failing, hook, Failing.fail)
    seen = []

    class Last(Callback):
        def after_fit(self, learn):
            seen.append(learn.failure)

    learn = learner([Failing(), Last()])
    with pytest.raises(ZeroDivisionError, match="on purpose") as caught:
        learn.fit(1, quiet=True)
    assert seen == [caught.value]
    assert learn.failure is caught.value


def test_a_callback_can_end_the_fit_after_the_epoch():
    class Stop(Callback):
        def after_step(self, learn):
            if learn.epoch == 1:
                learn.stop("enough")

    learn = learner(Stop())
    learn.fit(5, quiet=True)
    assert len(learn.history.epochs) == 2
    assert learn.history.steps == 2 * STEPS
    assert learn.stop_reason == "enough"
    learn.resume(quiet=True)
    assert len(learn.history.epochs) == 2
    learn.cbs = []
    learn.fit(1, quiet=True)
    assert len(learn.history.epochs) == 3


def test_callbacks_are_known_by_name_and_number():
    one, two, other = Callback(), Callback(), EarlyStopping()
    assert by_name([one, other, two]) == {"Callback": one, "EarlyStopping": other, "Callback-2": two}


# -- the contract of every callback ------------------------------------------------------------------------------------

CALLBACKS = {
    "EarlyStopping": lambda tmp_path: EarlyStopping(patience=2),
    "EMA": lambda tmp_path: EMA(0.9),
    "Progress": lambda tmp_path: Progress(stream=(tmp_path / "out.txt").open("w")),
    "Checkpoints": lambda tmp_path: Checkpoints(tmp_path / "run", every=2),
    "CSVLogger": lambda tmp_path: CSVLogger(every=2, folder=tmp_path),
    "TensorBoard": lambda tmp_path: TensorBoard(every=2, folder=tmp_path),
    "Timing": lambda tmp_path: Timing(log=lambda line: None),
    "SaveReconstructions": lambda tmp_path: SaveReconstructions(2, tmp_path / "plots", n=2),
    "SyncBatchNorm": lambda tmp_path: SyncBatchNorm(),
}
ELSEWHERE = {"WandB", "MLflow"}  # in test_loggers_online.py, as their packages are heavy
CHANGES_EVALUATION = {"EMA"}


def reconstructing(cbs: Any = (), model: nn.Module | None = None, valid: bool = True, lr: float = 0.1) -> Learner:
    """A Learner of a small autoencoder with batch norm and dropout, on pictures of 2 x 2 pixels."""
    pictures = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    dataset = TensorDataset(pictures, pictures.flatten(1))
    dls = (DataLoader(dataset, 8, shuffle=True, seed=4), DataLoader(dataset, 16) if valid else None)
    model = model or nn.Sequential(nn.Flatten(), net(), linear(3), nn.Sigmoid())
    return Learner(dls, model, F.mse_loss, lr=lr, cbs=cbs, seed=0, device="cpu")


LEARNERS = {"SaveReconstructions": reconstructing}  # of what a callback is for, where it is not for all


@pytest.fixture(params=CALLBACKS)
def make(request, tmp_path):
    made = []

    def make_one(part: str = "") -> Callback:
        folder = tmp_path / part
        folder.mkdir(exist_ok=True)
        made.append(CALLBACKS[request.param](folder))
        return made[-1]

    make_one.name = request.param
    make_one.learner = LEARNERS.get(request.param, learner)
    yield make_one
    for callback in made:
        if getattr(callback, "_stream", None) is not None:
            callback._stream.close()


def test_every_callback_of_the_library_is_here():
    def below(cls):
        return {cls, *(inner for subclass in cls.__subclasses__() for inner in below(subclass))}

    public = {name for name in clearloop.__all__ if isinstance(getattr(clearloop, name), type)}
    ours = {cls.__name__ for cls in below(Callback) if cls.__module__.startswith("clearloop.")}
    assert ours & public - {"Callback"} == set(CALLBACKS) | ELSEWHERE
    assert ours - public == {"Logger"}  # what the loggers share


def test_a_callback_does_not_change_training(make):
    plain, with_callback = make.learner(), make.learner(make())
    for learn in (plain, with_callback):
        learn.fit(2, quiet=True)
    assert with_callback.history.losses == plain.history.losses
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, with_callback.model.state_dict()[name]), name
    if make.name not in CHANGES_EVALUATION:
        assert with_callback.history.values == plain.history.values


def test_the_state_of_a_callback_goes_over_to_another_one(make):
    first = make("one")
    learn = make.learner(first)
    learn.fit(2, quiet=True)
    state = copy.deepcopy(first.state_dict())
    second = make("two")
    second.load_state_dict(copy.deepcopy(state))
    assert str(second.state_dict()) == str(state)
    fresh = make("three")
    before = str(fresh.state_dict())
    fresh.load_state_dict({})  # of a run that was saved without it
    assert str(fresh.state_dict()) == before


def test_a_callback_says_how_it_was_made_by_its_attributes(make):
    from clearloop.component import describe

    callback = make()
    if callback.recorded:
        described = describe(callback)
        assert described["path"] == f"{type(callback).__module__}:{type(callback).__qualname__}"


def test_a_callback_survives_a_fit_that_fails_and_one_that_follows(make):
    class Fails(Callback):
        def before_epoch(self, learn):
            if not learn.history.epochs and not learn.stop_reason and learn.failure is None and not self.failed:
                self.failed = True
                raise ZeroDivisionError

        failed = False

    learn = make.learner([make(), Fails()])
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, quiet=True)
    learn.fit(1, quiet=True)
    assert len(learn.history.epochs) == 1


# -- early stopping ----------------------------------------------------------------------------------------------------


class FakeLearner:
    """Just enough of a Learner to be stopped."""

    def __init__(self, first_step: int) -> None:
        self.metrics = (accuracy, error_rate)
        self.dls = type("Dls", (), {"valid": object()})()
        self.history = type("History", (), {"epochs": [], "steps": 0})()
        self.plan = {"first_step": first_step}
        self.reason: str | None = None

    def stop(self, reason: str) -> None:
        self.reason = reason


def stopped_after(callback: EarlyStopping, values: list[float], resumed: bool = False) -> int | None:
    """The number of epochs until the callback stops a run of which it sees `values`."""
    learn: Any = FakeLearner(first_step=-1 if resumed else 0)
    callback.before_fit(learn)
    for number, value in enumerate(values, start=1):
        of = {"valid_loss": math.inf, "train_loss": math.inf, callback.monitor: value}
        metrics = {"accuracy": of.get("accuracy", 0.0), "error_rate": of.get("error_rate", 0.0)}
        learn.history.epochs.append(
            EpochRecord(number - 1, of["train_loss"], of["valid_loss"], metrics, 0.1, number, 0.0)
        )
        callback.after_epoch(learn)
        if learn.reason:
            return number
    return None


@pytest.mark.parametrize(
    ("monitor", "patience", "min_delta", "values", "expected"),
    [
        ("valid_loss", 2, 0.0, [3, 2, 1, 1, 1], 5),
        ("valid_loss", 2, 0.0, [3, 4, 2, 4, 1, 4, 4], 7),
        ("valid_loss", 1, 0.0, [3, 3], 2),
        ("valid_loss", 3, 0.0, [5, 4, 3, 2, 1], None),
        ("valid_loss", 2, 0.5, [3, 2.6, 2.4, 2.3, 2.2], 5),
        ("train_loss", 1, 0.0, [3, 2, 2.5], 3),
        ("accuracy", 2, 0.0, [0.1, 0.3, 0.2, 0.3], 4),
        ("accuracy", 2, 0.0, [0.1, 0.2, 0.3, 0.4], None),
        ("error_rate", 2, 0.0, [0.4, 0.3, 0.3, 0.3], 4),
        ("valid_loss", 2, 0.0, [math.nan, 3, 2, 1], None),
        ("valid_loss", 2, 0.0, [3, math.nan, math.nan, 1], 3),
        ("valid_loss", 2, 0.0, [math.nan, math.nan], 2),
        ("accuracy", 2, 0.0, [math.nan, 0.5, 0.6, 0.7], None),
        ("accuracy", 3, 0.0, [0.0, 0.0, 0.0], None),
    ],
)
def test_early_stopping_waits_for_an_improvement(monitor, patience, min_delta, values, expected):
    assert stopped_after(EarlyStopping(monitor, patience, min_delta), values) == expected


def test_early_stopping_ends_a_fit_and_says_why():
    learn = learner(EarlyStopping(patience=2))
    learn.fit(10, lr=0.0, quiet=True)
    assert len(learn.history.epochs) == 3
    assert learn.stop_reason.startswith("valid_loss has not improved on ")
    assert learn.stop_reason.endswith(" for 2 epochs")


def test_early_stopping_goes_on_counting_with_its_state():
    values = [3.0, 2.0, 2.5, 2.6]
    for cut in range(len(values)):
        first, second = EarlyStopping(patience=2), EarlyStopping(patience=2)
        assert stopped_after(first, values[:cut]) is None
        second.load_state_dict(first.state_dict())
        assert stopped_after(second, values[cut:], resumed=True) == len(values) - cut


def test_a_new_fit_has_all_its_patience():
    learn = learner(EarlyStopping(patience=2))
    learn.fit(10, lr=0.0, quiet=True)
    learn.fit(10, lr=0.0, quiet=True)
    assert len(learn.history.epochs) == 3 + 2


def test_early_stopping_on_what_is_not_there_is_refused():
    with pytest.raises(
        ConfigError, match="monitor must be one of accuracy, error_rate, train_loss, valid_loss, got 'f1'"
    ):
        learner(EarlyStopping("f1")).fit(1, quiet=True)
    with pytest.raises(ConfigError, match="monitor must be one of accuracy, error_rate, train_loss, got 'valid_loss'"):
        learner(EarlyStopping(), valid=False).fit(1, quiet=True)
    for wrong in ({"patience": 0}, {"min_delta": -0.1}):
        with pytest.raises(ConfigError, match="patience must be 1 or more and min_delta 0 or more"):
            EarlyStopping(**wrong)


# -- averaged weights --------------------------------------------------------------------------------------------------


class Weights(Callback):
    """Keeps a copy of the weights after every step."""

    order = -10

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def after_step(self, learn: Learner) -> None:
        self.steps.append({name: tensor.detach().clone() for name, tensor in learn.model.state_dict().items()})


def averaged(initial: dict[str, Tensor], steps: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """The moving average, in double precision, written out."""
    average = {name: tensor.double() for name, tensor in initial.items()}
    for step, weights in enumerate(steps):
        kept = min(decay, (1 + step) / (10 + step))
        for name, tensor in weights.items():
            average[name] = kept * average[name] + (1 - kept) * tensor if tensor.is_floating_point() else tensor
    return average


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_averages_equal_those_written_out_by_hand(decay):
    ema, weights = EMA(decay), Weights()
    learn = learner([ema, weights])
    initial = copy.deepcopy(learn.model.state_dict())
    learn.fit(3, quiet=True)
    expected = averaged(initial, weights.steps, decay)
    assert set(ema.averages) == set(expected)
    for name, average in expected.items():
        torch.testing.assert_close(ema.averages[name].double(), average.double(), rtol=1e-5, atol=1e-6)
    assert ema.steps == 3 * STEPS


def test_evaluation_uses_the_averages_and_training_never_does():
    ema = EMA(0.9)
    learn, plain = learner(ema), learner()
    for one in (learn, plain):
        one.fit(2, quiet=True)
    before = copy.deepcopy(learn.model.state_dict())
    with_averages = net()
    with_averages.load_state_dict(ema.averages)
    with_averages.eval()
    inputs, targets = data().tensors
    with torch.no_grad():
        expected = with_averages(inputs)
    preds, _ = learn.get_preds()
    assert torch.equal(preds[:16], with_averages(inputs[:16]).detach())
    loss, share, _ = learn.validate()
    assert loss == pytest.approx(F.cross_entropy(expected, targets).item(), rel=1e-5)
    assert share == pytest.approx((expected.argmax(1) == targets).double().mean().item())
    assert loss == learn.history.epochs[-1].valid_loss != plain.history.epochs[-1].valid_loss
    assert all(torch.equal(tensor, before[name]) for name, tensor in learn.model.state_dict().items())


def test_the_weights_come_back_after_an_evaluation_that_fails():
    learn = learner(EMA(0.9))
    learn.fit(1, quiet=True)
    before = copy.deepcopy(learn.model.state_dict())

    def broken(preds, targets):
        raise ZeroDivisionError

    learn.metrics = (type(accuracy)("broken", broken, float),)
    with pytest.raises(ZeroDivisionError):
        learn.validate()
    assert all(torch.equal(tensor, before[name]) for name, tensor in learn.model.state_dict().items())


def test_averages_go_on_over_a_second_fit_and_over_their_state():
    whole, first, second = EMA(0.9), EMA(0.9), EMA(0.9)
    learner(whole).fit(2, quiet=True)
    learn = learner(first)
    learn.fit(1, quiet=True)
    second.load_state_dict(first.state_dict())
    learn.cbs = [second]
    learn.fit(1, quiet=True)
    assert all(torch.equal(tensor, second.averages[name]) for name, tensor in whole.averages.items())
    assert not any(torch.equal(first.averages[name], tensor) for name, tensor in second.averages.items() if tensor.ndim)


def test_averages_are_steadier_than_the_weights():
    ema, weights = EMA(0.95), Weights()
    learner([ema, weights], metrics=()).fit(10, lr=0.5, quiet=True)
    name = "3.weight"
    jump = (weights.steps[-1][name] - weights.steps[-2][name]).norm()
    before = averaged(net().state_dict(), weights.steps[:-1], 0.95)[name]
    assert (ema.averages[name].double() - before).norm() < 0.5 * jump


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ConfigError, match="decay must lie between 0 and 1"):
        EMA(decay)


# -- reconstructions ---------------------------------------------------------------------------------------------------


def drawn(folder: Path) -> list[int]:
    """After how many epochs there is a picture."""
    names = sorted(path.name for path in folder.iterdir())
    assert all(name.startswith("reconstructions-epoch-") and name.endswith(".png") for name in names), names
    return [int(name.removesuffix(".png").rsplit("-", 1)[1]) for name in names]


@pytest.mark.parametrize(
    ("every", "epochs", "expected"), [(2, 5, [1, 2, 4, 5]), (10, 2, [1, 2]), (1, 3, [1, 2, 3]), (3, 3, [1, 3])]
)
def test_reconstructions_are_drawn_after_the_first_every_so_many_and_the_last_epoch(every, epochs, expected, tmp_path):
    reconstructing(SaveReconstructions(every, tmp_path / "new" / "plots", n=2)).fit(epochs, quiet=True)
    assert drawn(tmp_path / "new" / "plots") == expected
    for path in (tmp_path / "new" / "plots").iterdir():
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"


def test_the_last_reconstructions_are_those_of_an_epoch_that_ended_a_fit_early(tmp_path):
    stopping = EarlyStopping("train_loss", patience=1, min_delta=100.0)
    learn = reconstructing([SaveReconstructions(50, tmp_path, n=2), stopping])
    learn.fit(40, quiet=True)
    assert drawn(tmp_path) == [1, 2] == [1, len(learn.history.epochs)]


def test_reconstructions_show_the_averaged_weights_where_there_are_any(tmp_path, monkeypatch):
    seen = []
    original = reconstruct.reconstructions

    def look(learn, n):
        found = original(learn, n=n)
        seen.append(found.reconstructions)
        return found

    monkeypatch.setattr(reconstruct, "reconstructions", look)
    plain, averaged = (reconstructing([*cbs, SaveReconstructions(1, tmp_path, n=3)]) for cbs in ([], [EMA(0.99)]))
    plain.fit(1, quiet=True)
    averaged.fit(1, quiet=True)
    assert [len(rows) for rows in seen] == [1, 3, 1, 3]  # a look before the fit, a picture after it
    assert not torch.equal(seen[1], seen[3])
    assert torch.equal(plain.model[2].weight, averaged.model[2].weight)


def test_a_run_that_is_stopped_and_resumed_has_all_reconstructions_in_its_folder(tmp_path):
    class Kill(Callback):
        order = 95  # the picture is there, and the checkpoint is not
        recorded = False

        def after_epoch(self, learn):
            if learn.epoch == 4 and learn.run.steps < 4 * STEPS and not (tmp_path / "dead").exists():
                (tmp_path / "dead").touch()
                raise KeyError("as if it were killed")

    cbs = [SaveReconstructions(2, n=2), Checkpoints(tmp_path / "run", every=None)]
    with pytest.raises(KeyError):
        reconstructing([*cbs, Kill()], nn.Sequential(nn.Flatten(), linear(4))).fit(5, quiet=True)
    plots = tmp_path / "run" / "plots"
    assert drawn(plots) == [1, 2, 4]
    kept = {path.name: path.read_bytes() for path in plots.iterdir()}
    (plots / "reconstructions-epoch-0004.png").unlink()
    process = subprocess.Popen(["true"])  # whose id belongs to nobody once it is waited for
    process.wait()
    (plots / f".tmp-reconstructions-epoch-0004.png-{process.pid}").write_bytes(b"half")
    own = {"dls": reconstructing().dls, "model": nn.Sequential(nn.Flatten(), linear(4))}
    again = Learner.load(tmp_path / "run", **own)
    assert [type(cb).__name__ for cb in again.cbs] == ["SaveReconstructions", "Checkpoints"]
    assert (again.cbs[0].every, again.cbs[0].n, again.cbs[0].folder) == (2, 2, None)
    again.resume(quiet=True)
    assert drawn(plots) == [1, 2, 4, 5]
    assert {name: (plots / name).read_bytes() for name in kept} == kept


@pytest.mark.parametrize(
    ("make", "learn", "error", "message"),
    [
        (lambda path: SaveReconstructions(), reconstructing, ConfigError, 'pass folder="..."'),
        (lambda path: SaveReconstructions(folder=path), learner, DataError, "expected float pictures"),
        (
            lambda path: SaveReconstructions(folder=path),
            lambda cb: reconstructing(cb, valid=False),
            ConfigError,
            "validation set, and there is none",
        ),
    ],
)
def test_reconstructions_that_cannot_be_drawn_are_refused_before_the_first_step(make, learn, error, message, tmp_path):
    made = learn(make(tmp_path / "plots"))
    with pytest.raises(error, match=message):
        made.fit(1, quiet=True)
    assert made.history.steps == 0
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize("kwargs", [{"every": 0}, {"every": 1.5}, {"every": True}, {"n": 0}, {"n": 65}])
def test_numbers_of_reconstructions_that_cannot_be_are_refused(kwargs):
    with pytest.raises(ConfigError, match="must be a whole number from 1"):
        SaveReconstructions(**kwargs)


def test_a_disk_that_takes_no_picture_does_not_end_the_training(tmp_path):
    (tmp_path / "plots").write_text("a file where the folder is to be")
    plain, watched = reconstructing(), reconstructing(SaveReconstructions(1, tmp_path / "plots", n=2))
    plain.fit(1, quiet=True)
    with pytest.warns(RuntimeWarning, match="no picture of the reconstructions after epoch 1"):
        watched.fit(1, quiet=True)
    assert watched.history.losses == plain.history.losses


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("autoencoder --hidden 4 --code 2", [1, 3]),
        ("autoencoder --hidden 4 --code 2 --reconstructions-every 2", [1, 2, 3]),
        ("linear", []),
    ],
)
def test_the_command_line_draws_reconstructions_of_pictures(model, expected, tmp_path):
    data = cli_tools.write_idx(tmp_path / "digits", 60, 20)
    done = cli_tools.clearloop(
        "train", data, "-n", 3, "-b", 30, "-q", "-o", tmp_path / "run", "--model", *model.split()
    )
    assert (done.code, done.err) == (0, "")
    names = (path.name for path in (tmp_path / "run" / "plots").iterdir() if path.name != "loss.png")
    assert sorted(names) == [f"reconstructions-epoch-{epoch:04d}.png" for epoch in expected]


def test_the_command_line_draws_no_reconstructions_where_there_are_no_pictures(tmp_path):
    rows = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(tmp_path / "rows.npz", x=rows, y=rows)
    options = ["--model", "autoencoder", "--hidden", "4", "--code", "2", "-n", 1, "-q", "-o", tmp_path / "run"]
    assert cli_tools.clearloop("train", tmp_path / "rows.npz", *options).code == 0
    assert not list((tmp_path / "run" / "plots").glob("reconstructions*"))
    refused = cli_tools.clearloop(
        "train", tmp_path / "rows.npz", *options[:-1], tmp_path / "2", "--reconstructions-every", "2"
    )
    assert "expected float pictures" in refused.err
    assert not (tmp_path / "2").exists()

"""A run that was stopped anywhere, and goes on from its folder, ends with the bytes of the run that never stopped."""

import functools
import json
import random
import shutil
import signal
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as lrs

import clearloop as cl
from clearloop import durable, environment, models, rng
from clearloop.errors import CheckpointError, ConfigError, RunError
from clearloop.learner import Learner
from clearloop.saving import records_of
from resume_tools import (
    CLASSES,
    FEATURES,
    Case,
    Crash,
    Noisy,
    NoWait,
    Remembering,
    SpanStop,
    Stop,
    Tied,
    TwoInputs,
    arrays,
    batch_norm_net,
    differences,
    end_of,
    end_on_disk,
    finish_with_stops,
    interrupt,
    item_data,
    tensor_data,
    without_seconds,
)

CTRL_C = KeyboardInterrupt


@pytest.fixture(autouse=True)
def quick(tmp_path):
    """One thread, and no waiting for the disk."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with durable.using(NoWait()):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """The ends, in memory and on disk, of the run of a case that nothing stops; each is run once."""

    @functools.cache
    def ends(case):
        path = tmp_path_factory.mktemp("whole") / "run"
        learn = case.learner(path)
        case.fit(learn)
        return end_of(learn), end_on_disk(path)

    return ends


def check_same_end(learn, path, ends):
    in_memory, on_disk = ends
    assert differences(end_of(learn), in_memory) == set()
    assert differences(end_on_disk(path), on_disk) == set()


# -- where it stops ---------------------------------------------------------------------------------------------------

BY_STEPS = Case(
    "by steps", torch.optim.AdamW, 0.01, schedule=partial(cl.one_cycle, 0.02), cbs=lambda: [cl.EMA(0.9)], every=2
)
BY_EPOCHS = Case(
    "by epochs", partial(torch.optim.SGD, momentum=0.9), schedule=lambda _: partial(lrs.StepLR, step_size=1, gamma=0.5),
    cbs=lambda: [cl.EarlyStopping(patience=5), cl.EMA(0.9)], every=None,
)  # fmt: skip
POINTS = [
    ("after_step", 1),  # the first of all
    ("after_step", 3),
    ("after_step", 5),  # the last of an epoch
    ("after_step", 7),
    ("before_step", 0),
    ("before_step", 8),
    ("in_forward", 6),
    ("in_update", 7),  # the weights have moved, the history has not
    ("before_epoch", 5),
    ("before_validate", 5),
    ("in_validation", 10),
    ("after_validate", 10),
    ("after_epoch", 5),
    ("after_epoch", 15),  # the last of the run
]


@pytest.mark.parametrize("error", [Crash, CTRL_C])
@pytest.mark.parametrize(("where", "at"), POINTS)
@pytest.mark.parametrize(
    ("case", "order"), [(BY_STEPS, 1000), (BY_EPOCHS, -1000)], ids=["after other callbacks", "before other callbacks"]
)
def test_a_run_stopped_at_any_point_ends_the_same(case, order, where, at, error, tmp_path, never_stopped):
    learn = finish_with_stops(case, tmp_path / "run", [Stop(where, at, error, order)])
    check_same_end(learn, tmp_path / "run", never_stopped(case))


@pytest.mark.parametrize("error", [Crash, CTRL_C])
@pytest.mark.parametrize(("where", "at"), [("in_forward", 7), ("in_update", 8), ("in_validation", 10)])
def test_a_run_stopped_inside_a_span_of_many_steps_ends_the_same(where, at, error, tmp_path, never_stopped):
    case = Case("spans", torch.optim.Adam, 0.01, every=None)
    learn = finish_with_stops(case, tmp_path / "run", [SpanStop(where, at, error)])
    check_same_end(learn, tmp_path / "run", never_stopped(case))


class StoppingLR(lrs.StepLR):
    """Is interrupted between its step and the record of the epoch."""

    stops_at = 1

    def step(self, *rest):
        super().step(*rest)
        if self.last_epoch == type(self).stops_at:
            type(self).stops_at = -1
            signal.raise_signal(signal.SIGINT)


def test_a_schedule_stopped_in_its_step_does_not_take_it_twice(tmp_path, never_stopped):
    case = Case("stopping", schedule=lambda _: partial(StoppingLR, step_size=1, gamma=0.5), own=("schedule",))
    expected = Case("not stopping", schedule=lambda _: partial(lrs.StepLR, step_size=1, gamma=0.5))
    with pytest.raises(KeyboardInterrupt):
        case.fit(case.learner(tmp_path / "run"))
    learn = case.load(tmp_path / "run")
    assert learn.epoch == 1
    case.resume(learn)
    assert differences(end_of(learn), never_stopped(expected)[0]) == {"learner"}  # where the schedule has its name


def test_ctrl_c_is_saved_at_the_very_step_and_a_failure_is_not(tmp_path):
    for error, step in ((CTRL_C, 7), (Crash, 5)):
        path = tmp_path / error.__name__
        interrupt(learn := BY_EPOCHS.learner(path), Stop("after_step", 7, error), BY_EPOCHS.fit)
        assert BY_EPOCHS.load(path).history.steps == step
        assert learn.failure is not None


def test_an_exit_between_callbacks_is_not_saved_half_done(tmp_path):
    interrupt(BY_STEPS.learner(tmp_path / "run"), Stop("after_step", 8, SystemExit, order=-1), BY_STEPS.fit)
    assert BY_STEPS.load(tmp_path / "run").history.steps == 7  # step 8 was taken, but its average was not


def test_a_stopped_run_goes_on_in_the_same_process(tmp_path, never_stopped):
    learn = BY_STEPS.learner(tmp_path / "run")
    interrupt(learn, Stop("after_step", 8, CTRL_C), BY_STEPS.fit)
    learn.resume(quiet=True)
    check_same_end(learn, tmp_path / "run", never_stopped(BY_STEPS))


def test_three_stops_in_one_epoch_and_one_in_its_validation_change_nothing(tmp_path, never_stopped):
    stops = [Stop("after_step", 6, CTRL_C), Stop("in_update", 7), Stop("after_step", 9), Stop("in_validation", 10)]
    learn = finish_with_stops(BY_STEPS, tmp_path / "run", stops)
    check_same_end(learn, tmp_path / "run", never_stopped(BY_STEPS))


def test_keeping_checkpoints_does_not_change_a_run(never_stopped):
    learn = BY_STEPS.learner(None)
    BY_STEPS.fit(learn)
    assert differences(end_of(learn), never_stopped(BY_STEPS)[0]) == {"callbacks"}  # that of the checkpoints


# -- what is stopped --------------------------------------------------------------------------------------------------


def two_groups(parameters, lr):
    """The first layer learns ten times slower."""
    parameters = list(parameters)
    return torch.optim.Adam([{"params": parameters[:2], "lr_scale": 0.1}, {"params": parameters[2:]}], lr)


OPTIMIZERS = [
    Case("SGD", torch.optim.SGD),
    Case("momentum", partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.01)),
    Case("Adam", partial(torch.optim.Adam, amsgrad=True), 0.01),
    Case("AdamW", torch.optim.AdamW, 0.01),
    Case("RMSprop", partial(torch.optim.RMSprop, momentum=0.5, centered=True), 0.01),
    Case("Adagrad", torch.optim.Adagrad),
    Case("NAdam", torch.optim.NAdam, 0.01),
    Case("Rprop", torch.optim.Rprop),
    Case("two groups", two_groups, 0.01, schedule=partial(cl.cosine, 0.02), own=("opt_func",)),
]


def adam(name, schedule, **options):
    return Case(name, torch.optim.Adam, 0.01, schedule=schedule, **options)


def sgd(name, schedule, **options):
    return Case(name, partial(torch.optim.SGD, momentum=0.9), 0.05, schedule=schedule, **options)


SCHEDULES = [
    adam("one_cycle", partial(cl.one_cycle, 0.02)),
    adam("cosine", partial(cl.cosine, 0.02, warmup_steps=3)),
    adam("a function of the step", lambda _: lambda step: 0.1 / (1 + step), own=("schedule",)),
    sgd("StepLR", lambda _: partial(lrs.StepLR, step_size=1)),
    sgd("MultiStepLR", lambda _: partial(lrs.MultiStepLR, milestones=[1, 2])),
    sgd("ReduceLROnPlateau", lambda _: partial(lrs.ReduceLROnPlateau, patience=0, threshold=0.9)),
    sgd("CyclicLR", lambda _: partial(lrs.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=4)),
    adam("CyclicLR of betas", lambda _: partial(lrs.CyclicLR, base_lr=0.001, max_lr=0.01, step_size_up=4)),
    adam("OneCycleLR", lambda total: partial(lrs.OneCycleLR, max_lr=0.02, total_steps=total)),
    sgd("CosineAnnealingWarmRestarts", lambda _: partial(lrs.CosineAnnealingWarmRestarts, T_0=4, T_mult=2)),
    sgd("CosineAnnealingLR", lambda _: partial(lrs.CosineAnnealingLR, T_max=3)),
    sgd("LinearLR", lambda _: partial(lrs.LinearLR, total_iters=3)),
    sgd("ExponentialLR", lambda _: partial(lrs.ExponentialLR, gamma=0.7)),
    sgd("LambdaLR", lambda _: partial(lrs.LambdaLR, lr_lambda=lambda epoch: 0.5**epoch), own=("schedule",)),
    sgd(
        "ExponentialLR by steps",
        lambda _: cl.TorchSchedule(partial(lrs.ExponentialLR, gamma=0.9), "step"),
    ),
    sgd(
        "SequentialLR",
        lambda _: cl.TorchSchedule(
            lambda opt: lrs.SequentialLR(opt, [lrs.LinearLR(opt), lrs.ExponentialLR(opt, 0.9)], milestones=[4]), "step"
        ),
        own=("schedule",),
    ),
]
PARTS = [
    Case("accumulated", data=lambda: tensor_data(61), options={"accumulate": 3}),  # windows of 3, 3 and 2 batches
    Case("accumulated with Adam and clip", torch.optim.Adam, 0.01, options={"accumulate": 2, "clip": 0.5}),
    Case("clip", options={"clip": 0.1}),
    Case("EMA", torch.optim.Adam, 0.01, cbs=lambda: [cl.EMA(0.9)]),
    Case("EarlyStopping", cbs=lambda: [cl.EarlyStopping("accuracy", patience=1)], epochs=8, lr=1e-5),
    Case("bf16", torch.optim.Adam, 0.01, options={"precision": "bf16"}),
    Case("batch norm", torch.optim.Adam, 0.01, model=batch_norm_net, cbs=lambda: [cl.EMA(0.9)], own=("model",)),
    Case("a buffer out of state_dict", model=Remembering, own=("model",)),
    Case("tied weights", torch.optim.Adam, 0.01, model=Tied, own=("model",), cbs=lambda: [cl.EMA(0.9)]),
    Case("drop_last", data=partial(tensor_data, drop_last=True)),
    Case("random numbers in the model", model=Noisy, own=("model",)),
    Case("random items", data=item_data),
    Case("random items and model", model=Noisy, data=item_data, own=("model",), options={"accumulate": 2}),
    Case("no validation", data=lambda: cl.DataLoaders(tensor_data().train)),
    Case("saved at every step", every=1),
    Case("saved after epochs", every=None),
    Case("saved by the clock", every="0.0001s"),
]


def stops_in_second_epoch(learn):
    """Ctrl-C, a failure between update and history, one in a forward pass, Ctrl-C in the validation."""
    ends = learn.steps_per_epoch
    stops = [Stop("after_step", ends + 1, CTRL_C), Stop("in_update", ends + 1)]
    if ends > 3:
        stops.append(Stop("in_forward", ends + 3))
    return [*stops, Stop("after_step" if learn.dls.valid is None else "in_validation", 2 * ends, CTRL_C)]


@pytest.mark.parametrize("case", [*OPTIMIZERS, *SCHEDULES, *PARTS], ids=lambda case: case.name)
def test_every_kind_of_run_ends_the_same_after_four_stops(case, tmp_path, never_stopped):
    stops = stops_in_second_epoch(case.learner(None))
    learn = finish_with_stops(case, tmp_path / "run", stops)
    check_same_end(learn, tmp_path / "run", never_stopped(case))


def test_random_items_are_the_same_for_any_number_of_workers_on_either_side_of_a_stop(tmp_path, never_stopped):
    expected = never_stopped(next(case for case in PARTS if case.name == "random items"))
    for before, after in ((0, 1), (2, 0), (1, 2)):
        first = Case("before", data=partial(item_data, before))
        second = Case("after", data=partial(item_data, after))
        path = tmp_path / f"{before}-{after}"
        interrupt(first.learner(path), Stop("after_step", 7, CTRL_C), first.fit)
        learn = second.load(path)
        second.resume(learn)
        check_same_end(learn, path, expected)


# -- more than one fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [("after_step", 17), ("before_epoch", 15)], ids=["in it", "before it"])
@pytest.mark.parametrize("path_of", [lambda path: path / "run", lambda path: None], ids=["kept", "saved at the end"])
def test_a_second_fit_after_load_equals_two_fits_in_a_row(path_of, stop, tmp_path):
    def second_fit(learn):
        learn.fit(2, 0.02, schedule=partial(lrs.OneCycleLR, max_lr=0.03, total_steps=10), quiet=True)

    case = Case("two fits", torch.optim.Adam, 0.01, schedule=lambda _: partial(lrs.ExponentialLR, gamma=0.5))
    in_a_row = case.learner(None)
    case.fit(in_a_row)
    second_fit(in_a_row)

    apart = case.learner(path_of(tmp_path))
    case.fit(apart)
    if apart.run is None:
        apart.save(tmp_path / "run")
    apart = case.load(tmp_path / "run")
    interrupt(apart, Stop(*stop, CTRL_C), second_fit)
    if path_of(tmp_path) is None:
        apart.save(tmp_path / "run")
    apart = case.load(tmp_path / "run")
    case.resume(apart)
    assert differences(end_of(apart), end_of(in_a_row)) <= {"callbacks"}
    assert len(apart.history.epochs) == 5


def test_looking_at_a_loaded_run_does_not_change_how_it_goes_on(tmp_path, never_stopped):
    interrupt(BY_STEPS.learner(tmp_path / "run"), Stop("after_step", 7, CTRL_C), BY_STEPS.fit)
    learn = BY_STEPS.load(tmp_path / "run")
    learn.validate()
    learn.get_preds()
    learn.lr_find(steps=10)
    next(iter(learn.dls.train))
    torch.rand(3), np.random.rand(3), random.random()
    BY_STEPS.resume(learn)
    check_same_end(learn, tmp_path / "run", never_stopped(BY_STEPS))


def test_a_run_keeps_its_number_of_threads_whatever_the_caller_has(tmp_path, never_stopped):
    interrupt(BY_STEPS.learner(tmp_path / "run"), Stop("after_step", 7, CTRL_C), BY_STEPS.fit)
    torch.set_num_threads(2)
    learn = BY_STEPS.load(tmp_path / "run")
    BY_STEPS.resume(learn)
    assert torch.get_num_threads() == 2
    check_same_end(learn, tmp_path / "run", never_stopped(BY_STEPS))


def test_what_makes_exactness_impossible_is_reported(tmp_path, monkeypatch):
    interrupt(BY_STEPS.learner(tmp_path / "run"), Stop("after_step", 7, CTRL_C), BY_STEPS.fit)
    numerics = environment.numerics
    monkeypatch.setattr(environment, "numerics", lambda *args: {**numerics(*args), "cpu": "another one"})
    with pytest.warns(UserWarning, match="not to the bit, for this has changed: cpu: .* -> another one"):
        BY_STEPS.load(tmp_path / "run")


def test_resume_leaves_the_callers_random_states_alone(tmp_path):
    interrupt(BY_STEPS.learner(tmp_path / "run"), Stop("after_step", 7, CTRL_C), BY_STEPS.fit)
    learn = BY_STEPS.load(tmp_path / "run")
    before = rng.capture()
    BY_STEPS.resume(learn)
    after = rng.capture()
    assert before["python"] == after["python"]
    assert torch.equal(before["torch"], after["torch"])
    assert all(np.array_equal(a, b) for a, b in zip(before["numpy"], after["numpy"], strict=True))


def test_a_finished_run_has_nothing_to_resume(tmp_path, never_stopped):
    BY_STEPS.fit(BY_STEPS.learner(tmp_path / "run"))
    learn = BY_STEPS.load(tmp_path / "run")
    learn.resume(quiet=True)
    check_same_end(learn, tmp_path / "run", never_stopped(BY_STEPS))


def test_resume_without_a_fit_says_what_to_do():
    with pytest.raises(ConfigError, match="call fit, or load a run first"):
        BY_STEPS.learner(None).resume()


def test_a_run_whose_schedule_has_no_name_asks_for_it(tmp_path):
    case = next(case for case in SCHEDULES if case.name == "a function of the step")
    interrupt(case.learner(tmp_path / "run"), Stop("after_step", 7, CTRL_C), case.fit)
    with pytest.raises(ConfigError, match="schedule="):
        case.load(tmp_path / "run").resume(quiet=True)


# -- best, and any step -----------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_an_older_step_to_the_same_end(tmp_path, never_stopped):
    path = tmp_path / "run"
    BY_STEPS.fit(BY_STEPS.learner(path))
    steps = [int(folder.name.removeprefix("step-")) for folder in (path / "checkpoints").glob("step-*")]
    learn = BY_STEPS.load(path, at=min(steps))
    assert learn.history.steps == min(steps) < max(steps)
    BY_STEPS.resume(learn)
    assert differences(end_of(learn), never_stopped(BY_STEPS)[0]) == set()
    assert differences(end_of(BY_STEPS.load(path)), never_stopped(BY_STEPS)[0]) == set()


def spoiled_at_the_end(total_steps):
    return lambda step: 0.05 if step < total_steps - 5 else 30.0


@pytest.mark.parametrize("case", [Case("best", epochs=5, schedule=spoiled_at_the_end)], ids=lambda case: case.name)
def test_the_best_checkpoint_is_kept_and_gives_its_validation_again(case, tmp_path):
    path = tmp_path / "run"
    case.fit(case.learner(path))
    learn = case.load(path, at="best")
    losses = [record.valid_loss for record in case.load(path).history.epochs]
    assert learn.history.epochs[-1].valid_loss == min(losses)
    assert learn.validate()[0] == min(losses)
    assert learn.epoch < 5


def test_saving_by_hand_keeps_the_best_checkpoint(tmp_path):
    case = Case("best", lr=1.0, epochs=5)
    learn = case.learner(tmp_path / "run")
    case.fit(learn)
    best = learn.cbs[-1].best_step
    for epochs in (1, 2):
        learn.cbs[-1].every_s = float("inf")
        learn.fit(epochs, 0.0, quiet=True)
        learn.save(tmp_path / "run")
    assert case.load(tmp_path / "run", at="best").history.steps == best


def test_a_step_without_a_checkpoint_is_named_with_those_that_there_are(tmp_path):
    BY_STEPS.fit(BY_STEPS.learner(tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"step 3, got .*15"):
        BY_STEPS.load(tmp_path / "run", at=3)


# -- what does not belong together ------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path):
    """The folder of a run that was stopped after step 7, with checkpoints of steps 5 and 7."""
    interrupt(BY_STEPS.learner(tmp_path / "run"), Stop("after_step", 7, CTRL_C), BY_STEPS.fit)
    return tmp_path / "run"


@pytest.mark.parametrize(
    "other",
    [
        lambda: models.mlp(FEATURES, 9, CLASSES, dropout=0.5),
        lambda: models.mlp(FEATURES, 8, 8, CLASSES, dropout=0.5),
        lambda: nn.Linear(FEATURES, CLASSES),
    ],
)
def test_the_weights_of_another_model_are_refused(other, stopped):
    with pytest.raises(CheckpointError, match="another model"):
        Learner.load(stopped, dls=tensor_data(), model=other())


def test_another_optimizer_is_refused(stopped):
    with pytest.raises(CheckpointError, match="optimizer"):
        Learner.load(stopped, dls=tensor_data(), opt_func=torch.optim.SGD)


def changed(edit):
    """The data of the tests after `edit` of (inputs, targets, validation inputs, validation targets)."""
    x, y = arrays()
    x, y, x_valid, y_valid = edit(x.clone(), y.clone(), x[:20].clone(), y[:20].clone())
    train = cl.DataLoader(cl.TensorDataset(x, y), 8, shuffle=True, seed=3)
    return cl.DataLoaders(train, cl.DataLoader(cl.TensorDataset(x_valid, y_valid), 8))


def other_value(tensor):
    tensor.view(-1)[0] += 1
    return tensor


EDITS = {
    "an input": lambda x, y, *valid: (other_value(x), y, *valid),
    "a target": lambda x, y, *valid: (x, (y + 1) % CLASSES, *valid),
    "one sample less": lambda x, y, *valid: (x[1:], y[1:], *valid),
    "the order": lambda x, y, *valid: (x.flip(0), y.flip(0), *valid),
    "the validation": lambda x, y, x_valid, y_valid: (x, y, other_value(x_valid), y_valid),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_changed_data_are_refused(edit, stopped):
    Learner.load(stopped, dls=changed(lambda *parts: parts))
    with pytest.raises(RunError, match="not those that the run was started on"):
        Learner.load(stopped, dls=changed(edit))


LOADERS = {
    "batch size": lambda data: cl.DataLoader(data, 4, shuffle=True, seed=3),
    "seed": lambda data: cl.DataLoader(data, 8, shuffle=True, seed=4),
    "shuffle": lambda data: cl.DataLoader(data, 8, seed=3),
    "drop_last": lambda data: cl.DataLoader(data, 8, shuffle=True, seed=3, drop_last=True),
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_a_loader_that_gives_other_batches_is_refused(loader, stopped):
    data = tensor_data()
    with pytest.raises(RunError, match="not those that the run was started on"):
        Learner.load(stopped, dls=cl.DataLoaders(loader(data.train.dataset), data.valid))


def test_a_finished_run_reports_a_loader_that_gives_other_batches(tmp_path):
    BY_STEPS.fit(BY_STEPS.learner(tmp_path / "run"))
    data = tensor_data()
    with pytest.warns(UserWarning, match="batch_size 8 then, 4 now"):
        learn = Learner.load(
            tmp_path / "run", dls=cl.DataLoaders(LOADERS["batch size"](data.train.dataset), data.valid)
        )
    assert learn.validate()[0] == learn.history.epochs[-1].valid_loss


def test_a_run_of_a_model_that_no_predictor_takes_says_so_and_goes_on(tmp_path, never_stopped):
    def data():
        x, y = arrays()
        train = cl.DataLoader(cl.TensorDataset(x, -x, y), 8, shuffle=True, seed=3)
        return cl.DataLoaders(train, cl.DataLoader(cl.TensorDataset(x, x, y), 8))

    case = Case("two inputs", torch.optim.Adam, 0.01, model=TwoInputs, data=data, own=("model",))
    with pytest.warns(UserWarning, match="without a predictor"):
        expected = never_stopped(case)
    with pytest.warns(UserWarning, match="without a predictor"):
        learn = finish_with_stops(case, tmp_path / "run", [Stop("after_step", 7, CTRL_C), Stop("in_forward", 9)])
    check_same_end(learn, tmp_path / "run", expected)


# -- damage -----------------------------------------------------------------------------------------------------------


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_end_is_the_same(stopped, never_stopped):
    newest = max((stopped / "checkpoints").glob("step-*"))
    file = newest / "optim.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # in a tensor's values, of which no format says anything
    file.write_bytes(data)
    with pytest.warns(UserWarning, match="passing over step-00000007"):
        learn = BY_STEPS.load(stopped)
    assert learn.history.steps == 5
    BY_STEPS.resume(learn)
    shutil.rmtree(stopped / "checkpoints" / "step-00000007.damaged")
    check_same_end(learn, stopped, never_stopped(BY_STEPS))


def test_a_run_without_any_good_checkpoint_says_so(stopped):
    for file in stopped.glob("checkpoints/*/state.json"):
        file.unlink()
    with pytest.warns(UserWarning, match="passing over"), pytest.raises(CheckpointError, match="got 2 that do not"):
        BY_STEPS.load(stopped)


def test_a_history_cut_short_is_noticed(stopped, never_stopped):
    history = stopped / "history.jsonl"
    lines = history.read_bytes().splitlines(keepends=True)
    history.write_bytes(b"".join(lines[:-1]))  # without the last step
    with pytest.warns(UserWarning, match="passing over step-00000007"):
        learn = BY_STEPS.load(stopped)
    BY_STEPS.resume(learn)
    shutil.rmtree(stopped / "checkpoints" / "step-00000007.damaged")
    check_same_end(learn, stopped, never_stopped(BY_STEPS))


def test_an_edited_history_is_noticed(stopped):
    history = stopped / "history.jsonl"
    lines = history.read_bytes().splitlines(keepends=True)
    first = json.loads(lines[0])
    first["loss"] = 0.25
    history.write_bytes(json.dumps(first).encode() + b"\n" + b"".join(lines[1:]))
    with pytest.warns(UserWarning, match="passing over"), pytest.raises(CheckpointError, match=r"history\.jsonl"):
        BY_STEPS.load(stopped)


def test_what_a_dead_process_wrote_after_its_last_checkpoint_is_written_again(stopped, never_stopped):
    with open(stopped / "history.jsonl", "ab") as file:
        file.write(b'{"kind": "step", "step": 7, "loss": 9.0, "lr": 9.0, "count": 8.0}\n{"kind": "st')
    learn = BY_STEPS.load(stopped)
    BY_STEPS.resume(learn)
    check_same_end(learn, stopped, never_stopped(BY_STEPS))


FROM_THE_SEED = Case("from the seed", torch.optim.Adam, 0.01, schedule=partial(cl.one_cycle, 0.02), seed=7)


@pytest.mark.parametrize("case", [FROM_THE_SEED, BY_STEPS, BY_EPOCHS], ids=lambda case: case.name)
def test_a_run_killed_before_its_first_checkpoint_begins_again(case, tmp_path, never_stopped):
    path = tmp_path / "run"
    interrupt(case.learner(path), Stop("before_step", 0), case.fit)
    shutil.rmtree(path / "checkpoints" / "step-00000000")
    assert (path / "initial").exists() == (case is not FROM_THE_SEED)  # weights that the seed does not give
    learn = case.load(path)
    case.resume(learn)
    check_same_end(learn, path, never_stopped(case))


def test_a_run_whose_checkpoints_were_removed_does_not_begin_again(stopped):
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(RunError, match="expected a checkpoint"):
        BY_STEPS.load(stopped)


def test_a_fit_that_ended_inside_a_step_is_not_resumed_in_the_same_process(tmp_path):
    learn = BY_STEPS.learner(None)
    interrupt(learn, Stop("in_update", 7), BY_STEPS.fit)
    with pytest.raises(RunError, match="in the middle of a step"):
        learn.resume(quiet=True)


# -- these tests can fail ---------------------------------------------------------------------------------------------


def forget_random(states):
    states["random"] = rng.seeded(11)


def forget_optimizer(states):
    states["optim"]["state"] = {}


def forget_schedule(states):
    states["learner"]["scheduler"] = None


def forget_averages(states):
    states["callbacks"]["EMA"] = {}


def forget_buffers(states):
    states["model"]["mean"] = torch.zeros(FEATURES)


def forget_the_stored_gaussian(states):
    kind, keys, position, _, _ = states["random"]["numpy"]
    states["random"]["numpy"] = (kind, keys, position, 0, 0.0)


def forget_the_step(states):
    states["learner"]["step"] = 0


DEFECTS = [
    (forget_random, BY_STEPS, {"weights", "random"}),
    (forget_optimizer, BY_STEPS, {"weights", "optimizer"}),
    (forget_schedule, SCHEDULES[7], {"weights", "learner"}),
    (forget_averages, BY_STEPS, {"callbacks", "history"}),
    (forget_buffers, PARTS[7], {"weights", "history"}),
    (forget_the_stored_gaussian, PARTS[10], {"weights", "random"}),
    (forget_the_step, BY_STEPS, {"weights", "history"}),
]


@pytest.mark.parametrize(("defect", "case", "seen"), DEFECTS, ids=[defect.__name__ for defect, *_ in DEFECTS])
def test_a_run_that_forgot_something_does_not_end_the_same(defect, case, seen, tmp_path, never_stopped, monkeypatch):
    interrupt(case.learner(tmp_path / "run"), Stop("after_step", 7, CTRL_C), case.fit)
    load_state_dict = Learner.load_state_dict

    def forgetting(self, states, history):
        defect(states)
        load_state_dict(self, states, history)

    monkeypatch.setattr(Learner, "load_state_dict", forgetting)
    learn = case.load(tmp_path / "run")
    case.resume(learn)
    assert seen <= differences(end_of(learn), never_stopped(case)[0])


def test_a_record_that_differs_by_one_bit_is_seen(tmp_path, never_stopped):
    learn = BY_STEPS.learner(tmp_path / "run")
    BY_STEPS.fit(learn)
    learn.history.losses[4] = float(np.nextafter(learn.history.losses[4], 1))
    assert differences(end_of(learn), never_stopped(BY_STEPS)[0]) == {"history"}
    records = without_seconds(records_of(learn.history, 0, 0))
    assert all("seconds" not in record for record in records)
    assert F.cross_entropy is learn.loss_func

"""Ctrl-C and SIGTERM end a run at a safe moment: it is saved, says how to go on, and goes on to the same bytes."""

# ruff: noqa: PT012  (what a signal leaves undone of its block is what these tests look at)

import os
import signal
import threading
import time
from functools import partial

import pytest
import torch

import clearloop as cl
from clearloop import durable, models, signals
from clearloop.signals import Interrupts
from resume_processes import Processes
from resume_tools import Case, NoWait, Stop, differences, end_of, end_on_disk, interrupt, tensor_data

SAVED_WITHIN_S = 5  # a deadline for a process that was told to stop, not a timing
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
ERRORS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


@pytest.fixture
def impatient(monkeypatch):
    """Every second signal counts as one that came a second later."""
    monkeypatch.setattr(signals, "PATIENCE_S", 0.0)


# -- real processes ---------------------------------------------------------------------------------------------------

OPTIONS = "--model mlp --hidden 16 --dropout 0.2 --ema 0.9 -n 3 -b 25 --every 7"
linux = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs the process handles of Linux")


@pytest.fixture(scope="module")
def processes():
    processes = Processes()
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Vectors of two classes in an .npz file: 20 steps an epoch."""
    import numpy as np

    draw = np.random.default_rng(0)
    x = draw.normal(size=(600, 20)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    path = tmp_path_factory.mktemp("data") / "vectors.npz"
    np.savez(path, x_train=x[:500], y_train=y[:500], x_valid=x[500:], y_valid=y[500:])
    return path


@pytest.fixture(scope="module")
def whole(processes, data, tmp_path_factory):
    """What the run that nothing stops ends with."""
    cwd = tmp_path_factory.mktemp("whole")
    process = processes.run("train", data, *OPTIONS.split(), "--out", "run", cwd=cwd)
    assert process.code == 0, process.output
    return end_on_disk(cwd / "run")


PLACES = {  # from which step on, and what is done then
    "training": (23, "train"),
    "validation": (40, "validate"),
    "a save": (21, "write run/checkpoints/.tmp-step/optim"),
    "the end of a save": (21, "unlink run/checkpoints/.tmp-step"),
    "the predictor": (20, "write run/.tmp-predictor"),
}


@linux
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_process_that_is_told_to_stop_saves_and_says_how_to_go_on(
    place, number, times, processes, data, whole, tmp_path
):
    process = processes.start("train", data, *OPTIONS.split(), "--out", "run", cwd=tmp_path, pause=place)
    process.wait_for_pause()
    process.send(number)
    process.send(signal.SIGCONT)
    if times == 2:
        time.sleep(0.01)
        process.send(number)
    code = process.wait(SAVED_WITHIN_S)
    ended_by_the_second = -signal.SIGTERM  # which came when all was saved, and is 143 to a shell
    assert code in ((CODES[number],) if times == 1 or number == signal.SIGINT else (143, ended_by_the_second))
    assert "clearloop resume run" in process.output
    assert "Traceback" not in process.output
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*")).name
    assert newest == f"step-{process.place()[0]:08d}", "it was not saved where it stopped"

    again = processes.run("resume", "run", cwd=tmp_path)
    assert again.code == 0, again.output
    assert differences(end_on_disk(tmp_path / "run"), whole) == set()


@linux
def test_a_process_stopped_again_and_again_ends_the_same(processes, data, whole, tmp_path):
    command = ["train", data, *OPTIONS.split(), "--out", "run"]
    for step in (5, 17, 23, 41, 58):
        process = processes.start(*command, cwd=tmp_path, pause=(step, "train"))
        process.wait_for_pause()
        process.send(signal.SIGTERM)
        process.send(signal.SIGCONT)
        assert process.wait(SAVED_WITHIN_S) == 143, process.output
        command = ["resume", "run"]
    assert processes.run(*command, cwd=tmp_path).code == 0
    assert differences(end_on_disk(tmp_path / "run"), whole) == set()


# -- Interrupts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_acts_at_once_where_nothing_is_held(number):
    reached = []
    with pytest.raises(ERRORS[number]) as caught, Interrupts().installed():
        signal.raise_signal(number)
        reached.append("after")
    assert not reached
    assert number == signal.SIGINT or caught.value.code == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("firmly", [False, True])
def test_a_signal_waits_for_the_end_of_what_is_held(number, firmly):
    interrupts, reached = Interrupts(), []
    with pytest.raises(ERRORS[number]), interrupts.installed():
        with interrupts.held(firmly):
            signal.raise_signal(number)
            reached.append("the end of the block")
        reached.append("after")
    assert reached == ["the end of the block"]


def test_a_signal_waits_for_the_outermost_block():
    interrupts, reached = Interrupts(), []
    with pytest.raises(KeyboardInterrupt), interrupts.installed():
        with interrupts.held():
            with interrupts.held(firmly=True):
                signal.raise_signal(signal.SIGINT)
            reached.append("between")
        reached.append("after")
    assert reached == ["between"]


def test_a_second_signal_soon_after_the_first_waits_too():
    interrupts, reached = Interrupts(), []
    with pytest.raises(KeyboardInterrupt), interrupts.installed(), interrupts.held():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        reached.append("the end")
    assert reached == ["the end"]


def test_a_later_second_signal_waits_no_longer(impatient):
    interrupts, reached = Interrupts(), []
    with pytest.raises(SystemExit), interrupts.installed(), interrupts.held():
        signal.raise_signal(signal.SIGINT)
        reached.append("one")
        signal.raise_signal(signal.SIGTERM)
        reached.append("two")
    assert reached == ["one"]


def test_not_even_a_later_second_signal_breaks_what_is_held_firmly(impatient):
    interrupts, reached = Interrupts(), []
    with pytest.raises(KeyboardInterrupt), interrupts.installed(), interrupts.held(), interrupts.held(firmly=True):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        reached.append("the end")
    assert reached == ["the end"]


def test_a_second_signal_soon_after_the_first_has_acted_does_not_disturb_the_clearing_up():
    interrupts, reached = Interrupts(), []
    with pytest.raises(KeyboardInterrupt), interrupts.installed():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            reached.append("cleared up")
    assert reached == ["cleared up"]


def test_signals_act_again_where_a_block_is_released():
    interrupts, reached = Interrupts(), []
    with pytest.raises(KeyboardInterrupt), interrupts.installed(), interrupts.held(firmly=True):
        try:
            with interrupts.released():
                signal.raise_signal(signal.SIGINT)
                reached.append("after the signal")
        finally:
            reached.append("cleared up")
    assert reached == ["cleared up"]


def test_a_signal_that_waited_acts_where_a_block_is_released():
    interrupts, reached = Interrupts(), []
    with pytest.raises(KeyboardInterrupt), interrupts.installed(), interrupts.held(firmly=True):
        signal.raise_signal(signal.SIGINT)
        reached.append("held")
        with interrupts.released():
            reached.append("released")
    assert reached == ["held"]


def test_a_release_inside_two_blocks_changes_nothing():
    interrupts, reached = Interrupts(), []
    with pytest.raises(KeyboardInterrupt), interrupts.installed(), interrupts.held():
        with interrupts.held(firmly=True), interrupts.released():
            signal.raise_signal(signal.SIGINT)
            reached.append("after the signal")
        reached.append("the end")
    assert reached == ["after the signal", "the end"]


def test_an_error_inside_a_block_is_not_hidden_and_its_signal_is_forgotten():
    interrupts = Interrupts()
    with pytest.raises(ZeroDivisionError), interrupts.installed(), interrupts.held():
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError
    with interrupts.installed(), interrupts.held():
        pass


def test_the_former_handlers_come_back():
    before = [signal.getsignal(number) for number in signals.HANDLED]
    interrupts = Interrupts()
    with interrupts.installed():
        assert all(signal.getsignal(number) == interrupts._handle for number in signals.HANDLED)
        with interrupts.installed():
            pass
        assert all(signal.getsignal(number) == interrupts._handle for number in signals.HANDLED)
    assert [signal.getsignal(number) for number in signals.HANDLED] == before


def test_outside_the_main_thread_nothing_is_installed():
    before = [signal.getsignal(number) for number in signals.HANDLED]
    seen = []

    def work():
        interrupts = Interrupts()
        with interrupts.installed(), interrupts.held(), interrupts.held(firmly=True):
            seen.extend(signal.getsignal(number) for number in signals.HANDLED)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before


# -- a fit in this process --------------------------------------------------------------------------------------------

RUN = Case(
    "signals", partial(torch.optim.SGD, momentum=0.9), cbs=lambda: [cl.EMA(0.9)], every=2, data=lambda: tensor_data(29)
)


class SignalAt(NoWait):
    """Sends this process a signal, or two, when the n-th operation on the disk is about to be done."""

    def __init__(self, at, times=1):
        self.at, self.times, self.done = at, times, 0

    def _count(self):
        self.done += 1
        if self.done == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)

    def mkdir(self, path):
        self._count()
        super().mkdir(path)

    def write(self, path, data):
        self._count()
        super().write(path, data)

    def append(self, path, data):
        self._count()
        super().append(path, data)

    def fsync(self, path):
        self._count()

    def rename(self, old, new):
        self._count()
        super().rename(old, new)

    def unlink(self, path):
        self._count()
        super().unlink(path)

    def rmdir(self, path):
        self._count()
        super().rmdir(path)


@pytest.fixture(scope="module")
def not_signalled(tmp_path_factory):
    """The ends of the run that no signal reaches, and its operations on the disk."""
    path = tmp_path_factory.mktemp("whole") / "run"
    torch.set_num_threads(1)
    with durable.using(SignalAt(0)) as file_system:
        learn = RUN.learner(path)
        RUN.fit(learn)
    return end_of(learn), end_on_disk(path), file_system.done


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("share", [number / 12 for number in range(12)])
def test_a_save_is_finished_before_a_signal_ends_the_run(share, times, not_signalled, impatient, tmp_path):
    in_memory, on_disk, operations = not_signalled
    at = 5 + round(share * (operations - 5))  # the first four make the folder
    learn = RUN.learner(tmp_path / "run")
    with durable.using(SignalAt(at, times)), pytest.raises(KeyboardInterrupt):
        RUN.fit(learn)
    reached, learn = learn.history.steps, RUN.load(tmp_path / "run")
    assert learn.history.steps == reached
    assert not [path for path in (tmp_path / "run").rglob("*") if ".tmp-" in path.name]
    with durable.using(NoWait()):
        RUN.resume(learn)
    assert differences(end_of(learn), in_memory) == set()
    assert differences(end_on_disk(tmp_path / "run"), on_disk) == set()


class Twice(Stop):
    """Two signals at one place."""

    def end(self):
        super().end()
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("where", "at"), [("in_forward", 6), ("in_update", 5), ("after_step", 6), ("in_validation", 8)]
)
def test_a_run_that_did_not_wait_for_the_end_of_its_step_goes_on_from_its_last_checkpoint(
    where, at, not_signalled, impatient, tmp_path
):
    with durable.using(NoWait()):
        interrupt(RUN.learner(tmp_path / "run"), Twice(where, at, KeyboardInterrupt, order=-1), RUN.fit)
        learn = RUN.load(tmp_path / "run")
        RUN.resume(learn)
    assert differences(end_of(learn), not_signalled[0]) == set()


def test_saving_by_hand_is_finished_before_ctrl_c(tmp_path):
    learn = RUN.learner(None)
    RUN.fit(learn)
    for number in (1, 12, 30):
        path = tmp_path / f"run-{number}"
        with durable.using(SignalAt(number)), pytest.raises(KeyboardInterrupt):
            learn.save(path)
        if number > 1:  # at the first operation the folder is not there yet
            assert RUN.load(path).history.steps == learn.history.steps


def test_ctrl_c_in_an_evaluation_leaves_no_trace(tmp_path):
    learn = RUN.learner(None)
    RUN.fit(learn)
    before = end_of(learn)
    learn.model.train()
    stop = Stop("in_validation", learn.history.steps, KeyboardInterrupt)
    interrupt(learn, stop, lambda learn: learn.validate())
    assert learn.model.training
    learn.cbs.remove(stop)
    assert differences(end_of(learn), before) == set()


def test_a_fit_in_another_thread_leaves_signals_alone():
    learn = RUN.learner(None)
    thread = threading.Thread(target=RUN.fit, args=(learn,))
    thread.start()
    thread.join()
    assert learn.epoch == RUN.epochs


def test_a_stopped_notebook_goes_on_with_resume():
    torch.manual_seed(7)
    data = tensor_data(29)
    learn = cl.Learner(data, models.mlp(6, 8, 3, dropout=0.5), seed=11)
    stops = [Stop("after_step", 6, KeyboardInterrupt), Stop("after_step", 7, KeyboardInterrupt)]
    interrupt(learn, stops[0], lambda learn: learn.fit(3, 0.1, quiet=True))
    interrupt(learn, stops[1], lambda learn: learn.resume(quiet=True))
    learn.resume(quiet=True)

    torch.manual_seed(7)
    tensor_data(29)
    whole = cl.Learner(data, models.mlp(6, 8, 3, dropout=0.5), seed=11)
    whole.fit(3, 0.1, quiet=True)
    assert differences(end_of(learn), end_of(whole)) == set()

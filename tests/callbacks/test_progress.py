"""Progress: what is shown on a terminal, in a notebook and in a file, and that training does not notice."""

from __future__ import annotations

import io
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import clearloop as cl
from clearloop.callbacks import progress
from clearloop.callbacks.progress import Lines, Notebook, Progress, Terminal, duration, number

STEPS = 8  # an epoch, in these tests
HEADER = "epoch  train_loss  valid_loss   accuracy  time"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Noisy(nn.Module):
    """A model that draws from Python's and torch's random states whenever it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            inputs = nn.functional.dropout(inputs, 0.2) + 0.1 * random.random()
        return self.linear(inputs)


def make_learner(*cbs: cl.Callback, valid: bool = True, metrics: Any = cl.accuracy, **options: Any) -> cl.Learner:
    generator = torch.Generator().manual_seed(0)
    data = cl.TensorDataset(
        torch.randn(16 * STEPS, 4, generator=generator), torch.randint(0, 3, (16 * STEPS,), generator=generator)
    )
    torch.manual_seed(1)
    dls = (cl.DataLoader(data, 16, shuffle=True, seed=2), cl.DataLoader(data, 64) if valid else None)
    return cl.Learner(dls, Noisy(), lr=0.1, metrics=metrics, cbs=cbs, seed=3, **options)


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(cl.__file__).parents[1])}


class Tick(cl.Callback):
    """Moves a clock by some seconds at each step."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def before_step(self, learn: cl.Learner) -> None:
        self.now += self.seconds

    def __call__(self) -> float:
        return self.now


def on_clock(shown: Progress, clock: Callable[[], float]) -> Progress:
    shown._clock = clock
    return shown


class RaiseAt(cl.Callback):
    """Raises an exception, or a signal, after some step of some epoch, the first time it comes by."""

    def __init__(self, what: Exception | signal.Signals, epoch: int, step: int) -> None:
        self.what: Exception | signal.Signals | None = what
        self.epoch, self.at = epoch, step

    def after_step(self, learn: cl.Learner) -> None:
        if self.what is not None and (learn.epoch, learn.step) == (self.epoch, self.at):
            what, self.what = self.what, None
            if isinstance(what, Exception):
                raise what
            signal.raise_signal(what)


def expected_lines(learn: cl.Learner, first: int = 0) -> list[str]:
    lines = [HEADER]
    for record in learn.history.epochs[first:]:
        time_s = f"0:{round(record.seconds):02}"
        losses = f"{record.train_loss:10.6f}  {record.valid_loss:10.6f}"
        lines.append(f"{record.epoch:5}  {losses}  {record.metrics['accuracy']:9.6f}  {time_s}")
    return lines


# -- files and pipes -------------------------------------------------------------------------------------------------


def test_a_file_gets_the_header_once_and_one_line_an_epoch() -> None:
    stream = io.StringIO()
    learn = make_learner(Progress(stream))
    learn.fit(3)
    assert stream.getvalue() == "".join(line + "\n" for line in expected_lines(learn))
    assert len({len(line) for line in stream.getvalue().splitlines()}) == 1  # aligned


def test_without_a_stream_the_output_goes_to_what_stdout_is_when_the_fit_starts(capsys: Any) -> None:
    learn = make_learner(Progress())
    learn.fit(1)
    captured = capsys.readouterr()
    assert captured.out.splitlines() == expected_lines(learn)
    assert captured.err == ""


def test_fit_shows_progress_by_itself_and_quiet_fits_nothing(capsys: Any) -> None:
    learn = make_learner()
    learn.fit(1, quiet=True)
    assert capsys.readouterr().out == ""
    learn.fit(1)
    assert capsys.readouterr().out.splitlines() == expected_lines(learn, first=1)


def test_every_line_of_a_file_is_flushed_when_it_is_written() -> None:
    class Stream(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed = len(self.getvalue())

    class Check(cl.Callback):
        order = 99

        def after_epoch(self, learn: cl.Learner) -> None:
            seen.append((stream.flushed, stream.getvalue().count("\n")))

    stream = Stream()
    seen: list[tuple[int, int]] = []
    make_learner(Progress(stream), Check()).fit(2)
    width = len(HEADER) + 1
    assert seen == [(2 * width, 2), (3 * width, 3)]


def test_without_validation_there_are_no_columns_of_it() -> None:
    stream = io.StringIO()
    make_learner(Progress(stream), valid=False).fit(1)
    header, row = stream.getvalue().splitlines()
    assert header == "epoch  train_loss  time"
    assert re.fullmatch(r"    0    \d\.\d{6}  0:\d\d", row)


def test_a_second_fit_begins_with_a_header_and_goes_on_counting_epochs() -> None:
    stream = io.StringIO()
    learn = make_learner(Progress(stream))
    learn.fit(1)
    learn.fit(2)
    assert stream.getvalue().splitlines() == expected_lines(learn)[:2] + expected_lines(learn, first=1)


def test_the_log_gets_the_same_lines() -> None:
    stream, lines = io.StringIO(), []
    learn = make_learner(Progress(stream, log=lines.append), RaiseAt(signal.SIGINT, 1, 2))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2)
    assert lines == stream.getvalue().splitlines()
    assert len(lines) == 3


class SaysIn(cl.Callback):
    """Lets the engine say something in the middle of an epoch."""

    def before_epoch(self, learn: cl.Learner) -> None:
        learn.engine.notes.append(f"chosen in epoch {learn.epoch}")


def test_what_the_engine_has_to_say_stands_between_the_rows() -> None:
    stream, lines = io.StringIO(), []
    learn = make_learner(SaysIn(), Progress(stream, log=lines.append))
    learn.fit(2, lr=0.1)
    assert stream.getvalue().splitlines() == lines
    header, *rows = expected_lines(learn)
    assert lines == [header, "chosen in epoch 0", rows[0], "chosen in epoch 1", rows[1]]


def test_validation_outside_of_a_fit_shows_nothing(monkeypatch: Any) -> None:
    moments = record_moments(monkeypatch)
    stream = io.StringIO()
    learn = make_learner(Progress(stream))
    learn.validate()
    assert stream.getvalue() == ""
    learn.fit(1)
    shown = stream.getvalue()
    learn.validate()
    assert stream.getvalue() == shown
    assert moments[-1].done == STEPS
    moments.clear()
    learn.validate()
    assert not moments


def test_a_terminal_that_can_do_nothing_gets_plain_lines(monkeypatch: Any) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress.choose_view(stream), Terminal)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress.choose_view(stream), Lines)


def test_inside_another_live_display_lines_are_written_above_it() -> None:
    from rich.console import Console
    from rich.file_proxy import FileProxy

    target = io.StringIO()
    proxy = FileProxy(Console(file=target, force_terminal=True), SimpleNamespace(isatty=lambda: True, encoding="utf-8"))  # type: ignore[arg-type]
    assert isinstance(progress.choose_view(proxy), Lines)  # type: ignore[arg-type]


def test_names_that_the_stream_cannot_encode_are_escaped() -> None:
    def r2(preds: torch.Tensor, targets: torch.Tensor) -> float:
        return 0.5

    r2.__name__ = "R²"
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    make_learner(Progress(stream), metrics=r2).fit(1)
    assert b"R\\xb2" in raw.getvalue()


def test_names_with_control_codes_cannot_reach_the_terminal() -> None:
    def metric(preds: torch.Tensor, targets: torch.Tensor) -> float:
        return 0.5

    metric.__name__ = "bad\x1b[2J\nname"
    stream = io.StringIO()
    make_learner(Progress(stream), metrics=metric).fit(1)
    assert stream.getvalue().splitlines()[0].split() == ["epoch", "train_loss", "valid_loss", "bad?[2J?name", "time"]
    assert "0.500000" in stream.getvalue()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_an_output_that_breaks_ends_the_display_and_not_the_fit() -> None:
    lines: list[str] = []
    with open("/dev/full", "w", buffering=1) as stream:
        learn = make_learner(Progress(stream, log=lines.append))
        with pytest.warns(RuntimeWarning, match="progress display stopped.*training goes on") as caught:
            learn.fit(2)
        with pytest.raises(OSError):
            stream.close()
    assert len(caught) == 1
    assert len(learn.history.epochs) == 2
    assert lines == expected_lines(learn)


def test_a_terminal_that_goes_away_gives_stdout_back_and_does_not_end_the_fit(monkeypatch: Any) -> None:
    class Vanishing(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if tick.now > 1:
                raise OSError(5, "Input/output error")
            return super().write(text)

    stream, tick = Vanishing(), Tick(0.2)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", stream)
    learn = make_learner(tick, on_clock(Progress(), tick))
    with pytest.warns(RuntimeWarning, match="progress display stopped"):
        learn.fit(2)
    assert sys.stdout is stream
    assert len(learn.history.epochs) == 2
    assert "4/8" in stream.getvalue()


def test_a_plain_run_imports_neither_rich_nor_ipython(monkeypatch: Any) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("rich", "IPython")]:
        monkeypatch.delitem(sys.modules, name)
    make_learner(Progress(io.StringIO())).fit(1)
    assert not {name for name in sys.modules if name.partition(".")[0] in ("rich", "IPython")}


def test_importing_progress_imports_neither_rich_nor_ipython() -> None:
    code = "import sys, clearloop.callbacks.progress; print({'rich', 'IPython'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], env=child_environment(), text=True) == "set()\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.123456"),
        (0.0, "0.000000"),
        (-0.5, "-0.500000"),
        (98.7654321, "98.765432"),
        (1234.5, "1234.50000"),
        (0.00012, "0.000120"),
        (0.0000012, "1.2000e-06"),
        (1.5e7, "1.5000e+07"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (None, "-"),
    ],
)
def test_numbers_have_six_decimals_unless_they_are_very_small_or_large(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00")])
def test_times_are_minutes_and_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# -- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interrupted_fit_says_where_it_stopped_and_how_to_go_on(
    number: signal.Signals, error: type[BaseException]
) -> None:
    stream = io.StringIO()
    learn = make_learner(Progress(stream), RaiseAt(number, 1, 3))
    with pytest.raises(error):
        learn.fit(2)
    last = stream.getvalue().splitlines()[-1]
    assert last == "stopped at epoch 1, step 3 of 8, weights are usable; go on with learn.resume()"


def test_an_interrupted_run_names_the_command_that_resumes_it() -> None:
    stream = io.StringIO()
    learn = make_learner(Progress(stream), RaiseAt(signal.SIGINT, 0, 3))
    learn.run = SimpleNamespace(run=SimpleNamespace(path=Path("runs/my digits")))  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2)
    assert stream.getvalue().endswith("go on with learn.resume() or `clearloop resume 'runs/my digits'`\n")


@pytest.mark.parametrize("run", [None, SimpleNamespace(run=SimpleNamespace(path=Path("runs/digits")))])
def test_an_interrupt_inside_a_step_does_not_promise_that_it_can_be_resumed(run: Any) -> None:
    class Interrupt(cl.Callback):
        def after_step(self, learn: cl.Learner) -> None:
            if learn.step == 5:
                raise KeyboardInterrupt  # as a second Ctrl-C does, which does not wait

    stream = io.StringIO()
    learn = make_learner(Progress(stream), Interrupt())
    learn.run = run
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1)
    with pytest.raises(cl.RunError):
        learn.resume()
    remedy = "call learn.fit" if run is None else "go on from its last checkpoint: `clearloop resume runs/digits`"
    last = stream.getvalue().splitlines()[-1]
    assert last == f"stopped at epoch 0, step 5 of 8, in the middle of a step, so not to be resumed exactly; {remedy}"


def test_another_failure_leaves_the_words_to_its_error() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError, match="boom"):
        make_learner(Progress(stream), RaiseAt(RuntimeError("boom"), 0, 3)).fit(1)
    assert stream.getvalue() == HEADER + "\n"


def test_a_fit_that_fails_before_progress_has_started_ends_without_output() -> None:
    class Refuse(cl.Callback):
        order = -1

        def before_fit(self, learn: cl.Learner) -> None:
            raise RuntimeError("refused")

    stream = io.StringIO()
    with pytest.raises(RuntimeError, match="refused"):
        make_learner(Progress(stream), Refuse()).fit(1)
    assert stream.getvalue() == ""


# -- a terminal ------------------------------------------------------------------------------------------------------


class Screen:
    """What a terminal shows after some output: enough of one for what a progress display writes."""

    def __init__(self, output: str) -> None:
        self.lines, row, column = [""], 0, 0
        self.cursor = True
        for code in re.findall(r"\x1b\[\??[\d;]*[A-Za-z]|[^\x1b]", output):
            if code in (HIDE, SHOW):
                self.cursor = code == SHOW
            elif code.endswith("A") and len(code) > 1:
                row -= int(code[2:-1])
            elif code == "\x1b[2K":
                self.lines[row] = ""
            elif code == "\n":
                row += 1
                self.lines += [""] * (row + 1 - len(self.lines))
            elif code == "\r":
                column = 0
            elif code[0] != "\x1b":
                line = self.lines[row].ljust(column)
                self.lines[row] = line[:column] + code + line[column + 1 :]
                column += 1
            else:
                assert code.endswith("m"), f"unknown code {code!r}"
        self.row = row

    @property
    def text(self) -> list[str]:
        lines = [line.rstrip() for line in self.lines]
        assert not any(lines[self.row :])  # where the next output begins
        return lines[: self.row]


class PseudoTerminal:
    """A terminal to write to, and everything that was written to it."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self.read = bytearray()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self.master, 65536):
                self.read += data
        except OSError:  # how Linux reports that the other side was closed
            pass

    def output(self) -> str:
        """Close it; all that was written."""
        self.stream.close()
        self.reader.join(10)
        assert not self.reader.is_alive()
        os.close(self.master)
        return self.read.decode()


@pytest.fixture
def terminal(monkeypatch: Any) -> PseudoTerminal:
    pytest.importorskip("termios")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return PseudoTerminal()


def bars(output: str) -> list[str]:
    """The bar each time it was drawn, as text."""
    plain = re.sub(r"\x1b\[\??[\d;]*[A-Za-z]", "", output)
    return [line for line in re.split(r"[\r\n]+", plain) if line.startswith("epoch ") and "/" in line]


def test_a_terminal_shows_a_bar_while_it_runs_and_keeps_only_the_table(terminal: PseudoTerminal) -> None:
    tick = Tick(0.2)
    learn = make_learner(tick, on_clock(Progress(terminal.stream), tick))
    learn.fit(2)
    output = terminal.output()
    screen = Screen(output)
    assert screen.text == expected_lines(learn)
    assert screen.cursor
    assert HIDE in output
    drawn = bars(output)
    assert re.match(r"epoch 0/1 \S+ 0/8  starting", drawn[0])
    assert any(re.match(r"epoch 0/1 \S+ +8/8  validating", bar) for bar in drawn)
    [bar] = [bar for bar in drawn if "epoch 1/1" in bar and " 5/8 " in bar]
    # five steps a second of 16 samples; three left, and a validation that takes no time on this clock
    assert re.search(r" 5/8  loss \d\.\d{4}  0:01 left  lr 0\.1  80 samples/s$", bar.rstrip())


def test_a_terminal_is_restored_after_an_exception(terminal: PseudoTerminal) -> None:
    stdout, stderr = sys.stdout, sys.stderr
    tick = Tick(0.2)
    learn = make_learner(tick, on_clock(Progress(terminal.stream), tick), RaiseAt(RuntimeError("boom"), 1, 4))
    with pytest.raises(RuntimeError, match="boom"):
        learn.fit(3)
    output = terminal.output()
    screen = Screen(output)
    assert len(bars(output)) > 8
    assert screen.text == expected_lines(learn)
    assert screen.cursor
    assert (sys.stdout, sys.stderr) == (stdout, stderr)


def test_a_terminal_is_restored_after_ctrl_c_and_says_how_to_go_on(terminal: PseudoTerminal) -> None:
    tick = Tick(0.2)
    learn = make_learner(tick, on_clock(Progress(terminal.stream), tick), RaiseAt(signal.SIGINT, 1, 4))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3)
    message = "stopped at epoch 1, step 4 of 8, weights are usable; go on with learn.resume()"
    screen = Screen(terminal.output())
    assert screen.text == [*expected_lines(learn), message]
    assert screen.cursor


def test_what_other_callbacks_print_appears_above_the_bar(terminal: PseudoTerminal, monkeypatch: Any) -> None:
    class Printer(cl.Callback):
        def after_epoch(self, learn: cl.Learner) -> None:
            print(f"hello from epoch {learn.epoch - 1}")

    monkeypatch.setattr(sys, "stdout", terminal.stream)
    learn = make_learner(Progress(), Printer())
    learn.fit(2)
    assert sys.stdout is terminal.stream
    header, *rows = expected_lines(learn)
    assert sorted(Screen(terminal.output()).text) == sorted([header, *rows, "hello from epoch 0", "hello from epoch 1"])


def test_what_goes_to_a_file_still_goes_there_while_the_bar_is_on_a_terminal(
    terminal: PseudoTerminal, monkeypatch: Any
) -> None:
    class Printer(cl.Callback):
        def after_epoch(self, learn: cl.Learner) -> None:
            print("to the file", file=sys.stderr)

    monkeypatch.setattr(sys, "stdout", terminal.stream)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    make_learner(Progress(), Printer()).fit(1)
    assert sys.stderr.getvalue() == "to the file\n"  # type: ignore[attr-defined]
    assert "to the file" not in terminal.output()


def test_the_rows_of_many_short_epochs_are_all_there_in_order(terminal: PseudoTerminal) -> None:
    learn = make_learner(on_clock(Progress(terminal.stream), lambda: 0.0))
    learn.fit(40)
    output = terminal.output()
    assert Screen(output).text == expected_lines(learn)
    assert len(bars(output)) <= 2 * 10  # time stands still: ten refreshes; rows push the bar down, which draws it twice


@pytest.mark.parametrize("columns", [20, 40, 60, 80])
def test_the_bar_fits_a_narrow_terminal(terminal: PseudoTerminal, monkeypatch: Any, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    tick = Tick(0.2)
    make_learner(tick, on_clock(Progress(terminal.stream), tick)).fit(1)
    drawn = bars(terminal.output())
    assert len(drawn) > 5
    assert all(len(bar.rstrip()) <= columns for bar in drawn)
    assert any("loss" in bar for bar in drawn) == (columns >= 40)


def test_a_terminal_that_cannot_show_the_bar_s_characters_gets_ascii(terminal: PseudoTerminal) -> None:
    with os.fdopen(os.dup(terminal.stream.fileno()), "w", encoding="ascii") as stream:
        make_learner(Progress(stream)).fit(1)
    assert terminal.output().isascii()


def test_sums_of_weights_are_not_shown_as_samples(monkeypatch: Any) -> None:
    moments = record_moments(monkeypatch)
    tick = Tick(0.2)
    loss_func = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    make_learner(tick, on_clock(Progress(io.StringIO()), tick), loss_func=loss_func).fit(1)
    assert moments[3].details[-1] == "5 steps/s"


def record_moments(monkeypatch: Any) -> list[progress.Moment]:
    moments: list[progress.Moment] = []
    monkeypatch.setattr(Lines, "show", lambda self, moment: moments.append(moment))
    return moments


def test_there_are_at_most_ten_refreshes_in_any_second(monkeypatch: Any) -> None:
    times: list[float] = []
    tick = Tick(0.003)
    monkeypatch.setattr(Lines, "show", lambda self, moment: times.append(tick.now))
    learn = make_learner(tick, on_clock(Progress(io.StringIO()), tick))
    learn.fit(250)  # six seconds; an epoch takes 24 ms and would like to be shown twice
    assert max(sum(start <= time < start + 1 for time in times) for start in times) <= 10
    assert len(times) >= 40


def test_with_slow_steps_every_step_and_validation_is_shown(monkeypatch: Any) -> None:
    moments = record_moments(monkeypatch)
    tick = Tick(0.5)
    make_learner(tick, on_clock(Progress(io.StringIO()), tick)).fit(2)
    steps = [moment.done for moment in moments if "validating" not in moment.details]
    assert steps == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert [moment.label for moment in moments if "validating" in moment.details] == ["epoch 0/1", "epoch 1/1"]


def test_the_time_left_counts_the_steps_and_validations_to_come(monkeypatch: Any) -> None:
    class SlowValidation(cl.Callback):
        order = 99

        def before_validate(self, learn: cl.Learner) -> None:
            tick.now += 30

    moments = record_moments(monkeypatch)
    tick = Tick(2)
    make_learner(tick, on_clock(Progress(io.StringIO()), tick), SlowValidation()).fit(3)
    at = {(moment.label, moment.done): moment.details for moment in moments if "validating" not in moment.details}
    assert at["epoch 1/2", 3][1] == f"{duration(2 * (5 + 8) + 2 * 30)} left"
    assert at["epoch 2/2", 7][1] == f"{duration(2 * 1 + 30)} left"


def test_a_validation_in_the_middle_of_an_epoch_does_not_count_as_slow_steps(monkeypatch: Any) -> None:
    class ValidateAt(cl.Callback):
        order = 99

        def after_step(self, learn: cl.Learner) -> None:
            if learn.step == 4:
                learn.validate()

        def before_validate(self, learn: cl.Learner) -> None:
            tick.now += 100

    moments = record_moments(monkeypatch)
    tick = Tick(0.2)
    make_learner(tick, on_clock(Progress(io.StringIO()), tick), ValidateAt()).fit(1)
    speeds = {moment.details[-1] for moment in moments if moment.done in (4, 5, 6)}
    assert speeds == {"80 samples/s", "validating"}


def test_a_run_resumed_in_the_middle_of_an_epoch_shows_where_it_is(monkeypatch: Any) -> None:
    moments = record_moments(monkeypatch)
    stream = io.StringIO()
    learn = make_learner(Progress(stream), RaiseAt(signal.SIGINT, 1, 3))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2)
    moments.clear()
    stream.truncate(stream.seek(0))
    learn.resume()
    assert (moments[0].label, moments[0].done, moments[0].total) == ("epoch 1/1", 3, 8)
    assert stream.getvalue().splitlines() == expected_lines(learn, first=1)


def test_losses_are_looked_at_only_when_the_display_refreshes() -> None:
    class Check(cl.Callback):
        order = 99

        def __init__(self) -> None:
            self.looked: list[int] = []

        def after_step(self, learn: cl.Learner) -> None:
            self.looked.append(len(learn.history.losses))

    still, moving, tick = Check(), Check(), Tick(0.1)
    make_learner(on_clock(Progress(io.StringIO()), lambda: 0.0), still).fit(1)
    assert still.looked == [0] * STEPS
    make_learner(tick, on_clock(Progress(io.StringIO()), tick), moving).fit(1)
    assert moving.looked == [0, 2, 2, 4, 4, 6, 6, 8]  # 0.125 s between two looks, 0.1 s a step


def test_a_lost_loss_ends_the_fit_before_the_epoch_does() -> None:
    def lost(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(preds, targets)
        return loss * float("nan") if torch.is_grad_enabled() and learn.history.steps == 2 else loss

    tick = Tick(0.2)
    learn = make_learner(tick, on_clock(Progress(io.StringIO()), tick), loss_func=lost)
    with pytest.raises(cl.NonFiniteError, match="step 2"):
        learn.fit(1)
    assert learn.step == 3
    learn = make_learner(tick, loss_func=lost)
    with pytest.raises(cl.NonFiniteError, match="step 2"):
        learn.fit(1, quiet=True)
    assert learn.step == STEPS


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", ["file", "terminal"])
def test_progress_does_not_change_training_to_the_bit(shown: str, terminal: PseudoTerminal, monkeypatch: Any) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)  # importing it draws from Python's random state
    stream = terminal.stream if shown == "terminal" else io.StringIO()
    without, with_progress = make_learner(), make_learner(Progress(stream))
    without.fit(2, quiet=True)
    with_progress.fit(2)
    assert with_progress.history.losses == without.history.losses
    assert with_progress.history.values == without.history.values
    weights = zip(with_progress.model.parameters(), without.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    assert ("rich" in sys.modules) == (shown == "terminal")
    terminal.output()


def test_progress_keeps_no_state_and_is_described_without_its_streams() -> None:
    from clearloop.component import describe

    shown = Progress(io.StringIO(), log=print)
    assert shown.state_dict() == {}
    assert (shown.order, shown.interval) == (50, None)
    assert describe(shown) == {"path": "clearloop.callbacks.progress:Progress"}


def test_one_progress_serves_several_learners() -> None:
    stream = io.StringIO()
    shown = Progress(stream)
    first, second = make_learner(shown), make_learner(shown)
    first.fit(1)
    second.fit(2)
    assert stream.getvalue().splitlines() == expected_lines(first) + expected_lines(second)


# -- notebooks -------------------------------------------------------------------------------------------------------


class FakeNotebook:
    """An IPython with a kernel, which keeps what is displayed: the present content, and all that there was."""

    def __init__(self, monkeypatch: Any, kernel: object) -> None:
        self.displays: list[list[dict[str, str]]] = []
        ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        ipython.get_ipython = lambda: SimpleNamespace(kernel=kernel)  # type: ignore[attr-defined]
        display.display = self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        contents = [bundle]
        self.displays.append(contents)
        return SimpleNamespace(update=lambda bundle, raw: contents.append(bundle))


def test_a_notebook_gets_one_table_updated_in_place(monkeypatch: Any, capsys: Any) -> None:
    notebook = FakeNotebook(monkeypatch, kernel=object())
    tick = Tick(0.2)
    learn = make_learner(tick, on_clock(Progress(), tick))
    learn.fit(2)
    assert capsys.readouterr().out == ""
    [contents] = notebook.displays
    running, final = contents[:-1], contents[-1]
    assert any('<progress value="5" max="8"></progress> epoch 1/1' in bundle["text/html"] for bundle in running)
    assert final["text/html"].count("<table>") == 1
    assert final["text/html"].count("<td>") == 2 * len(HEADER.split())
    assert "<progress" not in final["text/html"]
    assert final["text/plain"].splitlines() == expected_lines(learn)


def test_a_notebook_s_table_escapes_names(monkeypatch: Any) -> None:
    def metric(preds: torch.Tensor, targets: torch.Tensor) -> float:
        return 0.25

    metric.__name__ = "<script>&"
    notebook = FakeNotebook(monkeypatch, kernel=object())
    make_learner(Progress(), metrics=metric).fit(1)
    page = notebook.displays[0][-1]["text/html"]
    assert "<th>&lt;script&gt;&amp;</th>" in page
    assert "<script>" not in page


def test_a_notebook_shows_in_the_same_place_where_a_fit_was_stopped(monkeypatch: Any) -> None:
    notebook = FakeNotebook(monkeypatch, kernel=object())
    learn = make_learner(Progress(), RaiseAt(signal.SIGINT, 1, 4))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2)
    [contents] = notebook.displays
    message = "stopped at epoch 1, step 4 of 8, weights are usable; go on with learn.resume()"
    assert contents[-1]["text/html"].endswith(f"</table><p>{message}</p>")
    assert contents[-1]["text/plain"].splitlines() == [*expected_lines(learn), message]


def test_a_running_notebook_is_sent_the_end_of_a_long_table_and_all_of_it_at_last(monkeypatch: Any) -> None:
    notebook = FakeNotebook(monkeypatch, kernel=object())
    tick = Tick(0.2)
    make_learner(tick, on_clock(Progress(), tick)).fit(60)
    rows = [bundle["text/html"].count("<tr>") for bundle in notebook.displays[0]]
    assert max(rows[:-1]) == 50
    assert rows[-1] == 60


def test_ipython_without_a_kernel_is_no_notebook(monkeypatch: Any, capsys: Any) -> None:
    notebook = FakeNotebook(monkeypatch, kernel=None)
    make_learner(Progress()).fit(1)
    assert not notebook.displays
    assert capsys.readouterr().out.startswith(HEADER)


def test_a_stream_of_one_s_own_is_used_in_a_notebook_too(monkeypatch: Any) -> None:
    notebook = FakeNotebook(monkeypatch, kernel=object())
    stream = io.StringIO()
    make_learner(Progress(stream)).fit(1)
    assert not notebook.displays
    assert stream.getvalue().startswith(HEADER)


@pytest.mark.parametrize("view", [Lines(None), Notebook(), pytest.param(Terminal, id="Terminal")])
def test_a_view_that_was_never_started_can_be_finished(view: Any) -> None:
    stream = io.StringIO()
    view = view(stream) if view is Terminal else view
    view.finish(None)
    assert stream.getvalue() == ""


@pytest.mark.slow
def test_a_real_notebook_saves_one_table_and_no_escape_codes() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = """
        import torch, clearloop as cl
        torch.set_num_threads(1)
        data = cl.TensorDataset(torch.randn(2048, 4), torch.randint(0, 3, (2048,)))
        dls = (cl.DataLoader(data, 4), cl.DataLoader(data, 64))
        learn = cl.Learner(dls, torch.nn.Linear(4, 3), metrics=cl.accuracy)
        learn.fit(3, 0.1)
    """
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(textwrap.dedent(code)), nbformat.v4.new_code_cell("learn.plot_loss()")]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the notebook machinery
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    [table], [plot] = (cell.outputs for cell in notebook.cells)
    assert table.output_type == "display_data"
    assert table.data["text/html"].count("<table>") == 1
    assert table.data["text/html"].count("<tr>") == 3
    assert table.data["text/plain"].startswith(HEADER)
    saved = nbformat.writes(notebook)
    assert "\\u001b" not in saved
    assert "<progress" not in saved
    assert "image/png" in plot.data


# -- a real process on a real terminal -------------------------------------------------------------------------------

SCRIPT = """
import time, torch, clearloop as cl
torch.set_num_threads(1)

class Slow(cl.Callback):
    def after_step(self, learn):
        time.sleep(0.02)

data = cl.TensorDataset(torch.randn(64, 4), torch.randint(0, 3, (64,)))
learn = cl.Learner((cl.DataLoader(data, 4), None), torch.nn.Linear(4, 3), cbs=Slow(), seed=0)
try:
    learn.fit(10_000, 0.1)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_real_ctrl_c_on_a_real_terminal_leaves_it_clean(terminal: PseudoTerminal) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=terminal.stream,
        stdout=terminal.stream,
        stderr=terminal.stream,
        env=child_environment(),
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while b"samples/s" not in terminal.read and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()
    screen = Screen(terminal.output())
    assert screen.text[0] == "epoch  train_loss  time"
    assert screen.text[-1] == "interrupted"
    assert re.fullmatch(
        r"stopped at epoch \d+, step \d+ of 16, weights are usable; go on with learn.resume\(\)", screen.text[-2]
    )
    assert all(re.match(r" +\d+  +\d\.\d{6}  0:\d\d", line) for line in screen.text[1:-2])
    assert screen.cursor

"""Progress: what `fit` shows; a live bar on a terminal, a table in a notebook, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import html
import math
import os
import shlex
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from clearloop import nvml, rng
from clearloop.callback import Callback

if TYPE_CHECKING:
    from clearloop.history import EpochRecord
    from clearloop.learner import Learner

REFRESHES_PER_S = 10  # at most, whatever the reason
PAUSE_S = 0.125  # between two refreshes for steps: fewer than the limit, so that validation can still announce itself
SMOOTHED_STEPS = 50  # the loss that the bar shows is the mean over the samples of so many steps
SPEED_REFRESHES = 30  # the speed that the bar shows is that of the last few seconds
NOTEBOOK_ROWS = 50  # while a fit runs, a notebook is sent no more of a long table than this


class Progress(Callback):
    """Shows a table with a row an epoch and, while steps are taken, a bar with loss, speed and time left.

    `fit` adds one by itself unless it is `quiet`; give your own to send the output elsewhere. A terminal gets a live
    bar that leaves nothing behind, a notebook one table that is updated in place, everything else plain lines. It
    never changes training: an output that breaks ends the display with a warning, not the fit.

    Args:
        stream: where to write; `sys.stdout` as it is when the fit starts, or the notebook, when None.
        log: is called with each line of the table as well, without a line break.

    Raises:
        NonFiniteError: from `after_step`, within a second of the step whose loss is not finite.

    >>> import clearloop as cl, torch
    >>> data = cl.TensorDataset(torch.zeros(8, 1), torch.zeros(8, 1))
    >>> lines = []
    >>> learn = cl.Learner((cl.DataLoader(data, 4), None), torch.nn.Linear(1, 1), cbs=Progress(log=lines.append))
    >>> learn.fit(2, lr=0.1)  # doctest: +ELLIPSIS
    epoch  train_loss  time
        0    ...  0:00
        1    ...  0:00
    >>> lines[0]
    'epoch  train_loss  time'
    """

    order = 50
    interval = None
    recorded = False
    writes = True

    def __init__(self, stream: TextIO | None = None, log: Callable[[str], None] | None = None) -> None:
        self._stream, self._log = stream, log  # private: where output goes is no part of what a run is
        self._clock = time.perf_counter
        self._view: View | None = None  # None outside of a fit
        self._table = Table([])

    def before_fit(self, learn: Learner) -> None:
        """Show the header."""
        self._gate = Gate(REFRESHES_PER_S, self._clock)
        self._speed = Speed(self._clock)
        self._valid_started, self._valid_s = 0.0, 0.0
        self._noted = len(learn.engine.notes)
        valid = [] if learn.dls.valid is None else ["valid_loss", *(metric.name for metric in learn.metrics)]
        self._table = Table(list(dict.fromkeys(printable(name) for name in ["epoch", "train_loss", *valid, "time"])))
        header = self._table.line(self._table.names)
        with rng.preserved():  # rich draws a random number when it is imported
            self._view = choose_view(self._stream)
        with self._surviving():
            self._view.start(self._table.names, header)
        self._to_log(header)
        self._speed.start(learn.history.steps)
        if self._gate.opens():
            doing = "starting" if learn.fast in ("off", "auto") else "compiling the step"
            self._show(Moment(epoch_label(learn), learn.step, learn.steps_per_epoch, [doing]))

    def before_epoch(self, learn: Learner) -> None:
        """Measure the speed anew."""
        self._speed.start(learn.history.steps)

    def after_step(self, learn: Learner) -> None:
        """Look at the losses and draw the bar, if the last time was long enough ago."""
        if self._view is None or not self._gate.opens(PAUSE_S):
            return
        self._say_notes(learn)
        learn.history.look()  # this waits for the device, and ends the run where the loss is lost
        self._speed.mark(learn.history.steps)
        self._show(self._moment(learn))

    def before_validate(self, learn: Learner) -> None:
        """Say so in the bar."""
        if self._view is None:
            return
        self._valid_started = self._clock()
        if self._gate.opens():
            done, total = learn.step, learn.steps_per_epoch
            self._show(Moment(epoch_label(learn), done, total, ["validating"]))

    def after_validate(self, learn: Learner) -> None:
        """Remember how long it took."""
        if self._view is None:
            return
        self._valid_s = self._clock() - self._valid_started
        self._speed.start(learn.history.steps)

    def after_epoch(self, learn: Learner) -> None:
        """Show the epoch's row."""
        if self._view is None:
            return
        self._say_notes(learn)
        cells = row_cells(self._table.names, learn.history.epochs[-1])
        line = self._table.line(cells)
        with self._surviving():
            self._view.row(cells, line)
        if self._gate.opens():  # else it appears with the next refresh
            self._show(self._moment(learn))
        self._to_log(line)

    def after_fit(self, learn: Learner) -> None:
        """Take the bar away; after Ctrl-C, say where the fit stopped and how to go on."""
        if self._view is None:
            return
        message = interrupted(learn) if isinstance(learn.failure, (KeyboardInterrupt, SystemExit)) else None
        with self._surviving():
            self._view.finish(message)
        self._view = None
        if message is not None:
            self._to_log(message)

    def _say_notes(self, learn: Learner) -> None:
        """What the engine has to say since the last time: lines between the rows."""
        notes, self._noted = learn.engine.notes[self._noted :], len(learn.engine.notes)
        for note in notes:
            with self._surviving():
                assert self._view is not None
                self._view.row([note], note)
            self._to_log(note)

    def _show(self, moment: Moment) -> None:
        with self._surviving():
            assert self._view is not None
            self._view.show(moment)

    def _moment(self, learn: Learner) -> Moment:
        """Where the fit is. It reads only losses that are there already."""
        history, total = learn.history, learn.steps_per_epoch
        if learn.epoch >= learn.plan["last_epoch"]:
            return Moment(epoch_label(learn), total, total, [])
        details = []
        if history.losses and not history.pending:
            details.append(f"loss {number(history.mean_loss(max(0, history.steps - SMOOTHED_STEPS)), decimals=4)}")
        if self._speed.steps_per_s:
            epochs = learn.plan["last_epoch"] - learn.epoch
            left_s = (epochs * total - learn.step) / self._speed.steps_per_s + epochs * self._valid_s
            details.append(f"{duration(left_s)} left")
        if history.lrs:
            details.append(f"lr {history.lrs[-1]:.3g}")
        reading = nvml.read(learn.device)
        if reading is not None:
            details.append(str(reading))
        if self._speed.steps_per_s:
            counts = history.counts[-SMOOTHED_STEPS:]
            if all(isinstance(count, int) for count in counts):
                details.append(f"{self._speed.steps_per_s * sum(counts) / len(counts):,.0f} samples/s")
            else:  # sums of weights are no samples
                details.append(f"{self._speed.steps_per_s:,.0f} steps/s")
        return Moment(epoch_label(learn), learn.step, total, details)

    def _to_log(self, line: str) -> None:
        if self._log is not None:
            self._log(line)

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """An output that breaks (the terminal is gone, the disk is full) ends the display, not the training."""
        try:
            yield
        except OSError as error:
            broken, self._view = self._view, Lines(None)
            with contextlib.suppress(OSError):
                if broken is not None:
                    broken.finish(None)
            warnings.warn(f"the progress display stopped ({error}); training goes on", RuntimeWarning, stacklevel=3)


def with_progress(callbacks: Sequence[Callback]) -> list[Callback]:
    """The callbacks, and a Progress where there is none among them."""
    has_own = any(isinstance(callback, Progress) for callback in callbacks)
    return [*callbacks] if has_own else [*callbacks, Progress()]


@dataclass(frozen=True)
class Moment:
    """Where a running fit is: the epoch's label, steps done of `total`, and details, the first most worth showing."""

    label: str
    done: int
    total: int
    details: list[str]


class Gate:
    """Opens at most `limit` times in any second.

    >>> gate = Gate(2, iter([0.0, 0.1, 0.2, 1.1]).__next__)
    >>> [gate.opens() for _ in range(4)]
    [True, True, False, True]
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.times: deque[float] = deque(maxlen=limit)

    def opens(self, pause_s: float = 0.0) -> bool:
        """Whether it may be passed now; with `pause_s`, only if the last time was at least that long ago."""
        now = self.clock()
        if self.times and now - self.times[-1] < pause_s:
            return False
        if len(self.times) == self.times.maxlen and now - self.times[0] < 1.0:
            return False
        self.times.append(now)
        return True


class Speed:
    """Steps a second over the last marks; until there are two since `start`, what it was before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.marks: deque[tuple[float, int]] = deque(maxlen=SPEED_REFRESHES)
        self.steps_per_s: float | None = None

    def start(self, steps: int) -> None:
        """Measure from here: what took time before was not steps."""
        self.marks.clear()
        self.marks.append((self.clock(), steps))

    def mark(self, steps: int) -> None:
        """Note that so many steps are done now."""
        self.marks.append((self.clock(), steps))
        (began, first), (ended, last) = self.marks[0], self.marks[-1]
        if ended > began and last > first:
            self.steps_per_s = (last - first) / (ended - began)


@dataclass(frozen=True)
class Table:
    """Columns of text, each as wide as its name or a number needs.

    >>> Table(["epoch", "train_loss", "time"]).line(["0", "0.693147", "0:04"])
    '    0    0.693147  0:04'
    """

    names: list[str]

    def line(self, cells: Sequence[str]) -> str:
        """Cells as one line."""
        narrow = {"epoch": 5, "time": 4}
        widths = [max(len(name), narrow.get(name, 9)) for name in self.names]
        return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def row_cells(names: Sequence[str], record: EpochRecord) -> list[str]:
    """The cells of an epoch's row, for the columns that the header has."""
    values: dict[str, float | None] = {printable(name): value for name, value in record.metrics.items()}
    values |= {"train_loss": record.train_loss, "valid_loss": record.valid_loss}
    texts = {"epoch": str(record.epoch), "time": duration(record.seconds)}
    return [texts.get(name) or number(values.get(name)) for name in names]


def number(value: float | None, decimals: int = 6) -> str:
    """`decimals` places for what is of the size of losses and metrics; fewer, or an exponent, for the rest.

    >>> [number(value) for value in (0.123456, 12345.678, 3.2e-7, None)]
    ['0.123456', '12345.6780', '3.2000e-07', '-']
    """
    if value is None:
        return "-"
    size = abs(value)
    if size and not 10.0 ** (2 - decimals) <= size < 10.0**decimals:  # NaN and infinity end here too
        return f"{value:.{decimals - 2}e}"
    digits = int(math.log10(size)) if size >= 1 else 0
    return f"{value:.{decimals - max(0, digits - 2)}f}"


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any.

    >>> duration(75.2), duration(7384)
    ('1:15', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str) -> str:
    """Text without line breaks and control codes, as a name in a table must be."""
    return "".join(character if character.isprintable() else "?" for character in text)


def epoch_label(learn: Learner) -> str:
    """The running epoch and the fit's last one, both counted from 0."""
    last = learn.plan["last_epoch"] - 1
    return f"epoch {min(learn.epoch, last)}/{last}"


def interrupted(learn: Learner) -> str:
    """Where a fit was stopped from outside, and how to go on."""
    where = f"stopped at epoch {learn.epoch}, step {learn.step} of {learn.steps_per_epoch}"
    path = getattr(getattr(getattr(learn, "run", None), "run", None), "path", None)
    shell = None if path is None else f"`clearloop resume {shlex.quote(printable(str(path)))}`"
    if not getattr(learn, "whole", True):  # a second signal does not wait for the end of a step
        remedy = "call learn.fit" if shell is None else f"go on from its last checkpoint: {shell}"
        return f"{where}, in the middle of a step, so not to be resumed exactly; {remedy}"
    return f"{where}, weights are usable; go on with learn.resume()" + ("" if shell is None else f" or {shell}")


class View(Protocol):
    """What shows a fit: a header, rows, a passing moment, and an end with or without a message."""

    def start(self, names: list[str], line: str) -> None:
        """Show the header, as cells and as one line."""

    def row(self, cells: list[str], line: str) -> None:
        """Show a row, now or with the next moment."""

    def show(self, moment: Moment) -> None:
        """Show where the fit is, in place of the moment before."""

    def finish(self, message: str | None) -> None:
        """Leave the table, and nothing else but the message."""


def choose_view(stream: TextIO | None) -> View:
    """What suits where the output goes."""
    if stream is None and in_notebook():
        return Notebook()
    stream = sys.stdout if stream is None else stream
    isatty = getattr(stream, "isatty", None)
    if isatty is None or not isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return Lines(stream)
    if hasattr(stream, "rich_proxied_file"):  # inside somebody else's live display: write lines above it
        return Lines(stream)
    return Terminal(stream)


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook. IPython is not imported to find out."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if get_ipython is None else get_ipython()
    return getattr(shell, "kernel", None) is not None


def encodable(text: str, stream: Any) -> str:
    """Text that `stream` can write: what its encoding lacks is written as an escape."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Lines:
    """Plain lines, for files and pipes: the header and a line an epoch, each written at once. None is mute."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    def start(self, names: list[str], line: str) -> None:
        """Write the header."""
        self._write(line)

    def row(self, cells: list[str], line: str) -> None:
        """Write a row."""
        self._write(line)

    def show(self, moment: Moment) -> None:
        """Nothing: a moment is not for a file."""

    def finish(self, message: str | None) -> None:
        """Write the message."""
        if message is not None:
            self._write(message)

    def _write(self, line: str) -> None:
        if self.stream is not None:
            self.stream.write(encodable(line, self.stream) + "\n")
            self.stream.flush()


class Terminal:
    """Rows that stay, and under them a bar that goes away."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self.stream = stream
        self.console = Console(file=stream, force_terminal=True, force_jupyter=False, highlight=False)
        self.live = Live(
            console=self.console,
            auto_refresh=False,  # no thread: it draws when it is told
            transient=True,
            redirect_stdout=is_terminal(sys.stdout),  # prints appear above the bar, but what goes to a file stays there
            redirect_stderr=is_terminal(sys.stderr),
        )
        self.waiting: list[str] = []  # rows for the next refresh

    def start(self, names: list[str], line: str) -> None:
        """Print the header; the bar appears with the first moment."""
        self._print(line, "bold")
        self.live.start()

    def row(self, cells: list[str], line: str) -> None:
        """Keep the row for the next refresh: thousands of short epochs must not wait for the terminal."""
        self.waiting.append(line)

    def show(self, moment: Moment) -> None:
        """Print the rows that wait, and draw the bar, in one write."""
        with self.console:
            self._print_rows()
            self.live.update(self._bar(moment), refresh=True)

    def finish(self, message: str | None) -> None:
        """Remove the bar, show the cursor, give `sys.stdout` back; print what is left to say."""
        self.live.stop()
        self._print_rows()
        if message is not None:
            self._print(message)

    def _print_rows(self) -> None:
        rows, self.waiting = self.waiting, []
        if rows:
            self._print("\n".join(rows))

    def _print(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self.console.print(Text(encodable(text, self.stream), style), soft_wrap=True)

    def _bar(self, moment: Moment) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table as Grid

        before, details = moment.label, list(moment.details)
        while True:  # what does not fit is left out, the last first
            after = "  ".join([f"{moment.done}/{moment.total}", *details])
            room = self.console.width - len(before) - len(after) - 2
            if room >= 8 or not details:
                break
            details.pop()
        grid = Grid.grid(padding=(0, 1, 0, 0))
        for _ in range(3):
            grid.add_column(no_wrap=True)
        bar = ProgressBar(moment.total, moment.done, width=max(1, min(30, room)))
        grid.add_row(before, bar, after)
        return grid


def is_terminal(stream: Any) -> bool:
    """Whether `stream` is there and is a terminal."""
    return stream is not None and stream.isatty()


class Notebook:
    """One HTML table, updated in place; a bar under it while the fit runs. The lines are there as plain text too."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rows: list[list[str]] = []
        self.lines: list[str] = []
        self.handle: Any = None

    def start(self, names: list[str], line: str) -> None:
        """Display the header."""
        display: Any = import_module("IPython.display").display  # the kernel has it already

        self.names, self.lines = names, [line]
        self.handle = display(self._bundle([], [], ""), raw=True, display_id=True)

    def row(self, cells: list[str], line: str) -> None:
        """Keep the row for the next update."""
        self.rows.append(cells)
        self.lines.append(line)

    def show(self, moment: Moment) -> None:
        """Update the end of the table, with a bar under it."""
        text = "  ".join([moment.label, f"{moment.done}/{moment.total}", *moment.details])
        bar = f'<progress value="{moment.done}" max="{moment.total}"></progress> {html.escape(text)}'
        recent = self.lines[:1] + self.lines[1:][-NOTEBOOK_ROWS:]
        self._update(self._bundle(self.rows[-NOTEBOOK_ROWS:], [*recent, text], f"<div>{bar}</div>"))

    def finish(self, message: str | None) -> None:
        """Leave the whole table, and the message under it."""
        if message is None:
            self._update(self._bundle(self.rows, self.lines, ""))
        else:
            self._update(self._bundle(self.rows, [*self.lines, message], f"<p>{html.escape(message)}</p>"))

    def _update(self, bundle: dict[str, str]) -> None:
        if self.handle is not None:
            self.handle.update(bundle, raw=True)

    def _bundle(self, rows: list[list[str]], lines: list[str], below: str) -> dict[str, str]:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.names)
        whole = f' colspan="{len(self.names)}"'  # a note has one cell for all columns
        body = "\n".join(
            "<tr>" + "".join(f"<td{whole * (len(row) == 1)}>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        table = (
            f'<table>\n<thead><tr style="text-align: right">{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'
        )
        return {"text/html": table + below, "text/plain": "\n".join(lines)}

"""A run's numbers as a CSV file that grows while it trains."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from clearloop import durable
from clearloop.callbacks.logger import Logger, folder_for
from clearloop.errors import ConfigError

if TYPE_CHECKING:
    from clearloop.learner import Learner

FILE = "metrics.csv"


class CSVLogger(Logger):
    """Writes `metrics.csv`: a row every `every` steps and a row an epoch; a cell that has no value is empty.

    Columns: step, epoch, step_loss, lr, train_loss, valid_loss, each metric, seconds.

    Args: `folder`, the run's own when None. Each row is on disk as soon as it is written.

    Raises: ConfigError, before the first step, for a folder that has a `metrics.csv` of another run.

    >>> CSVLogger(every=10).every
    10
    """

    def __init__(self, every: int | None = 50, folder: str | Path | None = None) -> None:
        super().__init__(every)
        self._folder = folder  # private: where output goes is no part of what a run is
        self._path = Path(FILE)
        self._columns: list[str] = []
        self._size = 0

    def open(self, learn: Learner) -> None:
        """A new file; or what a former part of this run wrote, up to the step that it goes on from."""
        self._path = folder_for(learn, self._folder, "CSVLogger") / FILE
        self._columns = ["step", "epoch", "step_loss", "lr", "train_loss", "valid_loss"]
        self._columns += [*(metric.name for metric in learn.metrics), "seconds"]
        rows = [self._columns]
        if self._path.exists():
            former = self._rows()
            if former and self._folder is not None and not learn.history.steps:
                raise ConfigError(f"{self._path} is there already, of another run: move it away or give another folder")
            rows += [row for row in former if self._belongs(row, learn.history.steps, len(learn.history.epochs))]
        durable.make_directory(self._path.parent)
        data = "".join(map(line, rows)).encode()
        durable.write_file(self._path, data)
        self._size = len(data)

    def write(self, values: dict[str, float], step: int, epoch: int) -> None:
        """Append a row; numbers that have no column (of a GPU) are left out."""
        cells = {"step": step, "epoch": epoch, **values}
        data = line([str(cells.get(name, "")) for name in self._columns]).encode()
        durable.append_file(self._path, data, self._size)
        self._size += len(data)

    def close(self, learn: Learner) -> None:
        """Nothing is open between rows."""

    def _rows(self) -> list[list[str]]:
        """The rows of the file; a last one that was cut off is none."""
        text = self._path.read_bytes().decode(errors="replace")
        found = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
        fits = all(len(row) == len(self._columns) for row in found)
        if found and found[0] != self._columns or not fits or not all(whole(row[:2]) for row in found[1:]):
            raise ConfigError(f"{self._path} has other columns than this run: move it away or give another folder")
        return found[1:]

    def _belongs(self, row: list[str], steps: int, epochs: int) -> bool:
        """Whether a row is of the run up to a step, the record of an epoch only if the epoch is over."""
        return int(row[0]) <= steps and (not row[-1] or int(row[1]) < epochs)


def whole(cells: list[str]) -> bool:
    """Whether all of some cells are whole numbers.

    >>> whole(["3", "0"]), whole(["3", "x"])
    (True, False)
    """
    return all(cell.isascii() and cell.isdigit() for cell in cells)


def line(cells: list[str]) -> str:
    """A row as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()

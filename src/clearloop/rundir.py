"""A run on disk: recipe, history and checkpoints in one folder, found again after any crash. Imports no torch.

    runs/mnist-1/
      .lock                       held (flock) by the process that writes
      recipe.json                 what the run is
      history.jsonl               one record a line, appended
      checkpoints/step-00003910/  verified before an older one is removed
      log.txt                     what was printed

Under checkpoints/ a name that ends in `.damaged` did not verify, one in `.superseded` is later than a step from which
the run was taken up again, and one in `.old` waits until the new checkpoint of the same step is in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clearloop import durable
from clearloop.errors import CheckpointError, ConfigError, RunError, StorageError

try:
    import fcntl
except ImportError:  # Windows: runs are not locked there
    fcntl = None  # type: ignore[assignment]

Loaded = tuple[int, dict[str, Any], list[dict[str, Any]]]  # step, states, history

NO_HISTORY = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}  # the position before the first record

_CHECKPOINT = re.compile(r"step-(\d{8}|[1-9]\d{8,})(\.old)?")
_PROBES = 5  # a listing holds the lock for a moment to see whether it is free: a writer asks again
_held: set[int] = set()  # descriptors of the locks of this process


class RunDirectory:
    """One run's folder. Make it with `create` or `numbered`, come back to it with `open`; write only under `lock`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.json"
        self.history = self.path / "history.jsonl"
        self.folder = self.path / "checkpoints"
        self._written: tuple[int, Any] | None = None  # bytes of the history, and their SHA-256 so far
        self._log_failed = False
        self._holds_lock = False

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """Make the folder of a new run, with the parents that are missing.

        Raises RunError where a run or anything else is there already.
        """
        run = cls(path)
        if run._is_run():
            raise RunError(f"expected no run at {run.path}, got one; resume it, or choose another folder")
        if run.path.exists() and (not run.path.is_dir() or set(os.listdir(run.path)) - {".lock", "checkpoints"}):
            raise RunError(f"expected an empty or new folder, got {run.path} with other things in it; choose another")
        durable.make_directory(run.folder)
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """The run at `path`. Raises RunError where there is none."""
        run = cls(path)
        if not run._is_run():
            got = "a folder without recipe.json or checkpoints" if run.path.is_dir() else "no such folder"
            raise RunError(f"expected a run at {run.path}, got {got}; `clearloop runs` lists the runs that there are")
        return run

    @classmethod
    def numbered(cls, parent: str | os.PathLike[str], stem: str) -> RunDirectory:
        """Make `parent/stem-1`, or the first number after the highest there; two processes never get the same."""
        if not re.fullmatch(r"\w[\w.-]*", stem):
            raise ConfigError(f"expected a plain name for runs, got {stem!r}; use letters, digits, '_', '-' and '.'")
        folder = Path(parent)
        durable.make_directory(folder)
        found = [re.fullmatch(re.escape(stem) + r"-([0-9]{1,9})", name) for name in os.listdir(folder)]
        number = max((int(match[1]) for match in found if match), default=0)
        while True:
            number += 1
            path = folder / f"{stem}-{number}"
            try:
                durable.current().mkdir(path)
            except StorageError:
                if os.path.lexists(path):  # another process took the number
                    continue
                raise
            durable.current().fsync(folder)
            return cls.create(path)

    def _is_run(self) -> bool:
        """A folder whose making was cut short, with nothing but an empty checkpoints/, is not a run yet."""
        started = self.folder.is_dir() and bool(os.listdir(self.folder))
        return started or self.recipe.exists() or self.history.exists()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer of this run; what dead writers left half-written is swept first.

        Raises RunError while another process (or another object here) holds the lock. Where the platform or the file
        system has no locks, the block runs without one.
        """
        if self._holds_lock:
            yield  # within its own lock
            return
        descriptor = self._take_lock()
        self._holds_lock = True
        try:
            durable.sweep_temporaries(self.path)
            durable.sweep_temporaries(self.folder, only_dead=descriptor is None)
            yield
        finally:
            self._holds_lock = False
            if descriptor in _held:  # not so in a forked child, whose copy was closed
                _held.discard(descriptor)
                os.close(descriptor)

    def _take_lock(self) -> int | None:
        if fcntl is None:
            return None
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            remedy = "choose a folder that you may write to"
            raise StorageError(f"expected to open {self.path / '.lock'}, got {error.strerror}; {remedy}") from error
        for probe in range(_PROBES):
            if probe:
                time.sleep(0.05)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except OSError:  # this file system has no locks
                os.close(descriptor)
                return None
            _held.add(descriptor)
            return descriptor
        os.close(descriptor)
        raise RunError(
            f"expected {self.path} to be free, but another process is writing this run; wait for it, stop it, or "
            "choose another folder"
        )

    def is_locked(self) -> bool:
        """Whether some process is writing this run."""
        if fcntl is None:
            return False
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def write_recipe(self, recipe: Mapping[str, Any]) -> None:
        """Replace recipe.json; a checksum is added.

        Raises RunError for values that JSON has no word for, StorageError where the disk refuses.
        """
        content = {**recipe, "checksum": _checksum(recipe)}
        durable.write_file(self.recipe, durable.dumps_strict(content, indent=2) + b"\n")

    def read_recipe(self) -> dict[str, Any]:
        """The recipe, without its checksum. Raises RunError naming the file when it is missing or damaged."""
        try:
            with open(self.recipe, "rb") as file:
                data = file.read(durable.JSON_LIMIT + 1)
        except OSError as error:
            raise RunError(f"expected a recipe at {self.recipe}, got {error.strerror}; restore a backup") from error
        recipe = durable.loads_strict(data, str(self.recipe), error=RunError)
        if not isinstance(recipe, dict):
            raise RunError(f"{self.recipe}: expected an object, got {type(recipe).__name__}; restore a backup")
        checksum = recipe.pop("checksum", None)
        if checksum not in (None, _checksum(recipe)):
            raise RunError(
                f"{self.recipe}: expected the content that was written, got another (its checksum differs); restore a "
                'backup, or, if you edited it on purpose, remove the line with "checksum"'
            )
        return recipe

    def append_history(self, records: list[dict[str, Any]]) -> None:
        """Append one line a record and wait until they are on the disk; after an error none of them is there.

        Floats that are not finite become strings ("nan", "inf", "-inf"). Raises RunError for what is not plain data.
        """
        size, digest = self._history_so_far()
        data = b"".join(durable.dumps_strict(_spell_nonfinite(record)) + b"\n" for record in records)
        if data:
            durable.append_file(self.history, data, at=size)
            digest.update(data)
            self._written = size + len(data), digest

    def history_position(self) -> dict[str, Any]:
        """How much history there is: `{"bytes": int, "sha256": hex}`; a checkpoint keeps this."""
        size, digest = self._history_so_far()
        return {"bytes": size, "sha256": digest.hexdigest()}

    def read_history(self, position: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The records up to `position`, whose hash is checked; without one, all (a last line cut off is no record).

        Raises CheckpointError where the file is short, differs or cannot be parsed.
        """
        data = self._history_up_to(position) if position is not None else self._history_lines()
        return [self._record(line, number) for number, line in enumerate(data.split(b"\n")[:-1], start=1)]

    def truncate_history(self, position: Mapping[str, Any]) -> None:
        """Cut off what came after `position`: a run that is resumed from there writes it again.

        Raises CheckpointError, and changes nothing, where the history before `position` is not what it was.
        """
        data = self._history_up_to(position)
        if self.history.exists():
            durable.current().truncate(self.history, len(data))  # to be synced by the next append
        self._written = len(data), hashlib.sha256(data)

    def _history_so_far(self) -> tuple[int, Any]:
        if self._written is None:
            data = self._history_lines()
            self._written = len(data), hashlib.sha256(data)
        return self._written

    def _history_lines(self) -> bytes:
        """All whole lines; a line cut off by a crash is overwritten by the next append."""
        data = self._read_history_bytes(-1)
        return data[: data.rfind(b"\n") + 1]

    def _history_up_to(self, position: Mapping[str, Any]) -> bytes:
        size, sha256 = position.get("bytes"), position.get("sha256")
        if type(size) is not int or size < 0:
            raise CheckpointError(f"expected a position in {self.history.name}, got {position!r}; use a backup")
        data = self._read_history_bytes(size)
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            raise CheckpointError(
                f"{self.history}: expected {size} bytes with SHA-256 {sha256}, got {len(data)} that differ; restore it "
                "from a backup or use an older checkpoint"
            )
        return data

    def _read_history_bytes(self, size: int) -> bytes:
        try:
            with open(self.history, "rb") as file:
                return file.read(size)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise CheckpointError(f"expected to read {self.history}, got {error.strerror}; check the disk") from error

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        record = durable.loads_strict(line, f"{self.history}, line {number}")
        if not isinstance(record, dict):
            raise CheckpointError(f"{self.history}, line {number}: expected an object, got {record!r}; use a backup")
        return record

    def save_checkpoint(
        self, step: int, states: Mapping[str, Any], keep: int = 2, best_step: int | None = None
    ) -> Path:
        """Write the checkpoint of `step`, verify it, and only then remove older ones.

        Args: `states`, trees as `packing.pack` takes them; the position in the history is added as "history".
        `keep`, how many of the newest stay (2 or more), besides the one of `best_step`. A checkpoint of a later step
        (the run was taken up again from before it) is renamed to `….superseded`.
        Raises CheckpointError or StorageError; the checkpoints that were there are then there still.
        """
        from clearloop import packing

        if keep < 2 or step < 0:
            raise ConfigError(f"expected keep >= 2 and step >= 0, got keep={keep}, step={step}")
        durable.make_directory(self.folder)
        position = self.history_position()
        self._history_up_to(position)  # a checkpoint is no better than the history that it refers to
        target = self._checkpoint(step)
        former = target.with_name(target.name + ".old")
        try:
            if target.exists():
                if former.exists():
                    durable.remove_directory(former)
                durable.current().rename(target, former)  # either name will do after a crash
            packing.save(target, {**states, "history": {"step": step, **position}})
        except BaseException:
            if former.exists() and not target.exists():
                with contextlib.suppress(StorageError):
                    durable.current().rename(former, target)
            raise
        self._prune(step, keep, best_step)
        return target

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Steps and folders of all checkpoints, oldest first; whether they verify is seen when they are loaded."""
        return list(dict(self._candidates()).items())

    def load_newest(self, report: Callable[[str], None]) -> Loaded | None:
        """Step, states and history of the newest checkpoint that verifies, or None where there is none at all.

        Args: `report`, called with one line for each checkpoint that is passed over; once an older one is good, those
        are renamed to `….damaged`. Raises CheckpointError when there are some and none verifies.
        """
        damaged: list[tuple[Path, CheckpointError]] = []
        for step, path in reversed(self._candidates()):
            try:
                loaded = self._load(step, path)
            except CheckpointError as error:
                if not os.path.lexists(path):  # the process that writes the run removed it: there is a newer one
                    return self.load_newest(report)
                report(f"passing over {path.name}, which does not verify: {error}")
                damaged.append((path, error))
                continue
            for bad, _ in damaged:
                try:
                    self._set_aside(bad, ".damaged")
                except StorageError as error:
                    report(f"{bad.name} stays where it is: {error}")
            return loaded
        if damaged:
            raise CheckpointError(
                f"{self.path}: expected a checkpoint that verifies, got {len(damaged)} that do not (the newest: "
                f"{damaged[0][1]}); restore the folder from a backup, or start a new run"
            )
        return None

    def load_step(self, step: int) -> Loaded:
        """Step, states and history of one checkpoint. Raises CheckpointError where it is missing or damaged."""
        found = dict(self._candidates())
        if step not in found:
            steps = ", ".join(str(known) for known in found) or "none"
            raise CheckpointError(
                f"{self.path}: expected a checkpoint of step {step}, got {steps}; choose one of these"
            )
        return self._load(step, found[step])

    def _checkpoint(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _candidates(self) -> list[tuple[int, Path]]:
        """All checkpoint folders by step; of two with the same step the newer one comes last."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        found = [match for name in names if (match := _CHECKPOINT.fullmatch(name))]
        found.sort(key=lambda match: (int(match[1]), match[2] is None))
        return [(int(match[1]), self.folder / match[0]) for match in found]

    def _load(self, step: int, path: Path) -> Loaded:
        from clearloop import packing

        states = packing.load(path)
        position = states.get("history")
        if not isinstance(position, dict) or position.get("step") != step:
            raise CheckpointError(f"{path}: expected the checkpoint of step {step}, got another one; use an older one")
        return step, states, self.read_history(position)

    def _prune(self, step: int, keep: int, best_step: int | None) -> None:
        candidates = self._candidates()
        kept = {*sorted({known for known, _ in candidates if known <= step})[-keep:], best_step}
        for known, path in candidates:
            if known > step:
                self._set_aside(path, ".superseded")
            elif known not in kept or path != self._checkpoint(known) and self._checkpoint(known).exists():
                durable.remove_directory(path)

    def _set_aside(self, path: Path, suffix: str) -> None:
        names = [path.name + suffix, *(f"{path.name}{suffix}-{number}" for number in range(2, 1000))]
        free = next(name for name in names if not os.path.lexists(self.folder / name))
        durable.current().rename(path, self.folder / free)

    def log(self, text: str) -> None:
        """Append a line to log.txt. A log that cannot be written warns once and stops nothing."""
        try:
            durable.current().append(self.path / "log.txt", text.encode("utf-8", "backslashreplace") + b"\n")
        except StorageError as error:
            if not self._log_failed:
                self._log_failed = True
                warnings.warn(f"the log is not complete: {error}", stacklevel=2)

    def require_space(self, bytes_needed: int) -> None:
        """Raise StorageError now where the disk has less than `bytes_needed` free, rather than in mid-training."""
        free = shutil.disk_usage(self.path).free
        if free < bytes_needed:
            raise StorageError(
                f"expected at least {bytes_needed} bytes free on the disk of {self.path}, got {free}; free space or "
                "choose a folder on another disk"
            )

    def summary(self) -> dict[str, Any]:
        """One row of a table of runs: path, name, model, data, epoch, losses, metrics, checkpoints, modified, state.

        The state is "running", "finished", "interrupted", "stopped" (where the recipe plans no epochs), or, as nothing
        is raised for a damaged run, "damaged: …". `modified` is in seconds since 1970.
        """
        state = "running" if self.is_locked() else "stopped"
        recipe: dict[str, Any] = {}
        newest: dict[str, Any] = {}
        try:
            recipe = self.read_recipe()
            newest = self._newest_epoch()
        except RunError as error:
            state = f"damaged: {error}"
        planned, epoch = _last_epoch(recipe), newest.get("epoch")
        if state == "stopped" and planned is not None:
            state = "finished" if isinstance(epoch, int) and epoch + 1 >= planned else "interrupted"
        return {
            "path": str(self.path),
            "name": self.path.name,
            "model": recipe.get("model"),
            "data": recipe.get("data"),
            "epoch": epoch,
            "epochs_planned": planned,
            "train_loss": newest.get("train_loss"),
            "valid_loss": newest.get("valid_loss"),
            "metrics": newest.get("metrics", {}),
            "checkpoints": len(self.checkpoints()),
            "modified": max(_modified(path) for path in (self.path, self.recipe, self.history, self.folder)),
            "locked": state == "running",
            "state": state,
        }

    def _newest_epoch(self) -> dict[str, Any]:
        """The last epoch record, looked for from the end of the history; an empty dict where there is none."""
        lines = self._history_lines().split(b"\n")[:-1]
        for number in range(len(lines), 0, -1):
            record = self._record(lines[number - 1], number)
            if record.get("kind") == "epoch":
                return record
        return {}


def _last_epoch(recipe: Mapping[str, Any]) -> int | None:
    """How many epochs a run is to have in all, as the last fit in its recipe planned it."""
    fits = recipe.get("fits")
    plan = fits[-1] if isinstance(fits, list) and fits else None
    last = plan.get("last_epoch") if isinstance(plan, dict) else None
    return last if isinstance(last, int) else None


def _checksum(recipe: Mapping[str, Any]) -> str:
    return hashlib.sha256(durable.dumps_strict({**recipe, "checksum": None})).hexdigest()


def _spell_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return float(value).hex()
    if isinstance(value, dict):
        return {key: _spell_nonfinite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spell_nonfinite(item) for item in value]
    return value


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _forget_locks() -> None:
    """A forked worker must not keep a run locked after its parent has died."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)

"""Contestants side by side: a process each, one at work at a time, and no time counts before equal work is shown."""

from __future__ import annotations

import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.environments import Unavailable, python_of
from benchmarks.peers.workloads import Workload

ROOT = Path(__file__).parent.parent
PATIENCE_S = 400.0  # for one answer; compiling takes the longest
LEAST_ROUNDS, MOST_ROUNDS = 1, 9  # after the first


class Out(Exception):
    """A contestant that takes no part, or no longer, and why: a line of the output."""


@dataclass(frozen=True)
class Contestant:
    """Who takes part: `script` is a module of benchmarks.peers, `variant` one of the trainers in it.

    Args: `environment`, where it runs, our own when None; `base`, by whose time its own is divided; `exact`, whether
    it must end in the very bits of the first contestant; `compared`, False for one that trains nothing; `compiles`,
    whether its first epoch compiles; `share_s`, about how many seconds of rounds it gets.
    """

    name: str
    script: str
    variant: str
    environment: str | None = None
    base: str = "by hand"
    exact: bool = False
    compared: bool = True
    compiles: bool = False
    share_s: float = 3.0


@dataclass(frozen=True)
class Tolerance:
    """How far off the last weights (absolutely; None: any) and the last validation loss (relatively) may be."""

    weights: float | None
    loss: float


@dataclass
class Line:
    """What was measured of a contestant: seconds of an epoch by round, and what came with them."""

    contestant: Contestant
    version: str
    first_s: float = 0.0  # the first epoch of its process
    times: dict[int, float] = field(default_factory=dict)
    peak_mb: float = 0.0
    accuracy: float | None = None
    weights_gap: float | None = None  # from those of the first contestant
    loss_gap: float | None = None
    cold_s: float | None = None  # of compiling, with nothing cached, then in a new process from the cache
    warm_s: float | None = None

    @property
    def seconds(self) -> float:
        """The median epoch."""
        return statistics.median(self.times.values())


@dataclass
class Case:
    """One workload, measured: lines in the order of the contestants, and who is out, with the reason."""

    work: Workload
    samples: int  # of an epoch: those trained on and those validated with
    lines: dict[str, Line] = field(default_factory=dict)
    out: dict[str, str] = field(default_factory=dict)

    def ratio(self, name: str, base: str) -> float | None:
        """Seconds of `name` over those of `base`: the median over the rounds in which both took part."""
        if name not in self.lines or base not in self.lines:
            return None
        ours, theirs = self.lines[name].times, self.lines[base].times
        both = [ours[number] / theirs[number] for number in ours if number in theirs]
        return statistics.median(both) if both else None


class Process:
    """The process of a contestant: asked in lines of JSON. What else it writes is passed over."""

    def __init__(self, command: Sequence[str], environ: dict[str, str]) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.popen = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environ}, **pipes)
        self._read = b""

    def ask(self, patience_s: float = PATIENCE_S, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises: Out when there is none, or when the answer says so."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(json.dumps(request).encode() + b"\n")
            self.popen.stdin.flush()
        except OSError:
            raise Out(self.last_words()) from None
        answer = self._answer(time.monotonic() + patience_s)
        for kind in ("skip", "error"):
            if kind in answer:
                raise Out(str(answer[kind]).strip().splitlines()[0])
        return answer

    def _answer(self, deadline: float) -> dict[str, Any]:
        while True:
            line = self._line(deadline)
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict):
                    return answer

    def _line(self, deadline: float) -> bytes:
        assert self.popen.stdout is not None
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.popen.stdout], [], [], left)[0]:
                raise Out("it did not answer in time")
            chunk = os.read(self.popen.stdout.fileno(), 65536)
            if not chunk:
                raise Out(self.last_words())
            self._read += chunk
        line, self._read = self._read.split(b"\n", 1)
        return line

    def last_words(self) -> str:
        """What it came to: its exit status, and the last line that it wrote on standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout=5)
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if line.strip()]
        return f"it ended with status {self.popen.poll()}: {lines[-1] if lines else 'without a word'}"

    def close(self) -> None:
        """End it."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        with contextlib.suppress(OSError):
            self.popen.stdin.close()
        try:
            self.popen.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.popen.stdout.close()
        self.errors.close()


Start = Callable[[Contestant, dict[str, str]], Process]


def start_script(contestant: Contestant, environ: dict[str, str]) -> Process:
    """The contestant's script in its environment. Raises: Out when that cannot be made."""
    try:
        python = sys.executable if contestant.environment is None else python_of(contestant.environment)
    except Unavailable as reason:
        raise Out(str(reason)) from None
    return Process([str(python), "-m", f"benchmarks.peers.{contestant.script}", contestant.variant], environ)


class Stage:
    """The processes of all contestants, kept from workload to workload. `folder` is for what they exchange."""

    def __init__(
        self, contestants: Sequence[Contestant], threads: int, folder: Path, start: Start = start_script
    ) -> None:
        self.contestants, self.folder, self._start = contestants, folder, start
        self.environ = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
        self.processes: dict[str, Process] = {}

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes.values():
            process.close()

    def run(self, work: Workload, tolerance: Tolerance, samples: int) -> Case:
        """Time all contestants on one workload; the first that trains says what equal work is.

        Raises: Out, when that one falls out.
        """
        case, ends = Case(work, samples), Ends(work, tolerance)
        rounds: dict[str, int] = {}
        for contestant in self.contestants:
            with self._left_out(case, ends, contestant):
                rounds[contestant.name] = self._begin(case, ends, contestant)
        for number in range(1, max(rounds.values(), default=0) + 1):
            for contestant in self.contestants:
                if contestant.name in case.lines and takes_part(rounds[contestant.name], number, max(rounds.values())):
                    with self._left_out(case, ends, contestant):
                        self._round(case.lines[contestant.name], ends, number)
        return case

    def _begin(self, case: Case, ends: Ends, contestant: Contestant) -> int:
        """The first round, and what comes before; returns how many rounds are to follow."""
        cold_s = None
        cache: dict[str, str] = {}
        if contestant.compiles:
            self._forget(contestant)
            cache = {"TORCHINDUCTOR_CACHE_DIR": tempfile.mkdtemp(dir=self.folder)}
            self._load(case.work, contestant, cache)
            cold_s = compile_s(self._train(contestant))
            self._forget(contestant)
        greeting = self._load(case.work, contestant, cache)
        line = Line(contestant, greeting["version"], cold_s=cold_s)
        answer = self._round(line, ends, 0)
        case.lines[contestant.name] = line
        line.first_s = answer["epochs_s"][0]
        if contestant.compiles:
            line.warm_s = compile_s(answer)
        rounds: float = contestant.share_s / (case.work.epochs * line.seconds)
        return min(MOST_ROUNDS, max(LEAST_ROUNDS, round(rounds)))

    def _round(self, line: Line, ends: Ends, number: int) -> dict[str, Any]:
        """Train once; an epoch that begins a training is not counted."""
        answer = self._train(line.contestant)
        ends.check(line, answer, self._weights(line.contestant))
        line.times[number] = statistics.median(answer["epochs_s"][1:])
        line.peak_mb, line.accuracy = answer["peak_mb"], answer.get("accuracy")
        return answer

    def _load(self, work: Workload, contestant: Contestant, environ: dict[str, str]) -> dict[str, Any]:
        if contestant.name not in self.processes:
            self.processes[contestant.name] = self._start(contestant, self.environ | environ)
        greeting = self.processes[contestant.name].ask(do="load", folder=work.folder)
        theirs, ours = (version.split("+")[0] for version in (greeting["torch"], str(torch.__version__)))
        if (theirs, greeting["threads"]) != (ours, work.threads):
            found = f"torch {theirs} and {greeting['threads']} threads"
            raise Out(f"it has {found} where torch {ours} and {work.threads} are asked for")
        return greeting

    def _train(self, contestant: Contestant) -> dict[str, Any]:
        weights = self._weights(contestant)
        weights.unlink(missing_ok=True)
        return self.processes[contestant.name].ask(do="round", weights=str(weights))

    def _weights(self, contestant: Contestant) -> Path:
        return self.folder / f"{contestant.script}-{contestant.variant}.safetensors"

    @contextlib.contextmanager
    def _left_out(self, case: Case, ends: Ends, contestant: Contestant) -> Iterator[None]:
        """Whoever falls out in the block is left out of this workload; the next one begins a new process."""
        try:
            yield
        except Out as reason:
            if contestant.compared and ends.first in (None, contestant.name):
                raise Out(f"{contestant.name}, by which all others are judged: {reason}") from None
            self._forget(contestant)
            case.lines.pop(contestant.name, None)
            case.out[contestant.name] = str(reason)

    def _forget(self, contestant: Contestant) -> None:
        if contestant.name in self.processes:
            self.processes.pop(contestant.name).close()


class Ends:
    """What the first contestant came to, and whether others came to the same."""

    def __init__(self, work: Workload, tolerance: Tolerance) -> None:
        self.work, self.tolerance = work, tolerance
        self.first: str | None = None
        self._answer: dict[str, Any] = {}
        self._weights: dict[str, Tensor] = {}

    def check(self, line: Line, answer: dict[str, Any], path: Path) -> None:
        """Raises: Out, unless the work was that of the first contestant."""
        contestant = line.contestant
        if len(answer["epochs_s"]) != self.work.epochs:
            raise Out(f"refused: {len(answer['epochs_s'])} epochs, where {self.work.epochs} are asked for")
        if not contestant.compared:
            return
        weights = load_file(path)
        if self.first is None:
            self.first, self._answer, self._weights = contestant.name, answer, weights
        if answer["steps"] != self._answer["steps"]:
            raise Out(f"refused: {answer['steps']} steps, where {self.first} took {self._answer['steps']}")
        loss, expected = answer["valid_loss"], self._answer["valid_loss"]
        line.loss_gap = abs(loss - expected) / abs(expected)
        if not line.loss_gap <= self.tolerance.loss:
            allowed = f"{self.tolerance.loss:g} of that is allowed"
            raise Out(f"refused: validation loss {loss:.6f}, where {self.first} has {expected:.6f}; {allowed}")
        line.weights_gap = gap(weights, self._weights)
        limit = 0.0 if contestant.exact else self.tolerance.weights
        if limit is not None and not line.weights_gap <= limit:
            raise Out(f"refused: weights {line.weights_gap:.2g} off those of {self.first}; {limit:g} is allowed")


def gap(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference between weights of the same names and shapes; NaN where there is one, or they differ."""
    shapes = [{name: tensor.shape for name, tensor in each.items()} for each in (weights, expected)]
    if shapes[0] != shapes[1]:
        return float("nan")
    return float(torch.stack([(weights[name].double() - expected[name]).abs().max() for name in expected]).max())


def compile_s(answer: dict[str, Any]) -> float:
    """What the first epoch took beyond a later one."""
    return float(answer["epochs_s"][0] - statistics.median(answer["epochs_s"][1:]))


def takes_part(rounds: int, number: int, most: int) -> bool:
    """Whether a contestant of `rounds` rounds takes part in the round of this number, of `most`; from 1 on.

    >>> [number for number in range(1, 10) if takes_part(3, number, 9)]
    [3, 6, 9]
    """
    return number * rounds // most > (number - 1) * rounds // most

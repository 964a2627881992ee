"""The process of a contestant: it reads requests from its standard input, a line of JSON each, and answers likewise.

What libraries print goes to standard error: the real standard output is kept for answers alone.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.peers.workloads import Workload


class Clock:
    """Wall-clock seconds of each epoch of a training."""

    def __init__(self) -> None:
        self.epochs_s: list[float] = []
        self._last = 0.0

    def start(self) -> None:
        """The training begins: all that comes before is setting up."""
        self._last = time.perf_counter()

    def lap(self) -> None:
        """An epoch has ended, its validation included."""
        now = time.perf_counter()
        self.epochs_s.append(now - self._last)
        self._last = now


@dataclass(frozen=True)
class Result:
    """What a training came to: optimizer steps, validation loss and accuracy of the last epoch, the weights."""

    steps: int
    valid_loss: float
    accuracy: float | None
    weights: dict[str, Tensor]
    notes: dict[str, float] = field(default_factory=dict)


Trainer = Callable[[Workload, Clock], Result | None]  # None: there is nothing to compare, it is a time alone


class Skip(Exception):
    """This contestant cannot take part here, and why."""


def serve(trainers: Mapping[str, Trainer], version: str) -> None:
    """Answer requests to the end of the input; the first argument of the program names the trainer."""
    requests, answers = take_the_wire()
    contestant = Process(trainers[sys.argv[1]], version)
    for line in requests:
        try:
            answer = contestant.answer(json.loads(line))
        except Skip as reason:
            answer = {"skip": str(reason)}
        except Exception as error:  # whatever a library raises is an answer
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def take_the_wire() -> tuple[Any, Any]:
    """The real standard input and output, which nobody else gets from now on."""
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, answers


class Process:
    """One contestant: the workload that it has loaded, and how it trains."""

    def __init__(self, train: Trainer, version: str) -> None:
        self.train, self.version = train, version
        self.work: Workload | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load a workload, or train it once."""
        if request["do"] == "load":
            self.work = Workload.read(request["folder"])
            torch.set_num_threads(self.work.threads)
            forget_peak()
            return {"torch": torch.__version__, "version": self.version, "threads": torch.get_num_threads()}
        assert self.work is not None, "load comes first"
        gc.collect()
        clock = Clock()
        result = self.train(self.work, clock)
        answer: dict[str, Any] = {"epochs_s": clock.epochs_s, "peak_mb": peak_mb()}
        if result is not None:
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in result.weights.items()}, request["weights"]
            )
            answer |= {"steps": result.steps, "valid_loss": result.valid_loss, "accuracy": result.accuracy}
            answer["notes"] = result.notes
        return answer


def peak_mb() -> float:
    """The most memory that this process has held since `forget_peak`, in MB; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def forget_peak() -> None:
    """Count the peak from here on."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")

"""Does compiling pay? Measured eager steps, what of them a program can save, and what making it costs."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearloop.data.cache import cache_folder
from clearloop.engines.engine import Engine
from clearloop.engines.parity import Moment
from clearloop.step import Span, TrainState, train_step
from clearloop.tree import leaves, tree_map

COLD_S = 20.0  # to make a program of one step, where it was never made before (seen: 8 to 25 s)
MARGIN = 1.25  # by how much the saving must exceed the cost
WARM_UP = 5  # steps that are not measured: the first are slow
MEASURED_S, FEWEST = 0.3, 20  # how long, and how many steps, are measured at least
LONG_S, FEW = 3.0, 3  # of slow steps a few will do
SAVED_BY_CALLS_S = 4e-5  # of a step, by taking several a call (784-50-10 at batch 64: 249 to 194 microseconds)


class Timing:
    """Seconds a step, the first few left out: the median over the measurements, as others may use the machine too."""

    def __init__(self, warm_up: int = WARM_UP) -> None:
        self.warm_up, self.steps, self.spent = warm_up, 0, 0.0
        self._measured: list[float] = []

    @property
    def known(self) -> bool:
        """Whether enough was measured."""
        enough = self.spent >= MEASURED_S and self.steps >= FEWEST
        return enough or (self.spent >= LONG_S and self.steps >= FEW)

    @property
    def seconds(self) -> float:
        """A step."""
        return statistics.median(self._measured or [0.0])

    def timed(self, engine: Engine, state: TrainState, span: Span) -> tuple[list[Tensor], list[Any]]:
        """Let an engine run a span, and note how long it took."""
        started = now(state)
        taken = engine.run(state, span)
        self.note(now(state) - started, span.steps)
        return taken

    def note(self, seconds: float, steps: int) -> None:
        """Count the time of some steps."""
        if self.warm_up > 0:
            self.warm_up -= steps
        else:
            self.spent, self.steps = self.spent + seconds, self.steps + steps
            self._measured.append(seconds / steps)


def now(state: TrainState) -> float:
    """The clock, after what a GPU still had to do."""
    device = next(state.model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forecast(seconds: float, state: TrainState, left: int) -> str | None:
    """Why a program cannot pay in the `left` steps, of which an eager one takes `seconds`; None if it may.

    What a program saves is what a step costs whatever its batch's size, calls and small operations: at most the time
    of a step over two samples. It saves nothing of large products and convolutions.
    """
    try:
        saved = min(overhead(state), 0.6 * seconds) * left
    except Exception as error:  # of two samples, a model and a loss can raise anything
        return f"what a program would save cannot be measured: {error}"
    cost = expected_cost(state)
    if saved > MARGIN * cost:
        return None
    return (
        f"the {left:,} steps left take about {brief(seconds * left)}, of which a program would save at most "
        f"{brief(saved)}; making it takes about {brief(cost)}"
    )


def overhead(state: TrainState) -> float:
    """Seconds of a whole step over two samples, after which everything is as it was before."""
    inputs, targets = tree_map(lambda tensor: tensor[:2] if tensor.ndim else tensor, state.example)
    before, times = Moment(state), []
    try:
        for _ in range(9):
            started = now(state)
            train_step(state.forward, state.loss_func, state.opt, inputs, targets, state.clip)
            times.append(now(state) - started)
    finally:
        before.restore(state)
        state.opt.zero_grad()
    return statistics.median(times[2:])


def brief(seconds: float) -> str:
    """Seconds for a sentence.

    >>> brief(0.25), brief(12.3), brief(7200)
    ('0.2 s', '12 s', '2.0 h')
    """
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.1f} h"


def expected_cost(state: TrainState) -> float:
    """Seconds that making a program took the last time on this machine, from torch's cache far less; or COLD_S."""
    try:
        return float(json.loads(_note_of(state).read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return COLD_S


def note_cost(state: TrainState, seconds: float) -> None:
    """Remember it; where the cache cannot be written, it is not remembered."""
    path = _note_of(state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"seconds": round(seconds, 2)}))
    except OSError:
        return


def _note_of(state: TrainState) -> Path:
    """Its file, named by what decides how long it takes, the same in every process."""
    shapes = [tuple(leaf.shape) for leaf in leaves(state.example) if isinstance(leaf, Tensor)]
    loss = getattr(state.loss_func, "__qualname__", type(state.loss_func).__name__)
    name = f"{torch.__version__} {state.model} {loss} {type(state.opt).__name__} {shapes}"
    return cache_folder() / "compiled" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"

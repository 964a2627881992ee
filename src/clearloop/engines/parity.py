"""Does another engine take the same steps as the eager one? Both take one from one state; the two ends are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clearloop import rng
from clearloop.step import TrainState
from clearloop.tree import tree_map
from clearloop.weights import named_tensors

TOLERANCE = 2e-4  # of a step's length; float32 sums in another order differ by 1e-6, Adam's first steps by 3e-5
LOW_PRECISION_TOLERANCE = 5e-2  # under autocast: bfloat16 keeps 8 bits
FAINT = 1e-4  # gradients so much smaller than the largest are rounding, which Adam makes steps of full length of


class Moment:
    """The state of training at one moment: weights, buffers, what the optimizer keeps, random states."""

    def __init__(self, state: TrainState) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in named_tensors(state.model).items()}
        self.kept = {p: tree_map(torch.clone, dict(values)) for p, values in state.opt.state.items()}
        self.random = rng.capture()

    @torch.no_grad()
    def restore(self, state: TrainState) -> None:
        """Put everything back, into the tensors that are there."""
        for name, tensor in named_tensors(state.model).items():
            tensor.copy_(self.tensors[name])
        for parameter in [p for p in state.opt.state if p not in self.kept]:  # it has had no step by then
            del state.opt.state[parameter]
        for parameter, values in self.kept.items():
            current = state.opt.state[parameter]
            for name, value in values.items():
                if isinstance(value, Tensor) and isinstance(current.get(name), Tensor):
                    current[name].copy_(value)
                else:
                    current[name] = value
        rng.restore(self.random)

    def equals(self, other: Moment) -> bool:
        """Whether two moments are the same, to the bit."""
        kept = [(value, other.kept[p][name]) for p, values in self.kept.items() for name, value in values.items()]
        pairs = [*((t, other.tensors[name]) for name, t in self.tensors.items()), *kept]
        return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def difference(
    state: TrainState, before: Moment, eager: Moment, other: Moment, losses: tuple[Tensor, Tensor], allowed: float
) -> str:
    """What two ends of one step differ in, as a phrase; empty if in no more than `allowed`, as shares of the step.

    Gradients so faint that they are rounding are left out: Adam divides each by its own size.
    """
    own, others = (float(loss) for loss in losses)
    if not math.isfinite(own):
        return ""  # the run is lost, as its history will say
    if not abs(own - others) <= allowed * max(1e-2, abs(own)):
        return f"losses {own:.6g} and {others:.6g}"
    found = {name: (before.tensors[name], t, other.tensors[name]) for name, t in eager.tensors.items() if t.numel()}
    for name, far in too_far(found, allowed, faint(state, eager)).items():
        return f"{name} by {far:.2g} of the step's length"
    for kind in {name for values in eager.kept.values() for name, value in values.items() if isinstance(value, Tensor)}:
        held = {p: values[kind] for p, values in eager.kept.items() if isinstance(values.get(kind), Tensor)}
        past = {p: before.kept.get(p, {}).get(kind) for p in held}
        ends = {
            p: (torch.zeros_like(v) if past[p] is None else past[p], v, other.kept[p][kind]) for p, v in held.items()
        }
        for far in too_far(ends, allowed, {}).values():
            return f"the optimizer's {kind} by {far:.2g} of its change"
    drawn = [[moment.random["torch"], *moment.random["cuda"]] for moment in (eager, other)]
    plain = [repr((moment.random["python"], [*map(str, moment.random["numpy"])])) for moment in (eager, other)]
    if not all(map(torch.equal, *drawn)) or plain[0] != plain[1]:
        return "the random numbers drawn"
    return ""


def too_far(ends: Mapping[Any, tuple[Any, Any, Any]], allowed: float, without: Mapping[Any, Any]) -> dict[Any, float]:
    """Which tensors end more than `allowed` apart, as a share of the way that the eager engine went with them.

    Args: `ends`, for each what it was, its eager and its other end; `without`, masks of what is left out.

    Where a tensor went next to no way (gradients that cancel, before batch norm), rounding is all there is: no way
    counts as shorter than a tenth of what tensors go on the average, element by element.
    """
    ways = {key: (eager.double() - before.double()).norm() for key, (before, eager, _) in ends.items()}
    sizes = {key: eager.numel() for key, (_, eager, _) in ends.items()}
    usual = 0.1 * (sum(float(way) ** 2 for way in ways.values()) / max(1, sum(sizes.values()))) ** 0.5
    far = {}
    for key, (_, eager, other) in ends.items():
        apart = other.double() - eager.double()
        if without.get(key) is not None:
            apart = apart.masked_fill(without[key], 0.0)
        rounding = 4 * torch.finfo(torch.float32).eps * float(eager.double().norm())  # a short step from large values
        beyond = float(apart.norm()) - rounding  # in this order, max lets a NaN through
        share = max(beyond, 0.0) / max(float(ways[key]), usual * sizes[key] ** 0.5, 1e-30)
        if not share <= allowed:
            far[key] = share
    return far


def faint(state: TrainState, moment: Moment) -> dict[str, Tensor]:
    """Where the mean gradient of parameters is next to nothing, if their optimizer divides by the gradient's size."""
    named = state.model.named_parameters(remove_duplicate=False)
    means = {name: moment.kept[p]["exp_avg"].abs() for name, p in named if "exp_avg" in moment.kept.get(p, {})}
    largest = max((float(mean.max()) for mean in means.values() if mean.numel()), default=0.0)
    return {name: mean <= FAINT * largest for name, mean in means.items()}

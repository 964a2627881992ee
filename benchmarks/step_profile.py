"""Where the time of a compiled step goes: 784-50-10 on MNIST, batch 64, one thread, one and eight steps a call.

torch's profiler names products and fused kernels, and costs something itself: shares are of a profiled step, the time
of a step is measured without it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from clearloop import DataLoader, Learner, TensorDataset, get_data, models
from clearloop.engines import programs
from clearloop.step import Span

BATCH_SIZE, STEPS, ROUNDS = 64, 256, 7
GROUPS = (  # what a name begins with, or has in it, and what it is
    (("aten::addmm", "aten::mm"), "matrix products"),
    (("index_select",), "gathering, with what is fused to it"),
    (("graph_", "cpp_fused"), "other fused kernels: loss, biases, update"),
    (("aten::",), "other operations"),
)


def main() -> None:
    """Print the shares for both, and the floor."""
    torch.set_num_threads(1)
    x, y, *_ = get_data()
    for engine in ("compile", "compile:8"):
        learn, batches = trained(x, y, engine)
        seconds = min(timed(learn, batches) for _ in range(ROUNDS))
        with profile(activities=[ProfilerActivity.CPU]) as found:
            timed(learn, batches)
        shares = grouped(found.key_averages())
        print(f"\n{engine}: {seconds / STEPS * 1e6:.0f} microseconds a step")
        for name, share in sorted(shares.items(), key=lambda item: -item[1]):
            print(f"  {share:6.1%}  {name}")
    print(f"\nthe two large products alone: {floor(x) * 1e6:.0f} microseconds a step")


def trained(x: torch.Tensor, y: torch.Tensor, engine: str) -> tuple[Learner, DataLoader]:
    """A Learner whose programs are made, with names for their kernels."""
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(x, y), BATCH_SIZE, shuffle=True, seed=0)
    learn = Learner((loader, None), models.mlp(784, 50, 10), F.cross_entropy, lr=0.1, device="cpu", fast=engine)
    with mock.patch.dict(programs.OPTIONS, {"cpp.enable_kernel_profile": True}):
        learn.fit(1, quiet=True)
    learn.model.train()
    return learn, loader


def timed(learn: Learner, loader: DataLoader) -> float:
    """Seconds of some steps."""
    batches: Iterator[Any] = loader.batches(1)
    span = Span(batches, STEPS, [0.1] * STEPS, first=learn.history.steps, left=STEPS)
    started = time.perf_counter()
    learn.engine.run(learn.prepared(), span)
    return time.perf_counter() - started


def grouped(averages: Any) -> dict[str, float]:
    """Shares of the profiled time, by group; what no operation takes is that of calls, allocation and Python."""
    spent: dict[str, float] = {}
    for row in averages:
        name = next(
            (group for signs, group in GROUPS if any(sign in row.key for sign in signs)), "calls and allocation"
        )
        spent[name] = spent.get(name, 0.0) + row.self_cpu_time_total
    total = sum(spent.values())
    return {name: each / total for name, each in spent.items()}


def floor(x: torch.Tensor) -> float:
    """Seconds of the two large products of a step."""
    batch, weight, gradient = x[:BATCH_SIZE].clone(), torch.randn(50, 784), torch.randn(BATCH_SIZE, 50)
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(STEPS):
            torch.mm(batch, weight.t())
            torch.mm(gradient.t(), batch)
        times.append((time.perf_counter() - started) / STEPS)
    return min(times)


if __name__ == "__main__":
    main()

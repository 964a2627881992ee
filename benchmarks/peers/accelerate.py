"""Accelerate: one's own loop over what `prepare` gives back."""

from __future__ import annotations

from typing import Any

import accelerate
import torch

from benchmarks.peers.wire import Clock, Result, serve
from benchmarks.peers.workloads import Workload, gathered, torch_loaders


def as_documented(work: Workload, clock: Clock) -> Result:
    """Model, optimizer and torch's DataLoaders prepared; predictions gathered for the metrics."""
    return run(work, clock, torch_loaders(work), prepare_loaders=True)


def tuned(work: Workload, clock: Clock) -> Result:
    """Model and optimizer prepared; batches gathered whole, by loaders that are left alone."""
    return run(work, clock, gathered(work), prepare_loaders=False)


def run(work: Workload, clock: Clock, loaders: tuple[Any, Any], prepare_loaders: bool) -> Result:
    """The loop of the quick tour."""
    accelerator = accelerate.Accelerator(cpu=True)
    start, loss_func, steps = work.model(), work.loss_func(), 0
    model, opt = accelerator.prepare(start, work.opt(start))
    train, valid = accelerator.prepare(*loaders) if prepare_loaders else loaders
    clock.start()
    for _ in range(work.epochs):
        model.train()
        for inputs, targets in train:
            opt.zero_grad()
            loss = loss_func(model(inputs), targets)
            accelerator.backward(loss)
            opt.step()
            steps += 1
        model.eval()
        total, correct, samples = 0.0, 0, 0
        for inputs, targets in valid:
            with torch.no_grad():
                preds = model(inputs)
            if prepare_loaders:
                preds, targets = accelerator.gather_for_metrics((preds, targets))
            total += loss_func(preds, targets).item() * len(targets)
            correct += int((preds.argmax(1) == targets).sum()) if work.classifies else 0
            samples += len(targets)
        clock.lap()
    weights = accelerator.unwrap_model(model).state_dict()
    return Result(steps, total / samples, correct / samples if work.classifies else None, weights)


if __name__ == "__main__":
    serve({"documented": as_documented, "tuned": tuned}, accelerate.__version__)

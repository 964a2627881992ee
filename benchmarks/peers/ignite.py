"""Ignite: a trainer and an evaluator, joined by an event handler."""

from __future__ import annotations

from typing import Any

import ignite
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy, Loss

from benchmarks.peers.wire import Clock, Result, serve
from benchmarks.peers.workloads import Workload, gathered, torch_loaders


def as_documented(work: Workload, clock: Clock) -> Result:
    """As the quick start has it: supervised trainer and evaluator over torch's DataLoaders."""
    model, loss_func = work.model(), work.loss_func()
    trainer = create_supervised_trainer(model, work.opt(model), loss_func)
    return run(work, clock, model, trainer, torch_loaders(work))


def tuned(work: Workload, clock: Clock) -> Result:
    """A step function of one's own, which waits for no loss, and batches gathered whole."""
    model, loss_func = work.model(), work.loss_func()
    opt = work.opt(model)

    def step(engine: Any, batch: Any) -> None:
        inputs, targets = batch
        loss = loss_func(model(inputs), targets)
        loss.backward()
        opt.step()
        opt.zero_grad()

    def begin(engine: Any) -> None:
        model.train()

    trainer = Engine(step)
    trainer.add_event_handler(Events.EPOCH_STARTED, begin)
    return run(work, clock, model, trainer, gathered(work))


def run(work: Workload, clock: Clock, model: Any, trainer: Any, loaders: tuple[Any, Any]) -> Result:
    """Train, with an evaluation after every epoch."""
    metrics = {"loss": Loss(work.loss_func()), **({"accuracy": Accuracy()} if work.classifies else {})}
    evaluator = create_supervised_evaluator(model, metrics=metrics)

    def validate(engine: Any) -> None:
        evaluator.run(loaders[1])
        clock.lap()

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    clock.start()
    trainer.run(loaders[0], max_epochs=work.epochs)
    found = evaluator.state.metrics
    return Result(trainer.state.iteration, found["loss"], found.get("accuracy"), model.state_dict())


if __name__ == "__main__":
    serve({"documented": as_documented, "tuned": tuned}, ignite.__version__)

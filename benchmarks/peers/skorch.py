"""skorch: the net fits as scikit-learn's estimators do."""

from __future__ import annotations

from typing import Any

import skorch
from skorch.callbacks import Callback
from skorch.helper import predefined_split
from torch import nn

from benchmarks.peers.wire import Clock, Result, serve
from benchmarks.peers.workloads import Batches, Order, Workload


class Laps(Callback):  # type: ignore[misc]
    """Tells the clock of each epoch, and counts steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.steps = clock, 0

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """The validation is over."""
        self.steps += net.history[-1]["train_batch_count"]
        self.clock.lap()


def as_documented(work: Workload, clock: Clock) -> Result:
    """Tensors given to `fit`, skorch's own iterators; `print_log` off."""
    return fit(work, clock, iterator_train__sampler=Order(work.orders()))


def tuned(work: Workload, clock: Clock) -> Result:
    """Both iterators replaced by ones that gather whole batches."""
    x, y, x_valid, y_valid = work.floats()
    train, valid = Batches(x, y, work.batch_size, work.orders()), Batches(x_valid, y_valid, work.valid_batch_size)
    return fit(work, clock, iterator_train=lambda *_, **__: train, iterator_valid=lambda *_, **__: valid)


def fit(work: Workload, clock: Clock, **options: Any) -> Result:
    """A NeuralNetClassifier, or a NeuralNetRegressor."""
    x, y, x_valid, y_valid = work.floats()
    make = skorch.NeuralNetClassifier if work.classifies else skorch.NeuralNetRegressor
    model, laps = work.model(), Laps(clock)
    net = make(
        model,
        criterion=work.loss_class(),
        optimizer=work.opt_class(),
        lr=work.lr,
        batch_size=work.batch_size,
        iterator_valid__batch_size=work.valid_batch_size,
        max_epochs=work.epochs,
        train_split=predefined_split(skorch.dataset.Dataset(x_valid, y_valid)),
        callbacks=[("laps", laps)],
        callbacks__print_log=None,
        **options,
    )
    clock.start()
    net.fit(x, y)
    module: nn.Module = net.module_
    last = net.history[-1]
    return Result(laps.steps, last["valid_loss"], last.get("valid_acc"), module.state_dict())


if __name__ == "__main__":
    serve({"documented": as_documented, "tuned": tuned}, skorch.__version__)

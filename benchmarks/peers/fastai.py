"""fastai: DataLoaders and a Learner, with bar and log off."""

from __future__ import annotations

from functools import partial

import fastai
import fastai.callback.progress  # which gives the Learner `no_bar`
import torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD, Adam, OptimWrapper

from benchmarks.peers.wire import Clock, Result, serve
from benchmarks.peers.workloads import Workload, gathered, torch_loaders


class Laps(Callback):  # type: ignore[misc]
    """Tells the clock of each epoch."""

    order = 100  # after all others

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def after_epoch(self) -> None:
        """The validation is over."""
        self.clock.lap()


class Sums(Callback):  # type: ignore[misc]
    """Loss and accuracy of the validation, and nothing else of what the Recorder keeps."""

    def before_validate(self) -> None:
        """Nothing is counted yet."""
        self.total, self.correct, self.samples = torch.zeros(()), torch.zeros(()), 0

    def after_batch(self) -> None:
        """Add a batch."""
        learn = self.learn
        if not learn.training:
            targets = learn.yb[0]
            self.total += learn.loss * len(targets)
            self.samples += len(targets)
            if not targets.is_floating_point():
                self.correct += (learn.pred.argmax(1) == targets).sum()


def as_documented(work: Workload, clock: Clock) -> Result:
    """As the guide for users of plain PyTorch has it: torch's DataLoaders, fastai's optimizer and metric."""
    adam = partial(Adam, sqr_mom=0.999, eps=1e-8, wd=0.0)  # torch's numbers
    metrics = [accuracy] if work.classifies else []
    dls, opt_func = DataLoaders(*torch_loaders(work)), SGD if work.optimizer == "SGD" else adam
    learn = Learner(dls, work.model(), loss_func=work.loss_func(), opt_func=opt_func, metrics=metrics)
    clock.start()
    with learn.no_bar(), learn.no_logging():
        learn.fit(work.epochs, lr=work.lr, cbs=Laps(clock))
    _, valid_loss, *rest = learn.recorder.values[-1]
    return Result(learn.train_iter, float(valid_loss), float(rest[0]) if rest else None, learn.model.state_dict())


def tuned(work: Workload, clock: Clock) -> Result:
    """No Recorder and no progress, torch's optimizer, and batches gathered whole."""
    opt_func, sums = partial(OptimWrapper, opt=work.opt_class()), Sums()
    cbs = [TrainEvalCallback(), sums, Laps(clock)]
    dls = DataLoaders(*gathered(work))
    options = {"opt_func": opt_func, "lr": work.lr, "default_cbs": False, "cbs": cbs}
    learn = Learner(dls, work.model(), loss_func=work.loss_func(), **options)
    clock.start()
    learn.fit(work.epochs, lr=work.lr)
    share = float(sums.correct) / sums.samples if work.classifies else None
    return Result(learn.train_iter, float(sums.total) / sums.samples, share, learn.model.state_dict())


if __name__ == "__main__":
    serve({"documented": as_documented, "tuned": tuned}, fastai.__version__)

"""Lightning: a LightningModule and a Trainer, with bar, loggers, checkpoints and summary off."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning
import torch
from torch import Tensor

from benchmarks.peers.wire import Clock, Result, serve
from benchmarks.peers.workloads import Workload, gathered, torch_loaders


class Module(lightning.LightningModule):  # type: ignore[misc]
    """The net with its steps; values are logged, as the documentation has it."""

    def __init__(self, work: Workload, clock: Clock) -> None:
        super().__init__()
        self.net, self.work, self.clock = work.model(), work, clock
        self.loss_func = work.loss_func()

    def training_step(self, batch: Any, index: int) -> Tensor:
        """The loss of a batch."""
        inputs, targets = batch
        return self.loss_func(self.net(inputs), targets)

    def validation_step(self, batch: Any, index: int) -> None:
        """Loss and accuracy of a batch, which Lightning averages over samples."""
        inputs, targets = batch
        preds = self.net(inputs)
        found = {"valid_loss": self.loss_func(preds, targets)}
        if self.work.classifies:
            found["accuracy"] = (preds.argmax(1) == targets).float().mean()
        self.log_dict(found, batch_size=len(targets))

    def on_train_epoch_end(self) -> None:
        """The validation is over by then."""
        self.clock.lap()

    def configure_optimizers(self) -> Any:
        """The optimizer of all parameters."""
        return self.work.opt(self.net)

    def values(self) -> tuple[float, float | None]:
        """Loss and accuracy of the last validation."""
        found = self.trainer.callback_metrics
        return float(found["valid_loss"]), float(found["accuracy"]) if self.work.classifies else None


class BareModule(Module):
    """The same without logging, which `barebones` takes away: the sums are kept here."""

    def on_validation_epoch_start(self) -> None:
        """Nothing is counted yet."""
        self.total, self.correct, self.samples = torch.zeros(()), torch.zeros(()), 0

    def validation_step(self, batch: Any, index: int) -> None:
        """Add a batch."""
        inputs, targets = batch
        preds = self.net(inputs)
        self.total += self.loss_func(preds, targets) * len(targets)
        if self.work.classifies:
            self.correct += (preds.argmax(1) == targets).sum()
        self.samples += len(targets)

    def values(self) -> tuple[float, float | None]:
        """Loss and accuracy of the last validation."""
        share = float(self.correct) / self.samples if self.work.classifies else None
        return float(self.total) / self.samples, share


def as_documented(work: Workload, clock: Clock) -> Result:
    """torch's DataLoaders and `self.log`."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return fit(work, clock, Module(work, clock), torch_loaders(work), enable_model_summary=False, **quiet)


def tuned(work: Workload, clock: Clock) -> Result:
    """`barebones=True`, and batches gathered whole."""
    return fit(work, clock, BareModule(work, clock), gathered(work), barebones=True)


def fit(work: Workload, clock: Clock, module: Any, loaders: tuple[Any, Any], **options: Any) -> Result:
    """A Trainer on the CPU, in one process."""
    trainer = lightning.Trainer(max_epochs=work.epochs, accelerator="cpu", devices=1, num_sanity_val_steps=0, **options)
    clock.start()
    trainer.fit(module, *loaders)
    valid_loss, accuracy = module.values()
    return Result(trainer.global_step, valid_loss, accuracy, module.net.state_dict())


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # advice on worker processes, which data in memory do not need
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    serve({"documented": as_documented, "tuned": tuned}, lightning.__version__)

"""TensorBoard: a run's curves, weights and gradients, first pictures, graph and settings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clearloop import rng
from clearloop.callbacks.logger import Logger, folder_for, package, settings

if TYPE_CHECKING:
    from clearloop.learner import Learner

PICTURES = 16


class TensorBoard(Logger):
    """Writes event files for TensorBoard (`pip install "clearloop[tensorboard]"`; `tensorboard --logdir runs`).

    Scalars as every logger; after each epoch histograms of the weights and of the gradients of the epoch's first
    batch, before clipping; at the start of a run the first pictures, if the inputs are pictures, and the model's
    graph, if torch can trace it; the settings as hyper-parameters, with the last results.

    Args:
        every: steps between two losses; None leaves them out.
        histograms: whether weights and gradients are written.
        folder: event files go into `tensorboard/` in it; in the run's own when None.
    """

    def __init__(self, every: int | None = 50, histograms: bool = True, folder: str | Path | None = None) -> None:
        super().__init__(every)
        self.histograms = histograms
        self._folder = folder  # private: where output goes is no part of what a run is
        self._writer: Any = None
        self._gradients: dict[str, Tensor] = {}
        self._scale = 1.0  # by which the losses behind these gradients were multiplied
        self._hooks: list[Any] = []

    def open(self, learn: Learner) -> None:
        """New event files; TensorBoard leaves out what an earlier process wrote beyond where this one begins."""
        with rng.preserved():
            writer = package("torch.utils.tensorboard", "tensorboard").SummaryWriter
        steps = learn.history.steps
        path = folder_for(learn, self._folder, "TensorBoard") / "tensorboard"
        self._writer = writer(str(path), purge_step=steps + 1 if steps else None)
        if not steps:
            self._show_inputs(learn)

    def before_epoch(self, learn: Learner) -> None:
        """Have the gradients of the next batch kept."""
        self._let_go()
        if self.histograms and self._writer is not None:
            self._scale = 1.0 if learn.scaler is None else learn.scaler.get_scale()
            for name, parameter in learn.model.named_parameters():
                if parameter.requires_grad:
                    self._hooks.append(parameter.register_hook(self._keeping(name)))

    def after_step(self, learn: Learner) -> None:
        """Write the loss; gradients are kept once only."""
        self._let_go()
        super().after_step(learn)

    def write(self, values: dict[str, float], step: int, epoch: int) -> None:
        """Scalars by their names."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def look(self, learn: Learner) -> None:
        """Histograms; then all is handed to the disk."""
        if self.histograms:
            weights = {f"weights/{name}": parameter for name, parameter in learn.model.named_parameters()}
            kept = {f"gradients/{name}": gradient / self._scale for name, gradient in self._gradients.items()}
            for name, tensor in (weights | kept).items():
                finite = tensor.detach().float().cpu()
                if finite.numel() and bool(torch.isfinite(finite).all()):
                    self._writer.add_histogram(name, finite, learn.history.steps)
            self._gradients = {}
        self._writer.flush()

    def close(self, learn: Learner) -> None:
        """Settings with the last results, then the end."""
        self._let_go()
        if learn.history.epochs:
            from torch.utils.tensorboard.summary import hparams

            last = learn.history.epochs[-1]
            results = {"train_loss": last.train_loss, "valid_loss": last.valid_loss, **last.metrics}
            known = {f"result/{name}": value for name, value in results.items() if value is not None}
            for summary in hparams(settings(learn), known):
                self._writer.file_writer.add_summary(summary)
        self._writer.close()
        self._writer = None

    def abandon(self) -> None:
        """Take the hooks off the model, and end the writer as far as it can be ended."""
        self._let_go()
        self._gradients, writer, self._writer = {}, self._writer, None
        if writer is not None:
            writer.close()

    def _keeping(self, name: str) -> Any:
        def keep(gradient: Tensor) -> None:
            if name not in self._gradients:
                self._gradients[name] = gradient.detach().clone()

        return keep

    def _let_go(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _show_inputs(self, learn: Learner) -> None:
        """The first batch's pictures, and the graph of the model; neither leaves a trace in training."""
        inputs, _ = learn.prepared().example
        if isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.shape[1] in (1, 3):
            pictures = inputs[:PICTURES].detach().float().cpu()
            low, high = pictures.amin(), pictures.amax()
            self._writer.add_images("inputs", (pictures - low) / (high - low).clamp_min(1e-12), 0)
        with learn.evaluation(()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's tracing is deprecated, and TensorBoard's graph is made by it
            try:
                self._writer.add_graph(learn.model, inputs)
            except Exception as error:  # whatever a model does that tracing cannot follow: the graph alone is missing
                self._writer.add_text("graph", f"the model's graph cannot be traced: {type(error).__name__}", 0)

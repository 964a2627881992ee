"""Batch norm over the samples of all processes, rather than of each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clearloop.callback import Callback
from clearloop.errors import ConfigError

if TYPE_CHECKING:
    from clearloop.learner import Learner


class SyncBatchNorm(Callback):
    """Puts torch's `nn.SyncBatchNorm` in the place of the model's batch norms, where several processes train on GPUs.

    Without it each process normalises its share of a batch by itself, which is faster, and as good where shares are
    large. Weights, names and checkpoints stay the same; one process is left as it is.

    Raises: ConfigError, before the first step, for several processes on CPUs, where torch has no such layer.

    >>> SyncBatchNorm().order
    -100
    """

    order = -100  # before others look at the model's modules

    def before_fit(self, learn: Learner) -> None:
        """Exchange the modules, once."""
        if learn.team.world_size == 1:
            return
        if learn.device.type != "cuda":
            raise ConfigError(f"SyncBatchNorm needs GPUs, the device is {learn.device}; leave it out on CPUs")
        for parent in learn.model.modules():
            for name, child in parent.named_children():
                if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                    setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))

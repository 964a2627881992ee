"""The one import of a notebook: `from clearloop.notebook import *`.

It brings every public name of clearloop, torch and its usual short names, NumPy, pandas, matplotlib and Pillow under
the names that courses give them, and the small tools that courses lean on. It changes `pathlib.Path` for the whole
process, as fastcore does: paths gain `.ls()`, and show themselves relative to `Path.BASE_PATH` where that is set.
Nothing else in clearloop imports this module.
"""

from __future__ import annotations

import math
import os
import random
import re
import string
import sys
import time
from functools import partial, reduce
from itertools import chain, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from numpy import array
from PIL import Image
from torch import Tensor, nn, optim
from torch.optim import SGD, Adam

from clearloop import models
from clearloop.autograd_graph import graph
from clearloop.baselines import baseline
from clearloop.callback import Callback
from clearloop.callbacks.checkpoints import Checkpoints
from clearloop.callbacks.csv_logger import CSVLogger
from clearloop.callbacks.early_stopping import EarlyStopping
from clearloop.callbacks.ema import EMA
from clearloop.callbacks.mlflow import MLflow
from clearloop.callbacks.progress import Progress
from clearloop.callbacks.reconstructions import SaveReconstructions
from clearloop.callbacks.sync_batch_norm import SyncBatchNorm
from clearloop.callbacks.tensorboard import TensorBoard
from clearloop.callbacks.timing import Timing
from clearloop.callbacks.wandb import WandB
from clearloop.checking import check
from clearloop.data.cache import cached_pictures, prune_pictures
from clearloop.data.dataset import Dataset, Subset, TensorDataset, random_split
from clearloop.data.idx import read_idx
from clearloop.data.images import ImageDataLoaders
from clearloop.data.loader import DataLoader
from clearloop.data.loaders import DataLoaders, get_dls
from clearloop.data.mnist import get_data, mnist
from clearloop.data.sample import URLs, untar_data
from clearloop.data.tables import TableDataLoaders
from clearloop.distributed import resumable
from clearloop.drawing import gv
from clearloop.errors import (
    CheckpointError,
    ClearloopError,
    ConfigError,
    DataError,
    EjectError,
    ModelError,
    NonFiniteError,
    RunError,
    StorageError,
)
from clearloop.exporting import export
from clearloop.history import History
from clearloop.interpret import class_table, confusion_matrix, residuals, show_batch, show_results, top_losses
from clearloop.interpretation import Interpretation
from clearloop.learner import Learner
from clearloop.losses import mnist_loss, soft_cross_entropy
from clearloop.metrics import Metric, accuracy, error_rate, mae, mse, r2_score, rmse, top_k_accuracy
from clearloop.model_summary import summary
from clearloop.models import resnet18, resnet34, resnet50
from clearloop.notebook2script import notebook2script
from clearloop.pictures import plot_function, show_image, to_np
from clearloop.predictor import Predictor
from clearloop.reconstruct import embedding, reconstructions
from clearloop.report import write_report
from clearloop.row_predictions import predict_rows
from clearloop.rungs.fit import fit
from clearloop.schedules import TorchSchedule, constant, cosine, one_cycle
from clearloop.searching.search import search
from clearloop.searching.space import Choice, Integer, Range
from clearloop.sweeping.training import sweep
from clearloop.tabular import table_learner
from clearloop.vision import cnn_learner, vision_learner

try:
    import fastcore.xtras  # noqa: F401  gives paths their .ls() and their repr
    import jinja2  # noqa: F401  what a DataFrame's .style needs
    import pandas as pd
    from fastcore.basics import first
    from fastcore.foundation import L
    from fastcore.test import test_close, test_eq, test_fail, test_ne
except ImportError as error:  # a package that is missing or too old; the error names it
    raise ConfigError(f'clearloop.notebook needs more packages ({error}): pip install "clearloop[notebook]"') from error

__all__ = [
    "EMA",
    "SGD",
    "Adam",
    "CSVLogger",
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "Choice",
    "ClearloopError",
    "ConfigError",
    "DataError",
    "DataLoader",
    "DataLoaders",
    "Dataset",
    "EarlyStopping",
    "EjectError",
    "F",
    "History",
    "Image",
    "ImageDataLoaders",
    "Integer",
    "Interpretation",
    "L",
    "Learner",
    "MLflow",
    "Metric",
    "ModelError",
    "NonFiniteError",
    "Path",
    "Predictor",
    "Progress",
    "Range",
    "RunError",
    "SaveReconstructions",
    "StorageError",
    "Subset",
    "SyncBatchNorm",
    "TableDataLoaders",
    "Tensor",
    "TensorBoard",
    "TensorDataset",
    "Timing",
    "TorchSchedule",
    "URLs",
    "WandB",
    "accuracy",
    "array",
    "attrgetter",
    "baseline",
    "cached_pictures",
    "chain",
    "check",
    "class_table",
    "cnn_learner",
    "confusion_matrix",
    "constant",
    "cosine",
    "embedding",
    "error_rate",
    "export",
    "first",
    "fit",
    "get_data",
    "get_dls",
    "graph",
    "gv",
    "islice",
    "itemgetter",
    "mae",
    "math",
    "matplotlib",
    "mnist",
    "mnist_loss",
    "models",
    "mpl",
    "mse",
    "nn",
    "notebook2script",
    "np",
    "one_cycle",
    "optim",
    "os",
    "partial",
    "pd",
    "plot_function",
    "plt",
    "predict_rows",
    "prune_pictures",
    "r2_score",
    "random",
    "random_split",
    "re",
    "read_idx",
    "reconstructions",
    "reduce",
    "residuals",
    "resnet18",
    "resnet34",
    "resnet50",
    "resumable",
    "rmse",
    "search",
    "show_batch",
    "show_image",
    "show_results",
    "soft_cross_entropy",
    "string",
    "summary",
    "sweep",
    "sys",
    "table_learner",
    "tensor",
    "test_close",
    "test_eq",
    "test_fail",
    "test_ne",
    "test_near",
    "time",
    "to_np",
    "top_k_accuracy",
    "top_losses",
    "torch",
    "untar_data",
    "vision_learner",
    "write_report",
]

matplotlib = mpl


def tensor(
    data: Any,
    *more: Any,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A plain tensor of a picture, an array, a (nested) list, a DataFrame or numbers; a tensor is handed back as it is.

    Several arguments are the items of a list; tensors in a list are stacked. NumPy's float64 become torch's default,
    float32, unless `dtype` says otherwise; bytes stay bytes.

    >>> tensor(1, 2, 3), tensor(array([0.5])).dtype, tensor(Image.new("L", (2, 1)))
    (tensor([1, 2, 3]), torch.float32, tensor([[0, 0]], dtype=torch.uint8))
    """
    if more:
        data = [data, *more]
    if isinstance(data, (L, range)):
        data = list(data)
    rows = data if isinstance(data, (list, tuple)) else []
    if rows and all(isinstance(row, Tensor) for row in rows):
        data = torch.stack([row.detach() for row in rows])
    if isinstance(data, Tensor):
        made = torch.as_tensor(data, dtype=dtype, device=device)
        return made.detach().requires_grad_() if requires_grad else made
    if not isinstance(data, (list, tuple, int, float, complex)) or any(isinstance(row, np.ndarray) for row in rows):
        data = np.array(data)  # a copy, which may be written to; torch is slow with lists of arrays
    made = torch.tensor(data, dtype=dtype, device=device)
    if dtype is None and made.dtype == torch.float64:
        made = made.to(torch.get_default_dtype())
    return made.requires_grad_(requires_grad)


def test_near(a: Any, b: Any) -> None:
    """Fail with an AssertionError unless tensors, arrays or numbers agree to a thousandth (near 0, to 1e-5).

    >>> test_near(tensor(1.0, 2.0), [1.0001, 2.0])
    """
    left, right = (np.asarray(to_np(side), dtype=np.float64) for side in (a, b))
    np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5, equal_nan=False)


def brief(items: Any) -> str:
    """A list's length and its first ten items, or all where there are no more.

    >>> brief(L(range(12))), brief(L(1, 2))
    ('(#12) [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …]', '(#2) [1, 2]')
    """
    shown = ", ".join(map(repr, items[:10]))
    return f"(#{len(items)}) [{shown}{', …' if len(items) > 10 else ''}]"


def show_brief(items: Any, printer: Any, cycle: bool) -> None:
    """`brief`, as IPython calls it."""
    printer.text(brief(items))


if "IPython" in sys.modules:  # in a notebook an L is shown in brief: fastcore shows the first 250 items
    shell = sys.modules["IPython"].get_ipython()
    if shell is not None:
        shell.display_formatter.formatters["text/plain"].for_type(L, show_brief)

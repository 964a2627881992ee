"""clearloop: mini-batch training for PyTorch that you can see through.

Names are imported when they are first used, so that `import clearloop` and `clearloop --help` cost next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearloop import models as models
    from clearloop.autograd_graph import graph as graph
    from clearloop.baselines import baseline as baseline
    from clearloop.callback import Callback as Callback
    from clearloop.callbacks.checkpoints import Checkpoints as Checkpoints
    from clearloop.callbacks.csv_logger import CSVLogger as CSVLogger
    from clearloop.callbacks.early_stopping import EarlyStopping as EarlyStopping
    from clearloop.callbacks.ema import EMA as EMA
    from clearloop.callbacks.mlflow import MLflow as MLflow
    from clearloop.callbacks.progress import Progress as Progress
    from clearloop.callbacks.reconstructions import SaveReconstructions as SaveReconstructions
    from clearloop.callbacks.sync_batch_norm import SyncBatchNorm as SyncBatchNorm
    from clearloop.callbacks.tensorboard import TensorBoard as TensorBoard
    from clearloop.callbacks.timing import Timing as Timing
    from clearloop.callbacks.wandb import WandB as WandB
    from clearloop.checking import check as check
    from clearloop.data.cache import cached_pictures as cached_pictures
    from clearloop.data.cache import prune_pictures as prune_pictures
    from clearloop.data.dataset import Dataset as Dataset
    from clearloop.data.dataset import Subset as Subset
    from clearloop.data.dataset import TensorDataset as TensorDataset
    from clearloop.data.dataset import random_split as random_split
    from clearloop.data.idx import read_idx as read_idx
    from clearloop.data.images import ImageDataLoaders as ImageDataLoaders
    from clearloop.data.loader import DataLoader as DataLoader
    from clearloop.data.loaders import DataLoaders as DataLoaders
    from clearloop.data.loaders import get_dls as get_dls
    from clearloop.data.mnist import get_data as get_data
    from clearloop.data.mnist import mnist as mnist
    from clearloop.data.sample import URLs as URLs
    from clearloop.data.sample import untar_data as untar_data
    from clearloop.data.tables import TableDataLoaders as TableDataLoaders
    from clearloop.distributed import resumable as resumable
    from clearloop.errors import CheckpointError as CheckpointError
    from clearloop.errors import ClearloopError as ClearloopError
    from clearloop.errors import ConfigError as ConfigError
    from clearloop.errors import DataError as DataError
    from clearloop.errors import EjectError as EjectError
    from clearloop.errors import ModelError as ModelError
    from clearloop.errors import NonFiniteError as NonFiniteError
    from clearloop.errors import RunError as RunError
    from clearloop.errors import StorageError as StorageError
    from clearloop.exporting import export as export
    from clearloop.history import History as History
    from clearloop.interpret import class_table as class_table
    from clearloop.interpret import confusion_matrix as confusion_matrix
    from clearloop.interpret import residuals as residuals
    from clearloop.interpret import show_batch as show_batch
    from clearloop.interpret import show_results as show_results
    from clearloop.interpret import top_losses as top_losses
    from clearloop.interpretation import Interpretation as Interpretation
    from clearloop.learner import Learner as Learner
    from clearloop.losses import mnist_loss as mnist_loss
    from clearloop.losses import soft_cross_entropy as soft_cross_entropy
    from clearloop.metrics import Metric as Metric
    from clearloop.metrics import accuracy as accuracy
    from clearloop.metrics import error_rate as error_rate
    from clearloop.metrics import mae as mae
    from clearloop.metrics import mse as mse
    from clearloop.metrics import r2_score as r2_score
    from clearloop.metrics import rmse as rmse
    from clearloop.metrics import top_k_accuracy as top_k_accuracy
    from clearloop.model_summary import summary as summary
    from clearloop.predictor import Predictor as Predictor
    from clearloop.reconstruct import embedding as embedding
    from clearloop.reconstruct import reconstructions as reconstructions
    from clearloop.report import write_report as write_report
    from clearloop.row_predictions import predict_rows as predict_rows
    from clearloop.rungs.fit import fit as fit
    from clearloop.schedules import TorchSchedule as TorchSchedule
    from clearloop.schedules import constant as constant
    from clearloop.schedules import cosine as cosine
    from clearloop.schedules import one_cycle as one_cycle
    from clearloop.searching.search import search as search
    from clearloop.searching.space import Choice as Choice
    from clearloop.searching.space import Integer as Integer
    from clearloop.searching.space import Range as Range
    from clearloop.sweeping.training import sweep as sweep
    from clearloop.tabular import table_learner as table_learner
    from clearloop.vision import cnn_learner as cnn_learner
    from clearloop.vision import vision_learner as vision_learner

_HOME = {  # where each public name lives
    "CSVLogger": "callbacks.csv_logger",
    "Callback": "callback",
    "CheckpointError": "errors",
    "Checkpoints": "callbacks.checkpoints",
    "Choice": "searching.space",
    "ClearloopError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "DataLoader": "data.loader",
    "DataLoaders": "data.loaders",
    "Dataset": "data.dataset",
    "EMA": "callbacks.ema",
    "EarlyStopping": "callbacks.early_stopping",
    "EjectError": "errors",
    "History": "history",
    "ImageDataLoaders": "data.images",
    "Integer": "searching.space",
    "Interpretation": "interpretation",
    "Learner": "learner",
    "MLflow": "callbacks.mlflow",
    "Metric": "metrics",
    "ModelError": "errors",
    "NonFiniteError": "errors",
    "Predictor": "predictor",
    "Progress": "callbacks.progress",
    "Range": "searching.space",
    "RunError": "errors",
    "SaveReconstructions": "callbacks.reconstructions",
    "StorageError": "errors",
    "SyncBatchNorm": "callbacks.sync_batch_norm",
    "Subset": "data.dataset",
    "TableDataLoaders": "data.tables",
    "TensorBoard": "callbacks.tensorboard",
    "TensorDataset": "data.dataset",
    "Timing": "callbacks.timing",
    "TorchSchedule": "schedules",
    "URLs": "data.sample",
    "WandB": "callbacks.wandb",
    "accuracy": "metrics",
    "baseline": "baselines",
    "cached_pictures": "data.cache",
    "check": "checking",
    "class_table": "interpret",
    "cnn_learner": "vision",
    "confusion_matrix": "interpret",
    "constant": "schedules",
    "cosine": "schedules",
    "embedding": "reconstruct",
    "error_rate": "metrics",
    "export": "exporting",
    "fit": "rungs.fit",
    "get_data": "data.mnist",
    "get_dls": "data.loaders",
    "graph": "autograd_graph",
    "mae": "metrics",
    "mnist": "data.mnist",
    "mnist_loss": "losses",
    "models": "models",
    "mse": "metrics",
    "one_cycle": "schedules",
    "predict_rows": "row_predictions",
    "prune_pictures": "data.cache",
    "r2_score": "metrics",
    "random_split": "data.dataset",
    "read_idx": "data.idx",
    "reconstructions": "reconstruct",
    "residuals": "interpret",
    "resumable": "distributed",
    "rmse": "metrics",
    "search": "searching.search",
    "show_batch": "interpret",
    "show_results": "interpret",
    "soft_cross_entropy": "losses",
    "summary": "model_summary",
    "sweep": "sweeping.training",
    "table_learner": "tabular",
    "top_k_accuracy": "metrics",
    "top_losses": "interpret",
    "untar_data": "data.sample",
    "vision_learner": "vision",
    "write_report": "report",
}

__all__ = sorted(_HOME)  # sorted by construction


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clearloop' has no attribute {name!r}")
    module = import_module(f"clearloop.{_HOME[name]}")
    value = module if name == "models" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)

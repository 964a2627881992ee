"""A Learner from a recipe: the parts that the recipe describes, except those that are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clearloop import rng
from clearloop.adapters import as_schedule
from clearloop.buildable import build
from clearloop.learner import Learner
from clearloop.recipe import Recipe
from clearloop.schedules import Schedule, TorchSchedule

CHECKPOINTS = "clearloop.callbacks.checkpoints:Checkpoints"


def build_learner(recipe: Recipe, parts: Mapping[str, Any], run: Path | None = None) -> Learner:
    """Make the Learner that `recipe` describes; the model's weights come from the recipe's seed.

    Args: `parts`, arguments of Learner that replace what the recipe says; `run`, the folder that the run lives in now.
    Raises: ConfigError naming the part that the recipe cannot build.
    """
    given = {name: part for name, part in parts.items() if part is not None}
    with rng.preserved():
        torch.manual_seed(recipe.seed)
        model = given["model"] if "model" in given else build(recipe.model, "model")
    learn = Learner(
        given["dls"] if "dls" in given else build(recipe.data, "data"),
        model,
        given["loss_func"] if "loss_func" in given else build(recipe.loss_func, "loss"),
        given["opt_func"] if "opt_func" in given else build(recipe.opt_func, "optimizer"),
        recipe.lr,
        given["metrics"] if "metrics" in given else [build(name, "metric") for name in recipe.metrics],
        given["cbs"] if "cbs" in given else [_callback(callback, run) for callback in recipe.callbacks],
        seed=recipe.seed,
        device=given.get("device", recipe.device),
        precision=recipe.precision,
        clip=recipe.clip,
        accumulate=recipe.accumulate,
        fast=recipe.fast,
    )
    learn.threads = recipe.threads
    return learn


def _callback(description: Any, run: Path | None) -> Any:
    """A callback; the one that keeps checkpoints goes where the run is now, not where it once was."""
    if isinstance(description, Mapping) and description.get("path") == CHECKPOINTS and run is not None:
        description = {**description, "kwargs": {**description.get("kwargs", {}), "path": str(run)}}
    return build(description, "callback")


def schedule_of(plan: Mapping[str, Any]) -> Schedule | TorchSchedule | None:
    """The schedule of an interrupted fit. Raises ConfigError for one that its description cannot build."""
    if plan["schedule"] is None:
        return None
    built = build(plan["schedule"], "schedule")
    return TorchSchedule(built, plan["per"]) if plan["per"] is not None else as_schedule(built)

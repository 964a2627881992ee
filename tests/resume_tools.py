"""What the tests of resuming share: small runs, ways to stop them, and the bytes that a run ends with."""

import dataclasses
import hashlib
import json
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clearloop as cl
from clearloop import durable, models, packing
from clearloop.saving import records_of
from clearloop.weights import named_tensors

SAMPLES, FEATURES, CLASSES, BATCH_SIZE = 37, 6, 3, 8  # five batches an epoch, the last of five samples


class Crash(Exception):
    """A failure in the middle of training: nothing is saved after it."""


class NoWait(durable.FileSystem):
    """Does not wait for the disk: a process that dies loses nothing that it has written, only a power cut does."""

    def fsync(self, path):
        pass


# -- data and models --------------------------------------------------------------------------------------------------


def arrays(samples=SAMPLES):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, FEATURES, generator=generator)
    return x, (x @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(1)


def tensor_data(samples=SAMPLES, **options):
    x, y = arrays(samples)
    train = cl.DataLoader(cl.TensorDataset(x, y), BATCH_SIZE, shuffle=True, seed=3, **options)
    return cl.DataLoaders(train, cl.DataLoader(cl.TensorDataset(x[:20], y[:20]), BATCH_SIZE))


class RandomItems:
    """Single items, each with noise from all three generators."""

    def __init__(self, samples):
        self.x, self.y = arrays(samples)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = np.random.normal() + random.gauss(0, 1) + torch.randn(FEATURES)
        return self.x[index] + 0.1 * noise.float(), self.y[index]


def item_data(workers=0, **options):
    train = cl.DataLoader(RandomItems(SAMPLES), BATCH_SIZE, shuffle=True, seed=3, num_workers=workers, **options)
    return cl.DataLoaders(train, cl.DataLoader(RandomItems(20), BATCH_SIZE, seed=4))


class Noisy(nn.Module):
    """Draws from Python's, NumPy's and torch's generators, also when it is evaluated; an odd number of gaussians, so
    that some are left in the generators' own stores."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        x = x * (1 + 0.1 * random.gauss(0, 1)) + 0.1 * float(np.random.normal()) + 0.1 * torch.randn(x.shape)
        return self.layer(x)


class Remembering(nn.Module):
    """Keeps a running mean in a buffer that is not part of `state_dict`."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("mean", torch.zeros(FEATURES), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.mean(0), 0.3)
        return self.layer(x - self.mean)


class TwoInputs(nn.Module):
    """Takes two tensors, which no predictor does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2 * FEATURES, CLASSES)

    def forward(self, first, second):
        return self.layer(torch.cat([first, second], 1))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.second.weight = self.first.weight
        self.last = nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).relu())


def dropout_net():
    return models.mlp(FEATURES, 8, CLASSES, dropout=0.5)


def batch_norm_net():
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


# -- a run, and how it is stopped -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One kind of run. What a recipe cannot build is given to `load` again: `own` names those parts."""

    name: str
    opt_func: Callable[..., Any] = torch.optim.SGD
    lr: float = 0.05
    epochs: int = 3
    model: Callable[[], nn.Module] = dropout_net
    data: Callable[[], Any] = tensor_data
    schedule: Callable[[int], Any] = lambda total_steps: None
    cbs: Callable[[], list[cl.Callback]] = list
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    every: Any = 2
    seed: int = 11
    own: tuple[str, ...] = ()

    def learner(self, path):
        torch.manual_seed(7)
        model = self.model()
        callbacks = self.cbs() + ([] if path is None else [cl.Checkpoints(path, every=self.every)])
        return cl.Learner(
            self.data(), model, F.cross_entropy, self.opt_func, metrics=cl.accuracy, cbs=callbacks,
            seed=self.seed, **self.options,
        )  # fmt: skip

    def fit(self, learn):
        total_steps = self.epochs * learn.steps_per_epoch
        learn.fit(self.epochs, self.lr, schedule=self.schedule(total_steps), quiet=True)

    def load(self, path, **options):
        torch.manual_seed(99)  # a process that resumes has other random states of its own
        random.seed(99)
        np.random.seed(99)
        parts = {"model": self.model, "data": self.data}
        given = {"dls" if name == "data" else name: parts[name]() for name in ("data", *self.own) if name in parts}
        if "opt_func" in self.own:
            given["opt_func"] = self.opt_func
        return cl.Learner.load(path, **given, **options)

    def resume(self, learn):
        total_steps = self.epochs * learn.steps_per_epoch
        again = self.schedule(total_steps) if "schedule" in self.own else None
        learn.resume(schedule=again, quiet=True)


class Stop(cl.Callback):
    """Ends a fit with `error` at `where`: a hook, or the middle of a forward pass, an update or a validation.

    `at` is the number of optimizer steps that the history then holds. KeyboardInterrupt comes as it does from a
    keyboard, as a signal.
    """

    recorded = False

    def __init__(self, where, at, error=Crash, order=1000):
        self.where, self.at, self.error, self.order = where, at, error, order
        self.done, self.evaluated = False, 0

    def attach(self, learn):
        learn.cbs.append(self)
        learn.model.register_forward_pre_hook(lambda model, inputs: self._forward(learn, model))
        learn.opt.register_step_post_hook(lambda *rest: self.reach(learn, "in_update"))

    def _forward(self, learn, model):
        if model.training:
            self.reach(learn, "in_forward")
        elif learn.history.steps == self.at:
            self.evaluated += 1
            self.reach(learn, "in_validation" if self.evaluated == 2 else "at its first batch")

    def reach(self, learn, where):
        if where == self.where and learn.history.steps == self.at and not self.done:
            self.end()

    def end(self):
        self.done = True
        if self.error is not KeyboardInterrupt:
            raise self.error(f"stopped in {self.where} at {self.at}")
        signal.raise_signal(signal.SIGINT)

    def before_epoch(self, learn):
        self.reach(learn, "before_epoch")

    def before_step(self, learn):
        self.reach(learn, "before_step")

    def after_step(self, learn):
        self.reach(learn, "after_step")

    def before_validate(self, learn):
        self.reach(learn, "before_validate")

    def after_validate(self, learn):
        self.reach(learn, "after_validate")

    def after_epoch(self, learn):
        self.reach(learn, "after_epoch")


class SpanStop(Stop):
    """The same without hooks of its own around steps, so that spans stay long; `at` counts forward passes."""

    before_step = cl.Callback.before_step
    after_step = cl.Callback.after_step
    passes = 0

    def reach(self, learn, where):
        self.passes += where == "in_forward"
        if where == self.where and self.passes == self.at and not self.done:
            self.end()


def interrupt(learn, stop, work):
    """Do `work`, which `stop` ends."""
    stop.attach(learn)
    with pytest.raises(stop.error):
        work(learn)
    assert stop.done


def finish_with_stops(case, path, stops):
    """The Learner of a run that was stopped at each of `stops`, and each time was loaded and went on."""
    work, learn = case.fit, case.learner(path)
    for stop in stops:
        interrupt(learn, stop, work)
        work, learn = case.resume, case.load(path)
    work(learn)
    return learn


# -- what a run ends with ---------------------------------------------------------------------------------------------


def sha256(tree):
    """SHA-256 of a state: its skeleton, and the bytes, type and shape of every tensor."""
    skeleton, tensors = packing.pack(tree)
    digest = hashlib.sha256(json.dumps(skeleton, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def is_stop(name):
    """Whether a callback of this name is one of the tests', of which a run knows nothing when it is loaded."""
    return name.split("-")[0].endswith("Stop")


def without_seconds(records):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def end_of(learn):
    """Weights, optimizer state, random states, schedule, callbacks and history, each as a hash."""
    states = learn.state_dict()
    callbacks = {name: state for name, state in states["callbacks"].items() if not is_stop(name)}
    return {
        "weights": sha256(named_tensors(learn.model)),
        "optimizer": sha256(states["optim"]),
        "random": sha256(states["random"]),
        "learner": sha256(states["learner"]),
        "callbacks": {name: sha256(state) for name, state in callbacks.items()},
        "history": sha256(without_seconds(records_of(learn.history, 0, 0))),
    }


def end_on_disk(path):
    """The same of a run's folder: its newest checkpoint file by file, history, predictor, and all names."""
    path = Path(path)
    newest = max((path / "checkpoints").glob("step-*"))
    files = durable.read_directory(newest)
    state = json.loads(files.pop("state.json"))
    state["callbacks"] = {name: kept for name, kept in state["callbacks"].items() if not is_stop(name)}
    position = state.pop("history")
    history = (path / "history.jsonl").read_bytes()
    assert position["bytes"] == len(history)
    found = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    found["state"] = state
    found["history"] = without_seconds(map(json.loads, history.splitlines()))
    if (path / "predictor").exists():
        predictor = durable.read_directory(path / "predictor")
        found["predictor"] = {name: hashlib.sha256(data).hexdigest() for name, data in predictor.items()}
    recipe = json.loads((path / "recipe.json").read_bytes())
    own = ("callbacks", "checksum", "created", "data")  # with paths, times and addresses in memory
    found["recipe"] = {name: part for name, part in recipe.items() if name not in own}
    names = {str(entry.relative_to(path)) for entry in path.rglob("*")}
    kept = {name for name in names if re.fullmatch(r"checkpoints/step-\d{8}(/.*)?|log\.txt|\.lock", name)}
    found["names"] = sorted(names - kept)  # no litter; how many checkpoints are kept depends on where a run stopped
    return found


def differences(found, expected):
    """Which parts of two ends differ: a comparison that says more than two hashes."""
    return {name for name in {**found, **expected} if found.get(name) != expected.get(name)}

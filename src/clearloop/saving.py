"""A Learner to a run directory and back: recipe, history, checkpoints, predictor."""

from __future__ import annotations

import datetime
import hashlib
import math
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from clearloop import distributed, durable, environment, metrics, packing, rng
from clearloop.adapters import by_name
from clearloop.component import describe
from clearloop.data.dataset import ItemDataset, Subset
from clearloop.data.loader import DataLoader, ForeignLoader
from clearloop.data.mapped import MappedDataset
from clearloop.errors import CheckpointError, ConfigError, ModelError, NonFiniteError, RunError, StorageError
from clearloop.history import EpochRecord, History
from clearloop.predictor import Predictor
from clearloop.preflight import chunks, stored
from clearloop.rebuild import description_of
from clearloop.recipe import Recipe
from clearloop.rundir import NO_HISTORY, RunDirectory
from clearloop.step import set_lr
from clearloop.weights import load_tensors, named_tensors, snapshot

if TYPE_CHECKING:
    from clearloop.learner import Learner

HASHED_WHOLE = 2**30  # bytes of data up to which every byte goes into the fingerprint
HASHED_MAPPED = 2**24  # bytes of mapped arrays, however large they are
GET_EXTRA_STATE = torch.nn.Module.get_extra_state
DIFF = "git.diff"  # what had changed since the commit that the recipe names
INITIAL = "initial"  # the weights before the first step, where the seed alone does not give them


class RunWriter:
    """Writes one Learner into one run directory, and knows how much of its history is there already."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.steps = self.epochs = 0  # records of each kind that the history file holds
        self.position: dict[str, Any] | None = None  # where to cut the file before writing on, after a load
        self._told = False  # that there is no predictor

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.run.path

    def begin(self, learn: Learner) -> None:
        """Write the recipe of a new run; make a loaded one ready to be written on."""
        with learn.interrupts.held(firmly=True):
            if self.position is not None:
                self.run.truncate_history(self.position)
                self.position = None
            if self.run.recipe.exists():
                former = self.run.read_recipe()
                now = {**former, **described(learn), "fits": learn.plans}  # parts may have been changed by a load
                now["processes"] = max(former.get("processes", 1), environment.processes())
                if now != former:
                    self.run.write_recipe(now)
                return
            recipe = recipe_of(learn, self._initial_weights(learn))
            diff = environment.git_diff() if (recipe.git_commit or "").endswith(environment.CHANGES) else None
            if diff:
                durable.write_file(self.path / DIFF, diff.encode("utf-8", "replace"))
            self.run.write_recipe(recipe.as_dict())

    def _initial_weights(self, learn: Learner) -> str:
        """Where the weights before the first step are to be had: from the seed, from a file, or no more."""
        weights = learn.first_weights if learn.history.steps else named_tensors(learn.model)
        if weights is None:
            return "unknown"
        if weights_come_from_seed(learn, weights):
            return "seed"
        packing.save(self.path / INITIAL, {"model": weights})
        return "file"

    def save(self, learn: Learner, keep: int = 2, best_step: int | None = None) -> Path:
        """Write the history's new records, then a checkpoint. Raises NonFiniteError rather than save what is lost."""
        extra = [name for name, m in learn.model.named_modules() if type(m).get_extra_state is not GET_EXTRA_STATE]
        if extra:
            raise CheckpointError(
                f"the module {extra[0]!r} keeps extra state, which no checkpoint holds; make it a buffer"
            )
        with learn.interrupts.held(firmly=True):  # file and what is known of it belong together
            states = learn.state_dict()
            records = records_of(learn.history, self.steps, self.epochs)  # looks at every loss first
            require_finite(states, learn)
            self.run.append_history(records)
            self.steps, self.epochs = learn.history.steps, len(learn.history.epochs)
            return self.run.save_checkpoint(learn.history.steps, states, keep, best_step)

    def save_predictor(self, learn: Learner) -> None:
        """Write what is needed to predict, in place of what was there; a model that cannot have it goes without.

        Raises NonFiniteError for weights that are lost, StorageError where the disk refuses.
        """
        require_finite(learn.state_dict(), learn)
        try:
            with learn.interrupts.held(firmly=True):
                Predictor.of(learn).save(self.path / "predictor")
        except StorageError:
            raise
        except (ConfigError, ModelError, RunError, RuntimeError, TypeError) as error:  # of a model that is not copied
            if not self._told:
                warnings.warn(f"the run goes on without a predictor: {error}", stacklevel=2)
            self._told = True

    def require_space(self, learn: Learner, keep: int) -> None:
        """Refuse to start where the disk has no room for the checkpoints that will be kept."""
        weights = sum(tensor.numel() * tensor.element_size() for tensor in named_tensors(learn.model).values())
        self.run.require_space((keep + 2) * 3 * weights + 2**20)  # weights and two moments, the best, the one in work


def save_run(learn: Learner, path: Path) -> Path:
    """`Learner.save`: a run directory of this moment, by one process. Raises RunError if `path` is another run."""
    if not learn.team.leads:
        return path
    if not learn.whole and learn.failure is not None:
        raise RunError("the fit ended in the middle of a step: what could be saved now would not go on exactly")
    writer = learn.run
    if writer is None or writer.path.resolve() != path.resolve():
        writer = RunWriter(RunDirectory.create(path))
    learn.run = learn.run or writer
    checks: Any = by_name(learn.cbs).get("Checkpoints")
    keep, best = (2, None) if checks is None else (checks.keep, checks.best_step)
    with learn.interrupts.installed(), learn.interrupts.held(firmly=True), writer.run.lock():
        writer.begin(learn)
        writer.save_predictor(learn)
        writer.save(learn, keep, best)
    return path


def load_run(path: Path, at: Literal["last", "best"] | int, parts: dict[str, Any]) -> Learner:
    """`Learner.load`: build what the recipe says, except the parts given, and take back a checkpoint.

    Of several processes, the first reads the folder, and sends the others what is in it.
    """
    from clearloop.build import build_learner

    run, team = RunDirectory(path), distributed.join()
    recipe = Recipe.read(team.share(lambda: RunDirectory.open(path).read_recipe()), str(run.recipe))
    learn = build_learner(recipe, parts, path)
    check_fingerprint(learn, recipe)
    learn.first_weights = first_weights(run, recipe, learn) if team.leads else None
    if at == "last":
        loaded = team.share(lambda: run.load_newest(lambda line: warnings.warn(line, stacklevel=6)))
    else:
        loaded = team.share(lambda: run.load_step(best_step(run) if at == "best" else at))
    learn.run = RunWriter(run)
    if loaded is None:
        begin_again(learn, recipe)
    else:
        _, states, records = loaded
        learn.load_state_dict(states, history_from(records))
        learn.run.steps, learn.run.epochs = learn.history.steps, len(learn.history.epochs)
        learn.run.position = states["history"]
    check_batches(learn, recipe)
    return learn


def first_weights(run: RunDirectory, recipe: Recipe, learn: Learner) -> dict[str, torch.Tensor] | None:
    """The weights that a loaded run began with; None where they are not known."""
    if recipe.initial_weights == "file":
        weights: dict[str, torch.Tensor] = packing.load(run.path / INITIAL)["model"]
        return weights
    present = snapshot(learn.model)  # just built, from the seed if they come from there
    return present if recipe.initial_weights == "seed" and weights_come_from_seed(learn, present) else None


def begin_again(learn: Learner, recipe: Recipe) -> None:
    """Make ready for its first step a run that was killed before its first checkpoint was whole.

    Raises RunError where there is a history, whose checkpoints must have been removed, or the weights are unknown.
    """
    assert learn.run is not None
    path, fits, run = learn.run.path, recipe.fits, learn.run.run
    begun = learn.team.share(lambda: run.history_position() != NO_HISTORY)
    if recipe.initial_weights == "unknown" or len(fits) != 1 or begun:
        raise RunError(f"{path}: expected a checkpoint of a run that has taken steps, got none; restore a backup")
    if recipe.initial_weights == "file":
        load_tensors(learn.model, learn.team.share(lambda: packing.load(path / INITIAL)["model"]))
    learn.plans = fits
    set_lr(learn.opt, learn.plan["lr"])


def recipe_of(learn: Learner, initial_weights: str = "unknown") -> Recipe:
    """What the run of a Learner is, as plain data."""
    return Recipe(
        **described(learn),
        fits=learn.plans,
        initial_weights=initial_weights,
        fingerprint={"train": fingerprint(learn.dls.train), "valid": fingerprint(learn.dls.valid)},
        versions=environment.versions(),
        git_commit=environment.git_commit(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        processes=environment.processes(),
    )


def described(learn: Learner) -> dict[str, Any]:
    """The parts of a Learner as plain data: each by import path and arguments, or by source."""
    learn.prepared()
    parts: dict[str, Any] = {"data": learn.dls, "device": str(learn.device)}
    parts["callbacks"] = [callback for callback in learn.cbs if callback.recorded]
    ours = [getattr(metrics, metric.name, None) is metric or metric.name.startswith("top_") for metric in learn.metrics]
    named = zip(learn.metrics, ours, strict=True)  # a user's own may have the name of one of ours
    parts["metrics"] = [metric.name if own else {"name": metric.name, "repr": repr(metric)} for metric, own in named]
    names = ["loss_func", "opt_func", "lr", "seed", "precision", "clip", "accumulate", "fast", "threads"]
    parts |= {name: getattr(learn, name) for name in names}
    return {"model": description_of(learn.model), **{name: describe(part) for name, part in parts.items()}}


def best_step(run: RunDirectory) -> int:
    """The step of the checkpoint that did best, as the newest checkpoint knows it."""
    loaded = run.load_newest(lambda line: None)
    best = None if loaded is None else loaded[1]["callbacks"].get("Checkpoints", {}).get("best_step")
    if best is None:
        raise ConfigError(f"{run.path}: no best checkpoint is known; load the last one")
    return int(best)


def history_from(records: list[dict[str, Any]]) -> History:
    """The history that `records` of a run directory describe; floats that are not finite come as strings."""
    history = History()
    for record in records:
        values = {name: value for name, value in record.items() if name != "kind"}
        if record["kind"] == "epoch":
            found = {name: float(value) for name, value in values.pop("metrics").items()}
            loss = values.pop("valid_loss")
            history.epochs.append(
                EpochRecord(valid_loss=None if loss is None else float(loss), metrics=found, **values)
            )
        else:
            history.losses.append(values["loss"])
            history.lrs.append(values["lr"])
            history.counts.append(values["count"])
    return history


def records_of(history: History, steps_from: int, epochs_from: int) -> list[dict[str, Any]]:
    """Plain data, one dict an epoch and one a step, in the order of time, from the given counts on."""
    history.look()
    rows: list[tuple[int, int, dict[str, Any]]] = []
    for step in range(steps_from, len(history.losses)):
        count = float(history.counts[step])
        row = {"kind": "step", "step": step, "loss": history.losses[step], "lr": history.lrs[step], "count": count}
        rows.append((step, 0, row))
    rows += [(record.steps - 1, 1, {"kind": "epoch", **asdict(record)}) for record in history.epochs[epochs_from:]]
    return [row for *_, row in sorted(rows, key=lambda entry: entry[:2])]


def require_finite(states: dict[str, Any], learn: Learner) -> None:
    """Raise NonFiniteError, naming the tensor, if weights or optimizer state hold NaN or infinity."""
    optim = states["optim"]["state"]
    tensors = {**states["model"], **{f"{key} of {name}": v for name, kept in optim.items() for key, v in kept.items()}}
    lost = packing.first_nonfinite({name: t for name, t in tensors.items() if isinstance(t, torch.Tensor)})
    if lost is not None:
        at = f"{learn.history.steps - 1}"
        at += f" (learning rate {learn.history.lrs[-1]:.3g})" if learn.history.lrs else ""
        raise NonFiniteError(
            f"{lost} holds NaN or infinity after step {at}, though the losses up to then were finite; nothing was "
            "saved after it. Try a smaller learning rate or clip=1.0"
        )


def weights_come_from_seed(learn: Learner, weights: dict[str, torch.Tensor]) -> bool:
    """Whether `torch.manual_seed(seed)` and building the model as its recipe says gives these weights."""
    from clearloop.buildable import build

    with rng.preserved():
        torch.manual_seed(learn.seed)
        try:
            model = build(description_of(learn.model), "model")
        except ConfigError:
            return False
    built = named_tensors(model)
    return built.keys() == weights.keys() and all(torch.equal(built[name], weights[name].cpu()) for name in built)


def fingerprint(loader: Any) -> dict[str, Any] | None:
    """What the data are, so that a run is not resumed on others: counts, shapes and a SHA-256 of the values.

    Tensors in memory are hashed whole up to 1 GiB, by evenly spaced samples above; mapped arrays by evenly spaced
    samples of 16 MiB in all; other data are only counted.
    """
    if loader is None or isinstance(loader, ForeignLoader):
        return None
    found: dict[str, Any] = {"samples": len(loader.dataset)}
    tensors, rows = stored(loader)
    if not tensors:
        tensors, rows = mapped_samples(loader.dataset), None
    if tensors:
        digest = hashlib.sha256()
        for tensor in tensors:
            shape = (tensor if rows is None else tensor[:1].expand(len(rows), *tensor.shape[1:])).shape
            stride = max(1, math.ceil(shape.numel() * tensor.element_size() / HASHED_WHOLE))
            digest.update(f"{tensor.dtype} {tuple(shape)}".encode())
            for piece in chunks(tensor, rows, stride):
                digest.update(piece.contiguous().flatten().view(torch.uint8).cpu().numpy().data)
        found["sha256"] = digest.hexdigest()
    return {**found, "batches": batching(loader)}


def mapped_samples(data: Any) -> list[torch.Tensor]:
    """Evenly spaced samples of arrays that are mapped files; nothing of other data."""
    base = data
    while isinstance(base, Subset):
        base = base.dataset
    if not isinstance(base, MappedDataset):
        return []
    row_bytes = sum(array[:1].nbytes for array in base.arrays)
    count = min(len(data), max(2, HASHED_MAPPED // row_bytes))
    rows = torch.linspace(0, len(data) - 1, count, dtype=torch.float64).long()
    parts = [data.gather(part) for part in rows.split(256)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def batching(loader: DataLoader) -> dict[str, Any]:
    """Which samples come in which batch, and with which random numbers, as far as that decides what a step sees."""
    order = hashlib.sha256(loader.sampler.order(0).numpy().tobytes()).hexdigest()
    draws = isinstance(loader.dataset, ItemDataset) or loader.augment is not None
    return {
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        "order": order,
        "seed": loader.seed if draws else None,
    }


def check_fingerprint(learn: Learner, recipe: Recipe) -> None:
    """Raise RunError if the data are not those that the run was started on."""
    for part, loader in (("train", learn.dls.train), ("valid", learn.dls.valid)):
        then, now = recipe.fingerprint[part], fingerprint(loader)
        if then is not None and now is not None and {**then, "batches": now["batches"]} != now:
            raise RunError(f"the {part} data are not those that the run was started on: {then} then, {now} now")


def check_batches(learn: Learner, recipe: Recipe) -> None:
    """Batches that are made up in another way: refused by a fit that is to go on, reported to one that has ended."""
    for part, loader in (("train", learn.dls.train), ("valid", learn.dls.valid)):
        if recipe.fingerprint[part] is None or not isinstance(loader, DataLoader):
            continue
        then, now = recipe.fingerprint[part]["batches"], batching(loader)
        differing = [f"{name} {then[name]} then, {now[name]} now" for name in then if then[name] != now[name]]
        if not differing:
            continue
        text = f"the {part} batches are not those that the run was started on: {'; '.join(differing)}"
        if learn.plans and learn.epoch < learn.plan["last_epoch"]:
            raise RunError(f"{text}; give the loader the batch_size, drop_last, seed and sampler that it had")
        warnings.warn(f"{text}; further training is not the one that would have followed", stacklevel=4)

"""The parts of a program but for its model, one function each: data, optimizer, schedule, loss, metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clearloop.buildable import build, is_buildable
from clearloop.component import unwrapped
from clearloop.data.normalize import Normalize
from clearloop.errors import ConfigError, EjectError
from clearloop.metrics import Metric, weighted
from clearloop.printing import byhand
from clearloop.printing.draft import BY_HAND, INDEXED, Data, Draft
from clearloop.printing.expressions import arguments_text, name_of, print_augmentation, print_call, value_text
from clearloop.printing.files import data_in_files
from clearloop.printing.pictures import normalize_line
from clearloop.printing.printable import refuse, require_printable
from clearloop.printing.sources import seed_text
from clearloop.printing.usercode import component_text

# -- data --------------------------------------------------------------------------------------------------------------


def print_data(draft: Draft) -> Data:
    """What is to be said of the data, whether they lie in files or were in memory."""
    if draft.objects is not None and draft.objects.arrays is not None:
        return data_in_memory(draft)
    require_printable(draft.recipe.data, "data")
    return data_in_files(draft)


def data_in_memory(draft: Draft) -> Data:
    """Data that were in memory, and are written beside the program."""
    assert draft.objects is not None
    assert draft.objects.arrays is not None
    arrays, printer = draft.objects.arrays, draft.printer
    lines = [f"train, valid = {draft.need('clearloop.rungs.loader:array_parts')}(arguments.data)"]
    transform = None
    if isinstance(arrays.transform, Normalize):
        lines, transform = [*lines, normalize_line(draft, arrays.transform)], "normalize"
    elif arrays.transform is not None:
        transform = component_text(printer, arrays.transform, "transform of the data")
    own = transform is not None and not (getattr(arrays.transform, "__module__", "")).startswith("clearloop.")
    if own and draft.rung <= INDEXED:
        raise EjectError(
            f"rungs 1 to {INDEXED} hold the data as the model takes them, for which your transform {transform} would "
            f"have to be asked batch by batch; rungs {INDEXED + 1} to 7 do that"
        )
    augment = None
    if arrays.augment is not None:
        path = getattr(arrays.augment, "recipe_call", None)
        augment = print_augmentation(printer, path) if path else component_text(printer, arrays.augment, "augmentation")
    seed = None if arrays.seed is None else seed_text(draft, arrays.seed)
    return Data(None, None, lines, transform, arrays.batch_size, arrays.valid_batch_size, seed, augment)


def print_loaders(draft: Draft, data: Data) -> list[str]:
    """Lines that bring the data into the form that the loop of the rung takes."""
    lines = []
    sampler, size = draft.need("clearloop.rungs.data:Sampler"), data.batch_size * draft.recipe.accumulate
    train_sampler = f"{sampler}(len(train[0]), {size}{'' if data.seed is None else f', seed={data.seed}'})"
    valid_sampler = f"{sampler}(len(valid[0]), {data.valid_batch_size})"
    if draft.rung <= INDEXED:
        if data.transform is not None:
            lines.append(f"train, valid = {data.transform}(train), {data.transform}(valid)")
        in_order = draft.need("clearloop.rungs.data:in_order")
        return [
            *lines,
            f"valid_batches = list({in_order}(valid, {data.valid_batch_size}))",
            f"sampler = {train_sampler}",
        ]
    kind = draft.need(f"clearloop.rungs.data:{'Dataset' if data.transform is None else 'StoredDataset'}")
    more = "" if data.transform is None else f", {data.transform}"
    if draft.rung == INDEXED + 1:
        return [
            f"valid_batches = [{kind}(*valid{more})[indices] for indices in {valid_sampler}]",
            f"sampler = {train_sampler}",
            f"train = {kind}(*train{more})",
        ]
    loader = draft.need("clearloop.rungs.loader:TensorLoader")
    valid_dl = f"{loader}({kind}(*valid{more}), {valid_sampler})"
    if data.augment is None:
        lines.append(f"train_dl = {loader}({kind}(*train{more}), {train_sampler})")
    else:
        loader = draft.need("clearloop.rungs.loader:AugmentingLoader")
        lines.append(f"train_dl = {loader}({kind}(*train{more}), {train_sampler}, {keyed_augment(draft, data)})")
    return [*lines, f"valid_dl = {valid_dl}"]


def keyed_augment(draft: Draft, data: Data) -> str:
    """The augmentation, with random numbers that belong to the sample."""
    assert data.augment is not None
    if data.seed is None:
        raise EjectError("data that are augmented and not shuffled cannot be printed: expected shuffle=True")
    return f"{draft.need('clearloop.rungs.data:keyed')}({data.augment}, {data.seed})"


# -- optimizer and schedule --------------------------------------------------------------------------------------------


def print_optimizer(draft: Draft) -> tuple[list[str], dict[str, str]]:
    """Lines before the loop, and arguments for it."""
    description, lr = draft.recipe.opt_func, value_text(draft.plan["lr"])
    if not is_buildable(description, "optimizer"):
        return own_optimizer(draft, lr)
    if draft.rung <= BY_HAND:
        update = byhand.update_text(draft.printer, description, draft.rung)
        if draft.rung < BY_HAND:
            return [], {"lr": lr, **({} if update is None else {"update": update})}
        update = update or draft.need("clearloop.rungs.updates:sgd")
        return [f"opt = {draft.need('clearloop.rungs.optimizers:Optimizer')}(model.parameters(), {lr}, {update})"], {}
    options = arguments_text({"kwargs": description.get("kwargs", {})})
    more = f", {options}" if options else ""
    return [f"opt = torch.optim.{name_of(description)}(model.parameters(), lr={lr}{more})"], {}


def own_optimizer(draft: Draft, lr: str) -> tuple[list[str], dict[str, str]]:
    """An optimizer of the user's, made as the Learner makes it."""
    if draft.objects is None:
        refuse(draft.recipe.opt_func, "optimizer")
    if draft.rung < BY_HAND:
        name = name_of(draft.recipe.opt_func)
        raise EjectError(f"rung {draft.rung} moves the weights without an optimizer, got {name}; see rungs 3 to 7")
    made = component_text(draft.printer, draft.objects.opt_func, "optimizer")
    if isinstance(unwrapped(draft.objects.opt_func)[0], type):
        return [f"opt = {made}(list(model.parameters()), {lr})"], {}
    scaled, first = draft.need("clearloop.adapters:scaled_groups"), value_text(draft.recipe.lr)
    return [
        f"opt = {scaled}({made}(list(model.parameters()), {first}), {first})  # groups keep their ratio to the rate",
        f"{draft.need('clearloop.step:set_lr')}(opt, {lr})",
    ], {}


def schedule_kind(plan: Mapping[str, Any], rung: int) -> str | None:
    """The argument of a loop that a fit's schedule is; None where it has none."""
    if plan["schedule"] is None:
        return None
    if plan["per"] is None:
        return "schedule"
    if plan["per"] == "step":
        return "step_scheduler"
    if rung <= BY_HAND:
        return "scheduler"
    return "plateau_scheduler" if name_of(plan["schedule"]) == "ReduceLROnPlateau" else "epoch_scheduler"


def print_schedule(draft: Draft) -> tuple[list[str], dict[str, str]]:
    """Lines before the loop, and arguments for it."""
    schedule, kind = draft.plan["schedule"], schedule_kind(draft.plan, draft.rung)
    if kind is None:
        return [], {}
    if kind == "schedule":
        if not is_buildable(schedule, "schedule") and draft.objects is not None:
            return [], {kind: component_text(draft.printer, draft.objects.schedule, "schedule")}
        require_printable(schedule, "schedule")
        return [], {kind: print_call(draft.printer, schedule)}
    require_printable(schedule, "schedule")
    if draft.rung <= BY_HAND:
        if kind == "step_scheduler":
            raise EjectError(
                f"rung {draft.rung} asks a scheduler after epochs alone, got {name_of(schedule)} after steps; see "
                "rungs 4 to 7"
            )
        return [], {kind: byhand.scheduler_text(draft.printer, schedule, draft.plan["lr"], draft.rung)}
    draft.printer.need_import("torch.optim", "lr_scheduler")
    options = arguments_text(schedule)
    return [f"scheduler = lr_scheduler.{name_of(schedule)}(opt{', ' if options else ''}{options})"], {kind: "scheduler"}


# -- loss and metrics --------------------------------------------------------------------------------------------------


def print_loss(draft: Draft) -> str:
    """The loss as an expression."""
    description = draft.recipe.loss_func
    if is_buildable(description, "loss"):
        return print_call(draft.printer, description)
    if draft.objects is None:
        refuse(description, "loss")
    return component_text(draft.printer, draft.objects.loss_func, "loss")


def print_metrics(draft: Draft) -> list[str]:
    """The metrics as expressions."""
    objects = [None] * len(draft.recipe.metrics) if draft.objects is None else draft.objects.metrics
    return [print_metric(draft, *both) for both in zip(draft.recipe.metrics, objects, strict=True)]


def print_metric(draft: Draft, description: Any, metric: Metric | None) -> str:
    """A metric of clearloop.metrics, or a function of the user's."""
    try:
        name = build(description, "metric").name
    except ConfigError:
        if metric is not None and getattr(metric.sums, "func", None) is weighted:
            function = component_text(draft.printer, metric.sums.args[0], "metric")  # type: ignore[attr-defined]
            return f"{draft.need('clearloop.metrics:mean_metric')}({value_text(metric.name)}, {function})"
        shown = name_of(description) if isinstance(description, dict) else description
        raise EjectError(
            f"the metric {shown} cannot be printed: expected metrics of clearloop.metrics, or with learn.eject() a "
            "function (preds, targets) -> mean"
        ) from None
    if match := re.fullmatch(r"top_(\d+)_accuracy", name):
        return f"{draft.need('clearloop.metrics:top_k_accuracy')}({match[1]})"
    return draft.need(f"clearloop.metrics:{name}")

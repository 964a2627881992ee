"""Checks of training: gradients, steps, and a small batch learned by heart."""

from __future__ import annotations

import math
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from clearloop.checks.finding import Verdict, failed, note, passed, skipped, warning
from clearloop.checks.inputs import NORMS
from clearloop.checks.subject import Subject, few
from clearloop.checks.targets import targets_scaled
from clearloop.checks.trial import OVERFIT_SECONDS, Overfit, Trial, learned, overfit, try_training
from clearloop.guard import evaluating
from clearloop.tree import leaves, length, tree_map

EVEN = 1e-5  # a layer whose gradient is so much smaller than the largest does not learn beside it
STILL, JUMP = 1e-6, 1.0  # shares of a weight's size that it moves in a step: too little, too much
DEAD, MANY_DEAD, FEW_UNITS = 0.2, 0.5, 8  # shares of units; of fewer units than that, shares say little
GROWN, LOST = 0.5, 2.0  # times the first loss that it is larger after so many steps as these:
ENOUGH_STEPS = 10


class Trials(Subject):
    """A subject with what was tried on copies of it."""

    @cached_property
    def trial(self) -> Trial:
        """Some steps of the run."""
        return try_training(self)

    @cached_property
    def overfitted(self) -> Overfit:
        """A small batch, learned by heart."""
        return overfit(self)


def every_parameter_trained(subject: Trials) -> Verdict:
    """A gradient for each parameter, each in the optimizer, none frozen between others."""
    trial = subject.trial
    if trial.error is not None:
        return failed(
            f"a step of training raises: {trial.error}",
            "the first epoch would end there",
            "see what the message says of model, loss or optimizer; evaluation, without gradients, does work",
        )
    if trial.outside:
        return failed(
            f"the optimizer was not given {listed(trial.outside)}",
            "they stay as they were drawn",
            "give the optimizer model.parameters(), or set requires_grad=False to say that it is meant",
        )
    named = dict(trial.own.model.named_parameters())
    wanted = [name for name, parameter in named.items() if parameter.requires_grad]
    without = [name for name in wanted if name not in trial.gradients]
    if without:
        return failed(
            f"no gradient comes to {listed(without)}",
            "they are not used in the forward pass, or it was cut after them (detach, .data, item, no_grad, argmax)",
            "use them, take them out, or leave the graph whole",
        )
    zero = [name for name in wanted if trial.gradients[name] == 0.0]
    if zero:
        return failed(
            f"the gradient of {listed(zero)} is 0 in each of {len(trial.losses)} steps",
            "they do not learn: what follows them is dead, or multiplies by 0",
            "look at the activations after them, and at weights that begin at 0",
        )
    return frozen_parameters(trial.own.model)


def frozen_parameters(model: nn.Module) -> Verdict:
    """Frozen parameters: the beginning of a model may be, what comes after trained layers hardly on purpose."""
    norms = {id(own) for module in model.modules() if isinstance(module, NORMS) for own in module.parameters(False)}
    named = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in norms]
    frozen = [name for name, parameter in named if not parameter.requires_grad]
    total = len(list(model.parameters()))
    if not frozen:
        return passed(f"a gradient for each of {total} tensors")
    trained = next((place for place, (_, parameter) in enumerate(named) if parameter.requires_grad), len(named))
    late = [name for name, parameter in named[trained:] if not parameter.requires_grad]
    if late:
        return warning(
            f"{listed(late)} frozen after layers that are trained",
            "the layers before have to make up for weights that stay as they were drawn",
            "requires_grad_(True), if it is not meant",
        )
    return note(
        f"{listed(frozen)} frozen, at the beginning of the model",
        "as it is with weights that were trained before",
        "requires_grad_(True), if these weights are new",
    )


def gradients_even(subject: Trials) -> Verdict:
    """Layers learn beside each other only if their gradients are of comparable sizes."""
    trial = subject.trial
    named = dict(trial.own.model.named_parameters())
    sizes = {name: size for name, size in trial.gradients.items() if named[name].ndim > 1 and size}
    if len(sizes) < 2:
        return skipped("there is one layer, or none, with a gradient")
    lost = [name for name, size in sizes.items() if not math.isfinite(size)]
    if lost:
        return failed(
            f"the gradient of {listed(lost)} is not finite",
            "the next step makes every weight NaN",
            "look for a square root or logarithm at 0; try a smaller learning rate, clip=1.0",
        )
    least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    found = f"largest gradients from {sizes[least]:.1e} ({least}) to {sizes[most]:.1e} ({most})"
    if sizes[least] < EVEN * sizes[most]:
        return warning(
            found,
            "the gradient vanishes on its way back: the first layers stay as they were drawn",
            "ReLU in place of sigmoid or tanh, batch norm between layers, residual connections, fewer layers",
        )
    return passed(found)


def units_differ(subject: Trials) -> Verdict:
    """Units that begin alike and get the same gradient stay alike for ever."""
    alike = []
    for name, parameter in subject.trial.own.model.named_parameters():
        rows = parameter.detach().flatten(1) if parameter.ndim > 1 else None
        if rows is not None and len(rows) > 1 and parameter.requires_grad and subject.trial.gradients.get(name):
            spread = float((rows - rows[0]).abs().max())
            if spread <= 1e-6 * float(rows.abs().max()):
                alike.append(name)
    if alike:
        return failed(
            f"all units of {listed(alike)} are the same after {len(subject.trial.losses)} steps",
            "they began alike, so they get the same gradient: together they are worth one unit",
            "draw first weights at random, as torch's layers do by themselves",
        )
    return passed("the units of each layer differ")


def gradients_cleared(subject: Trials) -> Verdict:
    """After a step its gradients must be gone, or they add up."""
    trial = subject.trial
    if not trial.losses:
        return skipped("no step could be taken")
    if trial.kept:
        return failed(
            f"after a step the gradient of {listed(trial.kept)} is still there",
            "each step then follows the sum of all gradients so far, as if with a momentum of 1",
            "the optimizer's zero_grad must clear every parameter's gradient: p.grad = None",
        )
    return passed("gradients are gone after a step")


def activations_alive(subject: Trials) -> Verdict:
    """Units that are flat for every sample, at the start and after some steps, get no gradient."""
    before, after = subject.start.layers, subject.trial.layers
    if not before:
        return skipped("no ReLU, sigmoid or tanh is called in the model")
    if len(before) != len(after):
        return skipped("the model does not call the same activations every time")
    dead = [one.flat & other.flat for one, other in zip(before, after, strict=True)]
    shares = [float(units.double().mean()) for units in dead]
    worst = max(range(len(dead)), key=shares.__getitem__)
    kind, units, samples = before[worst].kind, len(dead[worst]), length(subject.batch[0])
    state = "never active" if kind == "relu" else "at the end of their range"
    layer = f"{kind} {worst + 1} of {len(dead)}"
    found = f"{int(dead[worst].sum())} of {units} units of {layer} are {state} in {samples} samples"
    meaning = "no gradient passes such a unit: it does nothing, and cannot learn to"
    remedy = "look at first weights and biases, at the inputs' scale, and for a learning rate that is too high"
    if shares[worst] == 1 or shares[worst] > MANY_DEAD and units >= FEW_UNITS:
        return failed(found, meaning, remedy)
    if shares[worst] > DEAD and units >= FEW_UNITS:
        return note(found, "behind narrow layers that is usual at first; such units do nothing yet", remedy)
    return passed(found if shares[worst] else f"all units of {len(dead)} activations are used")


def weights_move(subject: Trials) -> Verdict:
    """How far weights go in a step at this learning rate, and what some steps make of the loss."""
    trial, lr = subject.trial, subject.lr
    if not trial.losses:
        return skipped("no step could be taken")
    named = dict(trial.own.model.named_parameters())
    moved = [share for name, share in trial.moved.items() if named[name].ndim > 1 and math.isfinite(share)]
    moved = moved or [share for share in trial.moved.values() if math.isfinite(share)]
    if not moved:
        return skipped("all weights begin at 0")
    share, losses = median(moved), trial.losses
    found = f"by {share:.1e} of their size a step at lr {lr:.3g}"
    smaller = "try a learning rate ten times smaller, or a warm-up; learn.lr_find() suggests one"
    late, first = losses[-max(1, len(losses) // 4) :], losses[0]
    if not all(map(math.isfinite, losses)):
        return failed(f"{found}, and the loss is lost after {len(losses)} steps", "steps are far too large", smaller)
    grown = min(late) - first
    if len(losses) >= ENOUGH_STEPS and grown > GROWN * abs(first):
        verdict = failed if share > JUMP or grown > LOST * abs(first) else warning
        return verdict(
            f"{found}; the loss goes from {first:.4g} to {min(late):.4g} at best in {len(losses)} steps",
            "steps overshoot: the loss grows instead of falling",
            smaller,
        )
    if share > JUMP and grown > 0:
        return warning(found, "a step replaces the weights rather than correct them", smaller)
    if share < STILL:
        return warning(
            found,
            f"it would take about {1 / share:.0e} steps to change them" if share else "they do not move at all",
            "try a larger learning rate; learn.lr_find() suggests one",
        )
    return passed(f"{found}; the loss goes from {first:.4g} to {losses[-1]:.4g} in {len(losses)} steps")


def batch_overfitted(subject: Trials) -> Verdict:
    """Model, loss and gradients together must be able to learn a few samples by heart."""
    result = subject.overfitted
    losses = f"from {result.first:.4g} to {result.last:.4g}"
    found = f"{result.samples} samples: the loss goes {losses} in {result.steps} steps"
    if result.astray:
        return failed(
            f"{found}, and predictions come to be further from the targets",
            "the lower this loss, the worse the model",
            "turn its sign, or what it is given, around",
        )
    if result.first <= 0:
        return skipped(f"{found}; how low this loss can go is not known")
    if learned(result):
        return passed(found + (", every class right" if result.all_right else ""))
    if targets_scaled(subject).status == "warning":  # steps that end at about 1 do not get there, whatever the model
        return skipped(f"{found}; targets of such a size are another check's finding")
    parameters = sum(p.numel() for p in result.own.model.parameters() if p.requires_grad)
    if result.out_of_time and result.share < 0.9:
        return note(found, f"it was not finished after {OVERFIT_SECONDS:.0f} s", "nothing, if the loss falls on")
    if result.share < 0.9 and parameters < 10 * result.samples * subject.train.targets[0].numel():
        return note(
            found,
            f"a model of {parameters:,} parameters need not be able to learn any batch by heart",
            "nothing, or a larger model",
        )
    verdict = failed if result.share > 0.5 else warning
    return verdict(
        found,
        "what cannot learn a few samples by heart cannot learn: the fault is in model, loss or targets, not in the "
        "amount of data",
        "look at what other lines say; then follow one batch through model and loss by hand",
    )


def inputs_matter(subject: Trials) -> Verdict:
    """Whether outputs depend on the inputs, seen on the model that learned a batch by heart."""
    inputs = few(subject.batch[0], 16)
    tensors = [leaf for leaf in leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    own = subject.overfitted.own
    with evaluating(own.model), torch.no_grad():
        before = own.forward(inputs)
        changed = [differ(before, own.forward(with_rolled(inputs, number))) for number in range(len(tensors))]
    idle = [number for number, moved in enumerate(changed) if not moved and varies(tensors[number])]
    if len(idle) == len(tensors):
        return failed(
            "the outputs are the same whatever the inputs are",
            "the model can only learn how frequent each target is",
            "look at the forward pass: inputs that are not used, overwritten or multiplied by 0",
        )
    if idle:
        return warning(
            f"input {', '.join(map(str, idle))} of {len(tensors)} does not change the outputs",
            "the model does not use it",
            "use it in the forward pass, or leave it out of the data",
        )
    return passed("the outputs change with the inputs")


def varies(tensor: Tensor) -> bool:
    """Whether samples differ."""
    return bool((tensor != tensor[:1]).any())


def differ(one: Any, other: Any) -> bool:
    """Whether any number of two outputs differs."""
    return any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


def with_rolled(tree: Any, number: int) -> Any:
    """A batch in which one of the input tensors goes to the next sample."""
    places = iter(range(len(leaves(tree))))

    def rolled(tensor: Tensor) -> Tensor:
        return tensor.roll(1, 0) if tensor.ndim and next(places) == number else tensor

    return tree_map(rolled, tree)


def listed(names: list[str]) -> str:
    """The first few of some names.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

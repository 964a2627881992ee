"""Checks of model and loss in a forward pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from clearloop.checks.finding import Verdict, failed, note, passed, skipped, warning
from clearloop.checks.losses import guessing
from clearloop.checks.subject import Subject, few, taken
from clearloop.preflight import one_line
from clearloop.tree import concatenate, first_tensor, leaves, length, tree_map

FEW = 8  # samples that are mixed with others, or evaluated one by one
EXACT, REDUCED = 1e-3, 5e-2  # of the outputs' size: what float32, and what half precision, may differ by
LOST = 1.0  # nats above guessing with which a classifier should not begin
FAR = 10.0  # times what guessing costs, for other losses


def outputs_fit_loss(subject: Subject) -> Verdict:
    """Logits where the loss takes logits, probabilities where it takes those."""
    preds, meaning = first_tensor(subject.preds), subject.meaning
    if not isinstance(preds, Tensor) or meaning in ("own", "mse", "l1") or len(preds) < 2:
        return skipped("the loss is not one that asks for logits or probabilities")
    if meaning == "nll":
        sums = preds.double().exp().sum(1)
        if not bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-3).all()):
            return failed(
                f"outputs whose exponentials add up to about {float(sums.mean()):.3g}, for a loss that takes "
                "logarithms of probabilities",
                "the loss can fall without end, whatever is predicted",
                "end the model with log_softmax, or use F.cross_entropy on its plain outputs",
            )
        return passed("logarithms of probabilities, as the loss takes them")
    low, high = (float(edge) for edge in torch.aminmax(preds))
    kind = subject.start.bounding
    if meaning in ("cross_entropy", "soft_cross_entropy"):
        sums = preds.double().sum(1)
        if low >= 0 and bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-3).all()):
            return failed(
                "outputs are positive and add up to 1: probabilities, which the loss would make of logits by itself",
                "a softmax of a softmax can never be sure: the loss cannot fall to 0, and learning is slow",
                "leave out the softmax at the end of the model; apply it where probabilities are shown",
            )
    if kind is not None and meaning != "bce":
        return failed(
            f"the outputs, from {low:.3g} to {high:.3g}, come out of a {kind}, and the loss takes logits: any number",
            "predictions can never be sure, or not of one side; where the activation is flat nothing is learned",
            f"leave out the {kind} after the last layer",
        )
    return passed(f"from {low:.3g} to {high:.3g}, as the loss takes them")


def loss_is_a_mean(subject: Subject) -> Verdict:
    """Twice the same samples must cost the same, and all together what each costs by itself."""
    preds, targets = few(subject.preds, FEW), subject.train.first(FEW)[1]
    loss_func, count = subject.state.loss_func, subject.state.count
    samples = length(targets)
    with torch.no_grad():
        loss = float(loss_func(preds, targets))
        double = float(loss_func(concatenate([preds, preds]), concatenate([targets, targets])))
        one_by_one, weights = 0.0, 0.0
        for row in range(samples):
            own_preds, own_targets = (taken(tree, torch.tensor([row])) for tree in (preds, targets))
            if weight := float(count(own_targets)):
                one_by_one += weight * float(loss_func(own_preds, own_targets))
                weights += weight
    if not math.isfinite(loss):
        return skipped("the loss is not finite, which is another check's finding")
    if loss and math.isclose(double, 2 * loss, rel_tol=1e-3):
        return failed(
            f"the loss of {samples} samples is {loss:.4g}, that of the same ones twice {double:.4g}: it is a sum",
            "the step then grows with the batch: a learning rate fits one batch size only, and figures no other run",
            "use .mean() or reduction='mean'",
        )
    if weights and not math.isclose(one_by_one / weights, loss, rel_tol=1e-3, abs_tol=1e-6):
        found = f"the loss of {samples} samples is {loss:.4g}, the mean of their own losses {one_by_one / weights:.4g}"
        shapes = [tuple(tree.shape) for tree in (first_tensor(preds), targets) if isinstance(tree, Tensor)]
        if len(shapes) == 2 and shapes[0] != shapes[1] and math.prod(shapes[0]) == math.prod(shapes[1]):
            return failed(
                f"{found}: predictions of {shapes[0]} are broadcast against targets of {shapes[1]}",
                "every prediction is compared with every target: the best is then to predict the mean for all",
                "give both one shape: preds.squeeze(1), or targets.unsqueeze(1)",
            )
        return note(
            f"{found}: it compares samples with each other",
            "as contrastive losses do; others should not, and validation then depends on the batch size",
            "if it is not meant, look at means over the wrong dimension",
        )
    return passed("a mean over samples")


def loss_at_start(subject: Subject) -> Verdict:
    """Near what guessing costs: ln C for C classes."""
    start, loss = subject.start, subject.start.loss
    if not math.isfinite(loss):
        return failed(
            f"the first loss is {loss}",
            "no gradient comes of it",
            "look for a logarithm of 0, a division by 0, or first weights that are far too large",
        )
    preds = first_tensor(start.preds)
    guess = (
        guessing(subject.meaning, subject.state.loss_func, preds, start.targets)
        if isinstance(preds, Tensor) and isinstance(start.targets, Tensor)
        else None
    )
    if guess is None:
        return skipped(f"{loss:.4g}; what guessing costs in this loss is not known")
    expected, what = guess
    found = f"{loss:.4g}, where guessing costs {expected:.4g} ({what})"
    entropy = subject.kind in ("classes", "binary") or subject.meaning == "soft_cross_entropy"
    if loss > (expected + LOST if entropy else FAR * expected) and expected > 0:
        return warning(
            found,
            "the model begins by being sure of what is wrong; its first steps go into unlearning that",
            "look at the last layer's first weights and bias (a bias of the targets' mean suits a regression), and at "
            "the scale of inputs and targets",
        )
    if loss < 0.5 * expected and not subject.learn.history.steps:
        return note(
            found,
            "better than guessing before the first step: these weights were trained before, or the loss is another "
            "one than it seems",
            "nothing, if the weights were loaded",
        )
    return passed(found)


def samples_kept_apart(subject: Subject) -> Verdict:
    """What a sample's output is must not depend on which others are in its batch."""
    inputs = few(subject.batch[0], 2 * FEW)
    samples = length(inputs)
    if samples < 3:
        return skipped("too few samples")
    preds = subject.evaluate(inputs)
    for kept in (0, samples // 2, samples - 1):
        order = torch.arange(samples).roll(1)  # every other sample in another place, this one in its own
        order = torch.cat([order[order != kept][:kept], torch.tensor([kept]), order[order != kept][kept:]])
        places = torch.arange(samples).roll(1)  # every sample in another place, but this one twice, in its own too
        places[kept] = kept
        for given in (subject.evaluate(taken(inputs, order)), subject.evaluate(taken(inputs, places))):
            distance = apart(row_of(preds, kept), row_of(given, kept), preds)
            if distance > tolerance(subject):
                return failed(
                    f"the output for sample {kept} of a batch changes by {distance:.2g} of the outputs' size when "
                    "other samples change",
                    "samples are mixed: predictions depend on what they are batched with, and targets can leak",
                    "look for view or reshape where a transpose is meant, and for a softmax, mean or norm over "
                    "dimension 0",
                )
    return passed("in evaluation mode, an output depends on its own sample alone")


def evaluation_repeatable(subject: Subject) -> Verdict:
    """The same inputs, twice, from different random states."""
    inputs = few(subject.batch[0], 2 * FEW)
    before = subject.evaluate(inputs)
    torch.rand(1)  # evaluation begins from the same random states each time, but for this
    distance = apart(before, subject.evaluate(inputs), before)
    if distance > 0.1 * tolerance(subject):
        return failed(
            f"two evaluations of the same samples differ by {distance:.2g} of the outputs' size",
            "validation is a matter of luck: something draws random numbers, or changes itself, in evaluation mode",
            "F.dropout needs training=self.training; nn.Dropout knows by itself",
        )
    return passed("the same outputs twice")


def evaluation_by_batch_size(subject: Subject) -> Verdict:
    """One by one, samples must give what they give together."""
    inputs = few(subject.batch[0], FEW)
    together, samples = subject.evaluate(inputs), length(inputs)
    if apart(together, subject.evaluate(inputs), together) > 0.1 * tolerance(subject):
        return skipped("evaluation is not repeatable, which is another check's finding")
    for row in range(samples):
        try:
            alone = subject.evaluate(taken(inputs, torch.tensor([row])))
        except Exception as error:  # a forward written by a user can raise anything
            return failed(
                f"a batch of one sample is refused: {one_line(error)}",
                "the last batch of an epoch, or a single prediction, can be one",
                "look for squeeze() without a dimension, and for statistics over the batch",
            )
        form, usual = tuple(first_tensor(alone).shape), (1, *first_tensor(together).shape[1:])
        if form != usual:
            return failed(
                f"a batch of one sample gives outputs of {form}, where {usual} is expected",
                "the last batch of an epoch, or a single prediction, can be one: its loss is then another",
                "squeeze(1) names its dimension; squeeze() takes away the batch's as well",
            )
        distance = apart(row_of(together, row), row_of(alone, 0), together)
        if distance > tolerance(subject):
            return failed(
                f"sample {row} alone gives an output that is {distance:.2g} of the outputs' size from what it gives "
                f"among {samples}",
                "validation figures then depend on the batch size, and a single prediction on nothing one can trust",
                "use running statistics in evaluation mode, as nn.BatchNorm does by itself",
            )
    return passed(f"{samples} samples give the same one by one")


def row_of(tree: Any, row: int) -> Any:
    """One sample of a batch."""
    return tree_map(lambda tensor: tensor[row] if tensor.ndim else tensor, tree)


def apart(one: Any, other: Any, scale: Any) -> float:
    """The largest difference between two outputs, as a share of the size of usual outputs."""
    pairs = zip(leaves(one), leaves(other), leaves(scale), strict=True)
    found = [0.0]
    for a, b, usual in pairs:
        if isinstance(a, Tensor) and a.is_floating_point():
            size = float(usual.double().square().mean().sqrt())
            found.append(float((a.double() - b.double()).abs().max()) / size if size else 0.0)
    return max(found)


def tolerance(subject: Subject) -> float:
    """What rounding may differ by."""
    reduced = subject.learn.precision is not None or subject.device.type != "cpu"  # TF32, where it is allowed
    halves = any(p.dtype in (torch.bfloat16, torch.float16) for p in subject.state.model.parameters())
    return REDUCED if reduced or halves else EXACT

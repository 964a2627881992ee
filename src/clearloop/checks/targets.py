"""Checks of the targets: within reach of the outputs, of a usual size, every class there and none too rare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clearloop.checks.activations import REACH
from clearloop.checks.finding import Verdict, failed, note, passed, skipped, warning
from clearloop.checks.subject import Subject
from clearloop.component import unwrapped
from clearloop.data.loader import DataLoader, Loader
from clearloop.data.sampler import WeightedSampler
from clearloop.preflight import stored_targets
from clearloop.tree import first_tensor

UNUSUAL = 100.0  # a deviation larger than this, or smaller than 1 / this, ...
APART = 100.0  # ... in outputs whose own deviation is so many times another
RARE = 10.0  # times the most frequent class is more frequent than the rarest
FEW_VALUES = 12  # so few whole numbers may be classes


def targets_in_range(subject: Subject) -> Verdict:
    """Labels that have an output, probabilities in [0, 1], values that the last activation can give."""
    if subject.kind == "classes":
        return labels_in_range(subject)
    targets = subject.train.targets
    if subject.kind == "binary":
        low, high = edges(targets)
        whole = subject.meaning != "mnist_loss" or bool(((targets == 0) | (targets == 1)).all())
        if low < 0 or high > 1 or not whole:
            return failed(
                f"targets from {low:.3g} to {high:.3g}, where this loss takes 0 for no and 1 for yes",
                "the loss has no lowest point there: it can fall for ever while predictions get no better",
                "turn the targets into 0.0 and 1.0",
            )
        return passed(f"from {low:.3g} to {high:.3g}")
    if subject.kind != "values":
        return skipped("the targets are of no kind that this check knows")
    return values_in_reach(subject, targets)


def labels_in_range(subject: Subject) -> Verdict:
    """Class labels below the number of outputs; those in memory were looked at before."""
    outputs, ignored = first_tensor(subject.preds).shape[1], ignored_label(subject)
    for part, sample in (("training", subject.train), ("validation", subject.valid)):
        labels = None if sample is None else sample.targets[sample.targets != ignored]
        if labels is not None and labels.numel() and (edges(labels)[0] < 0 or edges(labels)[1] >= outputs):
            low, high = edges(labels)
            return failed(
                f"{part} labels from {low:.0f} to {high:.0f}, for a model of {outputs} outputs",
                "labels count from 0, and each needs an output",
                "subtract the lowest label, or widen the last layer",
            )
    low, high = edges(subject.train.targets)
    return passed(f"labels from {low:.0f} to {high:.0f} for {outputs} outputs")


def values_in_reach(subject: Subject, targets: Tensor) -> Verdict:
    """Values that the activation at the end can give."""
    kind = subject.start.bounding
    low, high = edges(targets)
    if kind is not None:
        lowest, highest = REACH[kind]
        if low < lowest - 1e-3 or high > highest + 1e-3:
            return failed(
                f"targets from {low:.3g} to {high:.3g}; the outputs come out of a {kind}: {lowest:g} to {highest:g}",
                "what lies outside can never be predicted",
                f"leave out the {kind} after the last layer, or scale the targets into its range",
            )
    numbers = targets.unique()
    if targets[0].numel() == 1 and 2 <= len(numbers) <= FEW_VALUES and bool((numbers == numbers.round()).all()):
        return note(
            f"the targets take only the whole values {', '.join(f'{number:g}' for number in numbers.tolist())}",
            "a regression takes 3 to be nearer to 4 than to 9; for classes that means nothing",
            "if these are classes: whole labels (y.long()), an output for each, F.cross_entropy",
        )
    return passed(f"from {low:.3g} to {high:.3g}")


def targets_scaled(subject: Subject) -> Verdict:
    """For a regression: outputs at the start are of about 1, and so should targets be."""
    if subject.kind != "values":
        return skipped("the targets are no values of a regression")
    targets, preds = subject.train.targets.double(), first_tensor(subject.preds).double()
    deviation, outputs = float(targets.std(correction=0)), float(preds.std(correction=0))
    if deviation == 0:
        return failed(
            f"every target is {float(targets.flatten()[0]):.4g}",
            "there is nothing to learn",
            "look at how the targets are read",
        )
    unusual = deviation > UNUSUAL or deviation < 1 / UNUSUAL
    if unusual and not 1 / APART < outputs / deviation < APART:
        return warning(
            f"the targets' deviation is {deviation:.3g}, that of the outputs {outputs:.3g}",
            "losses and gradients are as far from the usual as the square of that, and no usual learning rate fits",
            "train on (y - mean) / std of the training targets, and scale predictions back",
        )
    return passed(f"the targets' deviation is {deviation:.3g}")


def classes_balanced(subject: Subject) -> Verdict:
    """Every class there, none much rarer than others unless they are weighted."""
    if subject.kind not in ("classes", "binary") or subject.kind == "binary" and subject.train.targets[0].numel() > 1:
        return skipped("the targets are no classes")
    classes = first_tensor(subject.preds).shape[1] if subject.kind == "classes" else 2
    counts, where = label_counts(subject, subject.learn.dls.train, subject.train.targets, classes)
    present = counts > 0
    if int(present.sum()) < 2:
        return failed(
            f"{where} is of class {class_name(subject, int(counts.argmax()))}",
            "a model that always says so is perfect",
            "see whether the data were cut before they were shuffled",
        )
    missing = [class_name(subject, number) for number in (~present).nonzero().flatten().tolist()]
    if missing and int(counts.sum()) >= 20 * classes:
        return absent(subject, missing, classes, where)
    most, least = int(counts.max()), int(counts[present].min())
    found = f"{least:,} to {most:,} samples a class"
    if most > RARE * least:
        if is_weighted(subject):
            return passed(f"{found}, which weights make up for")
        return warning(
            f"{found}; the rarest is {class_name(subject, int(torch.where(present, counts, most + 1).argmin()))}",
            f"{100 * most / int(counts.sum()):.1f} % are right for a model that always says "
            f"{class_name(subject, int(counts.argmax()))}, and the rare ones hardly move the weights",
            "give the loss class weights, draw with a WeightedSampler, and look at more than accuracy",
        )
    return passed(found)


def absent(subject: Subject, missing: list[str], classes: int, where: str) -> Verdict:
    """Classes that have an output and no training sample."""
    names = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
    wanted = False
    if subject.valid is not None:
        held, _ = label_counts(subject, subject.learn.dls.valid, subject.valid.targets, classes)
        wanted = any(class_name(subject, label) in missing for label in held.nonzero().flatten().tolist())
    verdict = failed if wanted else warning
    return verdict(
        f"no training sample of {len(missing)} of {classes} classes: {names}"
        + (", which the validation set has" if wanted else ""),
        "such a class can never be predicted" if wanted else "outputs that no label uses, or labels that begin at 1",
        "split at random, or by class; make as many outputs as there are classes, with labels from 0",
    )


def label_counts(subject: Subject, loader: Loader | None, sampled: Tensor, classes: int) -> tuple[Tensor, str]:
    """Samples of each class, int64 (classes,): of all where labels are in memory, else of those looked at."""
    stored = stored_targets(loader)
    known = stored is not None and stored[:1].shape == sampled[:1].shape and stored.dtype == sampled.dtype
    labels: Any = stored if known else sampled
    labels = labels.detach().cpu().flatten()
    labels = labels[labels != ignored_label(subject)].round().long()
    where = f"each of {len(labels):,} samples" + ("" if known else " looked at")
    return torch.bincount(labels.clamp(0, classes - 1), minlength=classes), where


def is_weighted(subject: Subject) -> bool:
    """Whether the loss weighs classes, or the loader draws rare ones more often."""
    base, options = unwrapped(subject.state.loss_func)
    in_loss = any(options.get(name, getattr(base, name, None)) is not None for name in ("weight", "pos_weight"))
    loader = subject.learn.dls.train
    return in_loss or isinstance(loader, DataLoader) and isinstance(loader.sampler, WeightedSampler)


def ignored_label(subject: Subject) -> int:
    """The label that cross-entropy leaves out."""
    return int(unwrapped(subject.state.loss_func)[1].get("ignore_index", -100))


def class_name(subject: Subject, label: int) -> str:
    """A class as the data call it."""
    names = subject.learn.dls.classes
    return repr(names[label]) if names is not None and label < len(names) else str(label)


def edges(tensor: Tensor) -> tuple[float, float]:
    """The lowest and the highest number."""
    low, high = torch.aminmax(tensor)
    return float(low), float(high)

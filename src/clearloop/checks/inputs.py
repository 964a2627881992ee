"""Checks of the inputs: finite, not all the same, of a size that layers take well, and related to the targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clearloop.checks.finding import Verdict, failed, note, passed, skipped, warning
from clearloop.checks.subject import Sample, Subject, flat
from clearloop.tree import leaves

NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.Embedding,
)
LARGE, LARGE_COLUMN = 10.0, 30.0  # root mean square of all inputs, and of a single column of a table
SMALL = 0.01  # largest size of any input
UNEVEN = 1000.0  # times the usual column is larger than the smallest
TABLE_COLUMNS = 64  # with more of them, rows are taken for flattened pictures
SIGMA = 3.0  # by how many deviations more than chance
RELATED_SAMPLES = 100


def finite_numbers(subject: Subject) -> Verdict:
    """NaN and infinity, also where they are made on the way from the stored data to the model."""
    for part, sample in (("training", subject.train), ("validation", subject.valid)):
        for what, tree in (("inputs", sample.inputs), ("targets", sample.targets)) if sample is not None else ():
            for leaf in leaves(tree):
                if isinstance(leaf, Tensor) and leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
                    rows = int((~torch.isfinite(leaf)).reshape(len(leaf), -1).any(1).sum())
                    return failed(
                        f"NaN or infinity in the {what} of {rows:,} of {len(leaf):,} {part} samples",
                        "one such sample turns the loss, and with it every weight, into NaN",
                        "look at what the data go through before the model (a division by 0, a logarithm of 0), and "
                        "drop or fill such rows",
                    )
    return passed(f"no NaN, no infinity in {subject.train} of the training data")


def inputs_vary(subject: Subject) -> Verdict:
    """Whether samples differ from each other at all."""
    rows = flat(subject.train.inputs)
    if len(rows) < 2:
        return skipped("there is one training sample only")
    constant = (rows == rows[0]).all(0)
    if bool(constant.all()):
        return failed(
            f"{subject.train} of the training data have the very same inputs",
            "nothing can be learned from them but how frequent each target is",
            "look at the dataset's __getitem__ or gather: it may forget its index, or the transform may wipe all out",
        )
    count, columns = int(constant.sum()), rows.shape[1]
    if count and table_columns(subject) is not None:
        named = ", ".join(str(column) for column in constant.nonzero().flatten().tolist()[:5])
        return note(
            f"{count} of {columns} columns have one value in {subject.train}: {named}",
            "they tell nothing; a value that is new in validation would come as a surprise",
            "leave them out, or see whether they were read wrongly",
        )
    return passed(f"{subject.train} looked at, none like all others")


def inputs_scaled(subject: Subject) -> Verdict:
    """Sizes of about 1 are what first weights are made for."""
    if normalises_first(subject):
        return passed("the model begins with a layer that takes inputs of any scale")
    floats = [leaf for leaf in leaves(subject.train.inputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not floats:
        return skipped("the inputs are whole numbers, which the model turns into others itself")
    columns = table_columns(subject)
    rows = flat(floats)[:, :columns]
    if not rows.numel():
        return skipped("the inputs are codes of categories")
    sizes = rows.square().mean(0).sqrt()  # (columns,)
    overall, largest = float(rows.square().mean().sqrt()), float(rows.abs().max())
    remedy = "bring them to mean 0 and deviation 1 by the training data's own (x - mean) / std, or bytes to x / 255"
    if columns is not None and float(sizes.max()) > LARGE_COLUMN:
        return warning(
            f"column {int(sizes.argmax())} has values of about {float(sizes.max()):.3g}, where 1 is usual",
            "it drowns the other columns, and the gradient of its weights is as many times too large",
            remedy,
        )
    if overall > LARGE:
        return warning(
            f"values of about {overall:.3g} (up to {largest:.3g}), where 1 is usual",
            "first outputs and gradients are as many times too large: training is unstable, or slow at small rates",
            remedy,
        )
    if 0 < largest < SMALL:
        return warning(
            f"no value is larger than {largest:.3g}, where 1 is usual",
            "outputs hardly depend on the inputs at first, and gradients are small: training is slow",
            remedy,
        )
    highest = rows.abs().amax(0)
    usual, least = float(highest.median()), float(highest[highest > 0].min()) if bool((highest > 0).any()) else 0.0
    if columns is not None and 0 < least < usual / UNEVEN:
        return warning(
            f"a column reaches {least:.3g} only, the usual one {usual:.3g}",
            "its weights would have to grow as many times before it counts",
            remedy,
        )
    return passed(f"values of about {overall:.2g}, up to {largest:.3g}")


def table_columns(subject: Subject) -> int | None:
    """How many of the inputs are columns of numbers of a table, or None where they are no table."""
    inputs = subject.train.inputs
    if subject.learn.dls.table is not None:
        return subject.learn.dls.table.numeric
    several = not isinstance(inputs, Tensor)
    flat_rows = several or inputs.ndim == 2 and inputs.shape[1] < TABLE_COLUMNS
    return flat(inputs).shape[1] if flat_rows and all(leaf.ndim <= 2 for leaf in leaves(inputs)) else None


def normalises_first(subject: Subject) -> bool:
    """Whether the first layer that is called makes its inputs' scale not matter."""
    called: list[nn.Module] = []
    single = [module for module in subject.state.model.modules() if not any(module.children())]
    hooks = [
        module.register_forward_pre_hook(lambda module, _: called.append(module))
        for module in single
        if not isinstance(module, (nn.Flatten, nn.Identity, nn.Unflatten))
    ]
    try:
        subject.evaluate(subject.train.first(2)[0])
    finally:
        for hook in hooks:
            hook.remove()
    return bool(called) and isinstance(called[0], NORMS)


def targets_follow_inputs(subject: Subject) -> Verdict:
    """Whether the plainest methods can tell anything of the targets; if not, rows may be out of step."""
    sample = subject.train
    if subject.kind not in ("classes", "binary", "values"):
        return skipped("the targets are of no kind that this check knows")
    rows, targets = standardised(flat(sample.inputs)), target_columns(subject, sample)
    if targets is None:
        return skipped("there is more than one label a sample")
    if len(rows) < RELATED_SAMPLES:
        return skipped(f"too few samples to tell chance from more: {len(rows)}, {RELATED_SAMPLES} are needed")
    if not bool((targets != targets[0]).any()):
        return skipped("all targets are the same")
    near, linear = agreement(targets, targets[nearest(rows)]), agreement(*fitted(rows, targets))
    if max(near, linear) > SIGMA:
        how = "the nearest other sample" if near > linear else "a linear fit"
        return passed(f"{how} tells targets better than chance, by {max(near, linear):.0f} standard errors")
    return warning(
        f"neither the nearest other sample nor a linear fit tells targets better than chance ({sample})",
        "either the task is hard, or inputs and targets are not in the same order (one was sorted, shuffled or "
        "shifted without the other)",
        "look at some samples beside their targets (clearloop.show_batch); read both from one source",
    )


def target_columns(subject: Subject, sample: Sample) -> Tensor | None:
    """Targets as numbers, a column a class or a value: float64 (samples, columns); None for several labels each."""
    targets: Tensor = sample.targets.detach().cpu()
    if subject.kind != "classes":
        return standardised(flat(targets, most=16))
    if targets.ndim != 1:
        return None
    labels = targets.long().clamp_min(0)
    return standardised(torch.eye(int(labels.max()) + 1, dtype=torch.float64)[labels])


def standardised(rows: Tensor) -> Tensor:
    """Each column to mean 0 and deviation 1; constant ones become 0."""
    deviations = rows.std(0, correction=0)
    return (rows - rows.mean(0)) / torch.where(deviations > 1e-12 * rows.abs().amax(0), deviations, torch.inf)


def nearest(rows: Tensor) -> Tensor:
    """For each row, which other one is the nearest: int64 (rows,)."""
    return torch.cdist(rows, rows).fill_diagonal_(torch.inf).argmin(1)


def fitted(rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Targets of every second row, and what a ridge regression on the others makes of them."""
    own, rest = rows[::2], rows[1::2]
    kernel = rest @ rest.T  # the dual form: as many unknowns as samples, not as columns
    ridge = 0.1 * kernel.diagonal().mean().clamp_min(1e-9)
    weights = torch.linalg.solve(kernel + ridge * torch.eye(len(rest), dtype=rows.dtype), targets[1::2])
    return targets[::2], own @ rest.T @ weights


def agreement(targets: Tensor, guesses: Tensor) -> float:
    """The correlation of guesses with targets over all columns, in standard errors of what chance would give.

    >>> agreement(torch.tensor([[1.0], [-1.0]] * 50), torch.tensor([[1.0], [-1.0]] * 50))
    10.0
    """
    found, exact = guesses - guesses.mean(0), targets - targets.mean(0)
    spread = float(found.square().sum().sqrt() * exact.square().sum().sqrt())
    if spread == 0.0:
        return 0.0
    products = (found * exact).sum(1)  # (samples,): their mean is 0 if nothing is known
    error = float(products.square().sum().sqrt())
    return round(float(products.sum()) / error, 6) if error else 0.0

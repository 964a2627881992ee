"""Checks of training and validation data against each other: alike, but not the same samples."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clearloop.checks.finding import Verdict, failed, note, passed, skipped, warning
from clearloop.checks.inputs import TABLE_COLUMNS, table_columns
from clearloop.checks.subject import Sample, Subject, flat
from clearloop.checks.targets import class_name, label_counts
from clearloop.data.dataset import Dataset
from clearloop.data.loader import Loader
from clearloop.step import pair
from clearloop.tree import first_tensor, leaves

HASHED_BYTES, HASHED_ROWS = 2**28, 2**17  # no more is looked at for duplicates, in either part
PIECE = 4096
COARSE = 0.2  # where so many rows have a twin, twins are the data's nature
FEW_VALID = 20
SHIFT, SPREAD, SIGMAS = 0.5, 2.0, 5.0  # of a deviation; times a deviation; standard errors


@dataclass(frozen=True)
class Rows:
    """Hashes of the inputs of samples as they are stored, and of their targets."""

    inputs: list[bytes]
    targets: list[bytes]
    total: int

    def __str__(self) -> str:
        return f"{len(self.inputs):,}" + (f" of {self.total:,}" if len(self.inputs) < self.total else "")


def no_duplicates(subject: Subject) -> Verdict:
    """Training samples that are there twice, above all with differing targets."""
    rows = hashed(subject.learn.dls.train, subject.train)
    targets = defaultdict(set)
    for one, target in zip(rows.inputs, rows.targets, strict=True):
        targets[one].add(target)
    counts = Counter(rows.inputs)
    twins = sum(count for count in counts.values() if count > 1)
    if not twins:
        return passed(f"{rows} training samples, all different")
    at_odds = sum(counts[one] for one, several in targets.items() if len(several) > 1)
    found = f"{twins:,} of {rows} training samples have a twin"
    if twins == len(rows.inputs) == counts[rows.inputs[0]]:
        return skipped("all samples are the same, which is another check's finding")
    if at_odds > 0.01 * len(rows.inputs) and twins < COARSE * len(rows.inputs):
        return warning(
            f"{found}; {at_odds:,} of them with another target",
            "the same inputs cannot have two right answers: targets are wrong, or inputs lack what decides",
            "look at these samples; if the targets were joined to the inputs, look at the join",
        )
    if at_odds:
        found += f", {at_odds:,} of them with another target"
    if twins > COARSE * len(rows.inputs):
        return note(
            found,
            "the inputs take few values, or samples were copied; copies count as often in the loss",
            "if the copies are not meant, drop them before the data are split",
        )
    return passed(found)


def no_overlap(subject: Subject) -> Verdict:
    """Validation samples that were trained on."""
    if subject.valid is None:
        return skipped("there is no validation set")
    train, valid = hashed(subject.learn.dls.train, subject.train), hashed(subject.learn.dls.valid, subject.valid)
    known, counts = set(train.inputs), Counter(train.inputs)
    both = sum(row in known for row in valid.inputs)
    natural = sum(count for count in counts.values() if count > 1) / len(train.inputs)
    found = f"{both:,} of {valid} validation samples are among {train} training samples"
    chance = 3 * (natural * (1 - natural) / len(valid.inputs)) ** 0.5  # three standard errors
    if both > 1 and both / len(valid.inputs) > natural + chance + 0.01:
        return failed(
            found,
            "what was trained on is no test: validation then shows how much was learned by heart",
            "split before samples are copied or augmented, drop duplicates, and keep what belongs together (frames of "
            "one film, rows of one person) on one side",
        )
    if both > 0.01 * len(valid.inputs):
        return note(
            found, f"training samples have twins among themselves as often ({100 * natural:.0f} %)", "nothing, if so"
        )
    return passed(found)


def hashed(loader: Loader | None, sample: Sample) -> Rows:
    """Hashes of a part's samples as stored, or of those looked at where they cannot be gathered."""
    dataset: Any = getattr(loader, "dataset", None)
    inputs: list[bytes] = []
    targets: list[bytes] = []
    if not isinstance(dataset, Dataset):
        pieces: Iterator[Any] = iter([(sample.inputs, sample.targets)])
        total = sample.total
    else:
        total = len(dataset)
        pieces = (pair(dataset.gather(slice(at, min(at + PIECE, total)))) for at in range(0, total, PIECE))
    size = 0
    for some_inputs, some_targets in pieces:
        found = row_bytes(some_inputs)
        size += sum(map(len, found))
        inputs += [hashlib.blake2b(row, digest_size=16).digest() for row in found]
        targets += [hashlib.blake2b(row, digest_size=16).digest() for row in row_bytes(some_targets)]
        if size > HASHED_BYTES or len(inputs) >= HASHED_ROWS:
            break
    return Rows(inputs, targets, total)


def row_bytes(tree: Any) -> list[bytes]:
    """The bytes of each sample of a batch.

    >>> row_bytes((torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8), torch.tensor([5, 6], dtype=torch.uint8)))
    [b'\\x01\\x02\\x05', b'\\x03\\x04\\x06']
    """
    tensors = [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor) and leaf.ndim]
    parts = [t.detach().cpu().reshape(len(t), -1).contiguous().view(torch.uint8).numpy() for t in tensors]
    return [b"".join(row.tobytes() for row in rows) for rows in zip(*parts, strict=True)]


def validation_like_training(subject: Subject) -> Verdict:
    """Classes as frequent, inputs and values as large in both parts, as far as chance explains."""
    if subject.valid is None:
        return skipped("there is no validation set")
    train, valid = subject.train, subject.valid
    if valid.total < FEW_VALID:
        return note(
            f"{valid.total} validation samples",
            "a metric moves by whole percents with each of them",
            f"hold out more, {FEW_VALID} at the least",
        )
    found = compared_classes(subject) or compared_inputs(subject)
    if found is None and subject.kind == "values":
        columns = train.targets[0].numel()
        held = columns if columns < TABLE_COLUMNS else None
        if bool(differing(measured(train.targets, held), measured(valid.targets, held)).any()):
            found = warning(
                "targets of validation and training differ in mean or deviation by more than chance",
                "validation asks for other values than training shows",
                "split at random, unless time or place must divide the parts",
            )
    return found or passed(f"{valid} of validation are like {train} of training")


def compared_classes(subject: Subject) -> Verdict | None:
    """What is wrong with the classes of the validation set, if anything."""
    if subject.kind not in ("classes", "binary") or subject.train.targets[0].numel() > 1:
        return None
    assert subject.valid is not None
    classes = first_tensor(subject.preds).shape[1] if subject.kind == "classes" else 2
    parts = [(subject.learn.dls.train, subject.train), (subject.learn.dls.valid, subject.valid)]
    train, valid = (label_counts(subject, loader, part.targets, classes)[0] for loader, part in parts)
    samples = int(valid.sum())
    if int((train > 0).sum()) > 1 and int((valid > 0).sum()) == 1:
        return failed(
            f"all {samples:,} validation samples are of class {class_name(subject, int(valid.argmax()))}",
            "validation says nothing of the other classes",
            "split at random, or by class; data that are sorted must not be cut in two",
        )
    apart = float((train / train.sum() - valid / samples).abs().sum()) / 2  # share of samples to be exchanged
    if apart > 0.2 + 0.5 * (classes / samples) ** 0.5:
        return warning(
            f"{100 * apart:.0f} % of the validation samples would need another class to be as training has them",
            "validation measures another task than the one that is trained",
            "split at random, or by class",
        )
    return None


def compared_inputs(subject: Subject) -> Verdict | None:
    """What is wrong with the inputs of the validation set, if anything."""
    assert subject.valid is not None
    columns = table_columns(subject)
    train, valid = measured(subject.train.inputs, columns), measured(subject.valid.inputs, columns)
    if train.shape[1] != valid.shape[1] or not train.numel():
        return None
    part = differing(train, valid)
    if float(part.double().mean()) > 0.5:
        means = f"{float(train.mean()):.3g} and {float(valid.mean()):.3g}"
        return warning(
            f"validation inputs are of another scale than training inputs (means {means}, deviations "
            f"{float(train.std()):.3g} and {float(valid.std()):.3g})",
            "a model that does well in training does not know what it is given in validation",
            "scale both by the training data's own mean and deviation; or see what else divides the parts",
        )
    if bool(part.any()):
        return note(
            f"{int(part.sum())} of {len(part)} columns differ between validation and training by more than chance",
            "as they do where time or place divides the parts",
            "split at random if they should not",
        )
    return None


def measured(tree: Any, columns: int | None) -> Tensor:
    """What is compared of samples: the columns of a table, the mean and the deviation of anything else."""
    rows = flat(tree)
    if columns is not None:
        return rows[:, :columns]
    return torch.stack([rows.mean(1), rows.std(1, correction=0)], dim=1)


def differing(train: Tensor, valid: Tensor) -> Tensor:
    """Which columns differ in mean or deviation: bool (columns,)."""
    usual, spread = train.std(0), valid.std(0)
    shift, error = (train.mean(0) - valid.mean(0)).abs(), (1 / len(train) + 1 / len(valid)) ** 0.5
    moved: Tensor = (shift > SHIFT * usual) & (shift > SIGMAS * error * torch.maximum(usual, spread))
    wider: Tensor = (spread > SPREAD * usual) | (usual > SPREAD * spread)
    heavy: Tensor = (train - train.mean(0)).abs().amax(0) > 10 * usual  # of few large values, the deviation says little
    return moved | wider & ~heavy & (usual > 0)

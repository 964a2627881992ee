"""A trained model over a data set: its outputs, as classes where it tells some apart, its losses, and the inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearloop.adapters import is_for_numbers
from clearloop.component import unwrapped
from clearloop.data.dataset import Dataset, Subset
from clearloop.data.loader import DataLoader, as_loader
from clearloop.data.loaders import DataLoaders
from clearloop.data.sampler import SequentialSampler
from clearloop.errors import ConfigError, DataError, ModelError, NonFiniteError
from clearloop.learner import Learner
from clearloop.losses import mnist_loss, soft_cross_entropy
from clearloop.preflight import shapes
from clearloop.step import pair
from clearloop.tree import concatenate, detach, length, to_device, tree_map

CPU = torch.device("cpu")
SIGMOID_LOSSES = (F.binary_cross_entropy_with_logits, mnist_loss)  # of a logit for two classes
SHOWN_NUMBERS = 3  # of a target that is several numbers


@dataclass(frozen=True, eq=False)
class Judged:
    """Outputs as classes: `labels` and `predicted`, int64 of shape (n,), and `probabilities`, float64 (n, classes)."""

    labels: Tensor
    predicted: Tensor
    probabilities: Tensor


class Interpretation:
    """The outputs of a Learner over a data set, computed once, for all the functions that look at them.

    Args: `dl`, a loader; the validation set when None. One that shuffles must give the same order twice.
    Raises: DataError where there is no validation set; NonFiniteError for outputs with NaN or infinity.

    >>> import clearloop as cl
    >>> data = cl.TensorDataset(torch.eye(2), torch.tensor([0, 1]))
    >>> learn = cl.Learner((cl.DataLoader(data, 2), cl.DataLoader(data, 2)), nn.Linear(2, 2), device="cpu")
    >>> Interpretation(learn).judged.probabilities.shape
    torch.Size([2, 2])
    """

    def __init__(self, learn: Learner, dl: Any = None) -> None:
        if not isinstance(learn, Learner):
            raise ConfigError(f"expected a Learner, got {type(learn).__name__}")
        self.learn = learn
        self.loader = as_loader(learn.dls.valid if dl is None else dl)
        self.preds, self.targets = learn.get_preds(self.loader)
        check_outputs(self.preds)

    def __len__(self) -> int:
        """How many samples there are."""
        return length(self.targets)

    @cached_property
    def judged(self) -> Judged | None:
        """The outputs as classes; None where the model does not tell classes apart."""
        return judge(self.learn, self.preds, self.targets)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the outputs; their numbers where they have no names."""
        return class_names(self.learn, 0 if self.judged is None else self.judged.probabilities.shape[1])

    @cached_property
    def losses(self) -> Tensor:
        """The loss of each sample alone, float64 of shape (n,); NaN for a target that the loss leaves out."""
        loss_func, device, found = self.learn.loss_func, self.learn.device, []
        assert loss_func is not None
        preds, targets = to_device((self.preds, self.targets), device)
        with self.learn.evaluation(()), torch.no_grad():
            for row in range(len(self)):
                one, its_target = rows_of((preds, targets), row, 1)
                found.append(loss_func(one, its_target).double())
        return torch.stack(found).cpu()

    def inputs(self, rows: Sequence[int]) -> list[Tensor]:
        """The inputs of some samples, gathered in a second pass that ends at the last of them.

        Raises: DataError for inputs of several tensors, or a loader that has another order in its second pass.
        """
        wanted, found, first = set(rows), {}, 0
        with self.learn.evaluation(()):
            for inputs, targets in map(pair, self.loader.batches(0)):
                count = length(targets)
                if not same(targets, rows_of(self.targets, first, count)):
                    raise DataError("the loader has another order each time: give one that does not shuffle")
                here = [row for row in range(first, first + count) if row in wanted]
                found.update({row: one_tensor(inputs)[row - first].clone() for row in here})
                first += count
                if len(found) == len(wanted):
                    break
        return [found[row] for row in rows]


# -- classes ----------------------------------------------------------------------------------------------------------


def interpreted(learn: Learner | Interpretation, dl: Any = None) -> Interpretation:
    """An Interpretation as it is, or one of a Learner."""
    if not isinstance(learn, Interpretation):
        return Interpretation(learn, dl)
    if dl is not None:
        raise ConfigError("an Interpretation is of one loader already: leave out dl, or give the Learner")
    return learn


def judged_by(learn: Learner | Interpretation, dl: Any) -> tuple[Interpretation, Judged]:
    """The outputs as classes, without the samples that the loss leaves out. Raises ModelError where there are none."""
    seen = interpreted(learn, dl)
    judged = judge_all(seen)
    kept = (judged.labels >= 0) & (judged.labels < len(seen.classes))
    if not bool(kept.any()):
        raise DataError("expected a target in one of the classes, got none; give another loader")
    return seen, Judged(judged.labels[kept], judged.predicted[kept], judged.probabilities[kept])


def judge_all(seen: Interpretation) -> Judged:
    """The outputs as classes. Raises ModelError where there are none."""
    if seen.judged is None:
        raise ModelError(
            f"expected a model that tells classes apart, got outputs of {shapes(seen.preds)} for targets of "
            f"{shapes(seen.targets)}; for numbers see residuals"
        )
    return seen.judged


def judge(learn: Learner, preds: Any, targets: Any) -> Judged | None:
    """Outputs and targets as classes; None where the model does not tell classes apart.

    Classes are told by several outputs and whole targets, or probabilities as targets of cross-entropy; or by one
    output with whole targets, or a loss for logits, or probabilities, of two classes; never by a loss of numbers, such
    as `mse_loss`.
    Raises: DataError for a label that is no class, and that the loss does not leave out.
    """
    if not isinstance(preds, Tensor) or not isinstance(targets, Tensor) or preds.ndim not in (1, 2):
        return None
    if is_for_numbers(learn.loss_func):
        return None
    base, options = unwrapped(learn.loss_func)
    whole, scores = not targets.is_floating_point(), preds.double()
    if preds.ndim == 2 and preds.shape[1] > 1:
        soft = base in (F.cross_entropy, soft_cross_entropy) or isinstance(base, nn.CrossEntropyLoss)
        if soft and not whole and targets.shape == preds.shape:
            targets, whole = targets.argmax(dim=1), True
        if not whole or targets.ndim != 1:
            return None
        probabilities = scores.softmax(dim=1)  # of logits; of logarithms of probabilities it is what they are of
        predicted = preds.argmax(dim=1)
    else:
        given = base is F.binary_cross_entropy or isinstance(base, nn.BCELoss)  # the output is a probability
        two = whole or given or base in SIGMOID_LOSSES or isinstance(base, nn.BCEWithLogitsLoss)
        if not two or targets.numel() != len(preds):
            return None
        second = scores.flatten() if given else scores.flatten().sigmoid()
        predicted = (preds.flatten() > (0.5 if given else 0)).long()
        probabilities = torch.stack([1 - second, second], dim=1)
    labels = targets.flatten().round().long()
    ignored = options.get("ignore_index", -100)
    wrong = ((labels < 0) | (labels >= probabilities.shape[1])) & (labels != ignored)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise DataError(f"targets must lie in [0, {probabilities.shape[1]}), got {int(labels[row])} at row {row}")
    return Judged(labels, predicted, probabilities)


def class_names(learn: Learner, count: int) -> tuple[str, ...]:
    """The names of `count` classes; their numbers where they have none."""
    names = learn.dls.classes
    return tuple(names) if names is not None and len(names) == count else tuple(map(str, range(count)))


def name_of(classes: Sequence[str], label: int) -> str:
    """The name of a class; its number where it is none, as a target that the loss leaves out has it."""
    return classes[label] if 0 <= label < len(classes) else str(label)


def some_rows(learn: Learner, dl: Any, n: int) -> tuple[list[int], Tensor, Any, Any]:
    """Places, inputs, outputs and targets, on the CPU, of `n` samples of a loader; of all where there are fewer.

    They are spread over the data, which may be in the order of their classes, where the loader gathers in the order of
    the data; otherwise they are its first.
    """
    if not isinstance(learn, Learner):
        raise ConfigError(f"expected a Learner, got {type(learn).__name__}")
    state, found, count = learn.prepared(), [], 0
    loader, rows = as_loader(learn.dls.valid if dl is None else dl), list(range(n))
    data = data_in_order(loader)
    if data is not None:
        rows = spread(len(data), n)
        loader = DataLoader(Subset(data, rows), n)
    with learn.evaluation(), torch.no_grad():
        for inputs, targets in map(pair, loader.batches(0, device=learn.device)):
            found.append(to_device((one_tensor(inputs), detach(state.forward(inputs)), targets), CPU))
            count += length(targets)
            if count >= n:
                break
    if not found:
        raise DataError("the loader has no batches")
    inputs, preds, targets = rows_of(concatenate(found), 0, n)
    check_outputs(preds)
    return rows[: len(inputs)], inputs, preds, targets


def data_in_order(loader: Any) -> Dataset | None:
    """The data behind a loader that gathers them in their own order; None behind any other."""
    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, SequentialSampler):
        return None
    return loader.dataset if isinstance(loader.dataset, Dataset) and loader.augment is None else None


def spread(count: int, n: int) -> list[int]:
    """Up to `n` of `count` places, the middles of stretches of one length.

    >>> spread(10, 2), spread(2, 5)
    ([2, 7], [0, 1])
    """
    return [(2 * i + 1) * count // (2 * n) for i in range(n)] if n < count else list(range(count))


def check_outputs(preds: Any) -> None:
    """Raise NonFiniteError, with the row, for outputs that hold NaN or infinity."""

    def check(tensor: Tensor) -> None:
        good = torch.isfinite(tensor).reshape(len(tensor), -1).all(dim=1) if tensor.is_floating_point() else None
        if good is not None and not bool(good.all()):
            row = int((~good).nonzero()[0])
            raise NonFiniteError(f"expected finite outputs of the model, got NaN or infinity at row {row}")

    tree_map(check, preds)


def rows_of(tree: Any, first: int, count: int) -> Any:
    """Some rows of every tensor."""
    return tree_map(lambda tensor: tensor[first : first + count], tree)


def one_tensor(inputs: Any) -> Tensor:
    """The inputs, which must be one tensor."""
    if not isinstance(inputs, Tensor):
        raise DataError(f"expected inputs in one tensor, got a {type(inputs).__name__}; pictures of one can be shown")
    return inputs


def same(one: Any, other: Any) -> bool:
    """Whether two trees of tensors hold the same."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, dict):
        return all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return all(same(left, right) for left, right in zip(one, other, strict=True))
    return bool(one == other)


def is_picture(row: Any, image_size: tuple[int, int] | None) -> bool:
    """Whether one input is a picture: (C, H, W) with 1, 3 or 4 channels, or as many numbers as the data's have."""
    if not isinstance(row, Tensor) or not row.is_floating_point():
        return False
    channels = row.ndim == 3 and row.shape[0] in (1, 3, 4)
    return channels or image_size is not None and row.numel() == math.prod(image_size)


def has_pictures(learn: Learner) -> bool:
    """Whether the inputs of a Learner are pictures."""
    inputs, _ = learn.prepared().example
    return isinstance(inputs, Tensor) and is_picture(inputs[0], learn.dls.image_size)


def as_pictures(rows: Tensor, dls: DataLoaders) -> Tensor:
    """Inputs as pictures of shape (n, C, H, W), as they were before they were normalised.

    Raises: DataError where they are none.
    """
    if not is_picture(rows[0], dls.image_size):
        raise DataError(
            f"expected float pictures of shape (C, H, W), got {shapes(rows[0])}; give flat grey ones a "
            "DataLoaders(..., image_size=(H, W))"
        )
    if rows.ndim != 4 or rows.shape[1] not in (1, 3, 4):
        assert dls.image_size is not None
        rows = rows.reshape(len(rows), 1, *dls.image_size)
    if dls.normalize is None or len(dls.normalize.mean) != rows.shape[1]:
        return rows
    mean, std = (rows.new_tensor(numbers).view(-1, 1, 1) for numbers in (dls.normalize.mean, dls.normalize.std))
    return rows * std + mean


def are_numbers(preds: Any, targets: Any) -> bool:
    """Whether outputs and targets are numbers of one shape, a few for each sample."""
    if not isinstance(preds, Tensor) or not isinstance(targets, Tensor):
        return False
    return preds.numel() == targets.numel() and max(preds.ndim, targets.ndim) <= 2


def text_of(target: Tensor, classes: Sequence[str] | None) -> str:
    """One target as text: the name of its class, or its numbers."""
    if classes is not None and target.numel() == 1 and float(target) == int(target):
        return name_of(classes, int(target))
    return texts(target[None])[0]


def texts(tree: Any) -> list[str]:
    """Each row as text: its first numbers; of several tensors the first counts.

    >>> texts(torch.tensor([[1.5, 2.0, 3.0, 4.0]]))
    ['1.5, 2, 3, …']
    """
    rows = tree[0] if isinstance(tree, (tuple, list)) else tree
    found = []
    for numbers in rows.reshape(len(rows), -1).tolist():
        shown = ", ".join(f"{number:.4g}" for number in numbers[:SHOWN_NUMBERS])
        found.append(shown + (", …" if len(numbers) > SHOWN_NUMBERS else ""))
    return found

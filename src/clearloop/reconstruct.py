"""What an autoencoder keeps: its reconstructions, and its codes in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clearloop import interpret_plots as draw
from clearloop.data.loader import as_loader
from clearloop.data.sampler import SequentialSampler
from clearloop.errors import DataError, ModelError
from clearloop.interpretation import CPU, as_pictures, check_outputs, one_tensor, some_rows
from clearloop.learner import Learner
from clearloop.picture_plots import Drawn, check_number, pair_rows
from clearloop.preflight import shapes, stored_targets
from clearloop.step import pair


@dataclass(frozen=True, eq=False, kw_only=True)
class Reconstructions(Drawn):
    """Pictures and what came out for them, (n, C, H, W) both.

    `rows`: their places in the loader's order; `errors`: the mean squared error of each, float64 of shape (n,).
    """

    rows: list[int]
    originals: Tensor
    reconstructions: Tensor
    errors: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedding(Drawn):
    """The codes of a data set.

    `codes`, (n, code length); `points`, float64 of shape (n, 2), the code itself where it is no longer than that, else
    its first two principal components; `explained`, which share of the codes' variance each of the two has; `labels`,
    int64 of shape (n,), or None.
    """

    codes: Tensor
    points: Tensor
    explained: tuple[float, float]
    labels: Tensor | None


def reconstructions(learn: Learner, dl: Any = None, n: int = 10, path: str | Path | None = None) -> Reconstructions:
    """Draw pictures from all over the validation set above what the model makes of them.

    Args: `dl`, another set of pictures, as for `show_results`; `n`, how many, up to 64; `path`, where to save the
    figure. A model that gives several tensors gives the reconstruction first.
    Raises: DataError for data that are no pictures; ModelError for outputs of another size than the inputs.
    """
    check_number(n)
    rows, inputs, preds, _ = some_rows(learn, dl, n)
    made = preds[0] if isinstance(preds, (tuple, list)) else preds
    originals = as_pictures(inputs, learn.dls)
    if not isinstance(made, Tensor) or made.numel() != inputs.numel():
        raise ModelError(
            f"expected a reconstruction of each picture, {shapes(inputs)}, got {shapes(made)}; show_results draws "
            "what other models say"
        )
    errors = (made.double().flatten(1) - inputs.double().flatten(1)).square().mean(dim=1)  # on the scale of the model
    made = as_pictures(made.reshape(inputs.shape), learn.dls)
    figure = pair_rows(list(originals), list(made), f"Mean squared error of these: {float(errors.mean()):.4f}")
    figure.write(path)
    return Reconstructions(figure=figure, rows=rows, originals=originals, reconstructions=made, errors=errors)


def embedding(
    learn: Learner,
    dl: Any = None,
    labels: Tensor | Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    path: str | Path | None = None,
) -> Embedding:
    """Draw the codes of a data set, each class in its colour.

    Args:
        dl: the validation set when None.
        labels: class numbers in the loader's order; when None the targets, if they are whole numbers, or those that
            are stored with data which are their own targets.
        classes: the names of the classes; those of the data, or else numbers, when None.
        path: where to save the figure, in the format of its suffix.

    Raises: ModelError for a model without `encoder`; DataError for another number of labels than samples.
    """
    codes, targets = encoded(learn, dl)
    known = targets if labels is None else torch.as_tensor(labels)
    shown = None
    if known is not None:
        if known.shape != (len(codes),) or known.is_floating_point() or bool((known < 0).any()):
            raise DataError(f"expected a class number from 0 on for each of {len(codes)} samples, got {shapes(known)}")
        shown = known.long().cpu()
    count = 0 if shown is None else int(shown.max()) + 1
    names = classes or learn.dls.classes
    names = list(names) if names is not None and len(names) >= count else [str(label) for label in range(count)]
    points, explained = in_two_dimensions(codes)
    if codes.shape[1] <= 2:
        axes = ["code, first number", "code, second number" if codes.shape[1] == 2 else "(a code of one number)"]
    else:
        axes = [f"principal component {i + 1} ({part:.0%} of the variance)" for i, part in enumerate(explained)]
    figure = draw.cloud(points.numpy(), None if shown is None else shown.numpy(), names, axes)
    figure.write(path)
    return Embedding(figure=figure, codes=codes, points=points, explained=explained, labels=shown)


def encoded(learn: Learner, dl: Any = None) -> tuple[Tensor, Tensor | None]:
    """The codes of a data set, float32 of shape (n, code length), and its targets where they are class numbers."""
    encoder = getattr(learn.model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        kind = type(learn.model).__name__
        raise ModelError(
            f"expected a model with an encoder and a decoder, as models.autoencoder has them, got a {kind}"
        )
    learn.prepared()
    codes, labels = [], []
    loader = as_loader(learn.dls.valid if dl is None else dl)
    with learn.evaluation(), torch.no_grad():
        for inputs, targets in map(pair, loader.batches(0, device=learn.device)):
            codes.append(encoder(one_tensor(inputs)).detach().flatten(1).to(CPU))
            if isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point():
                labels.append(targets.to(CPU))
    if not codes:
        raise DataError("the loader has no batches")
    found = torch.cat(codes)
    check_outputs(found)
    return found, torch.cat(labels) if labels else stored_labels(loader, len(found))


def stored_labels(loader: Any, count: int) -> Tensor | None:
    """The class numbers in memory behind a loader that keeps their order; None where there are none."""
    targets = stored_targets(loader) if isinstance(getattr(loader, "sampler", None), SequentialSampler) else None
    if targets is None or targets.shape != (count,) or targets.is_floating_point():
        return None
    return targets


def in_two_dimensions(codes: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Codes (n, d) as points (n, 2), and the share of the variance along each axis.

    Codes of up to two numbers are taken as they are. Otherwise the points are the first two principal components,
    each with the sign that makes its largest weight positive.

    >>> points, explained = in_two_dimensions(torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]]))
    >>> points.tolist(), explained
    ([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]], (0.8, 0.2))
    """
    values = codes.double()
    centred = values - values.mean(dim=0)
    if codes.shape[1] <= 2:
        points = torch.cat([values, values.new_zeros(len(values), 2 - values.shape[1])], dim=1)
        variances = torch.cat([centred.square().sum(dim=0), values.new_zeros(2 - values.shape[1])])
        total = variances.sum()
    else:
        spread, axes = torch.linalg.eigh(centred.T @ centred)  # smallest first
        axes, variances, total = axes[:, -2:].flip(1), spread[-2:].flip(0), spread.sum()
        largest = axes.abs().argmax(dim=0)
        axes = axes * axes[largest, torch.arange(2)].sign()
        points = centred @ axes + 0.0  # no negative zero
    first, second = (variances / total).tolist() if total > 0 else (0.0, 0.0)
    return points, (first, second)

"""What a trained model does: pictures with predictions, confusion, losses, errors; each as data and as a figure.

Every function takes a Learner and evaluates it as `learn.get_preds` does, so that a training that goes on afterwards
goes on to the same bits. Those that look at a whole data set also take an `Interpretation`, which holds the outputs
over it: several looks then cost one pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clearloop import interpret_plots as draw
from clearloop.adapters import as_loaders
from clearloop.errors import ModelError
from clearloop.interpretation import (
    CPU,
    SHOWN_NUMBERS,
    Interpretation,
    are_numbers,
    as_pictures,
    class_names,
    has_pictures,
    interpreted,
    judge,
    judge_all,
    judged_by,
    name_of,
    one_tensor,
    some_rows,
    text_of,
    texts,
)
from clearloop.learner import Learner
from clearloop.model_summary import summary
from clearloop.picture_plots import Drawn, check_number, picture_grid, short
from clearloop.preflight import first_batch, shapes
from clearloop.reconstruct import embedding, reconstructions
from clearloop.tree import tree_map

# -- pictures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch(Drawn):
    """Pictures of a batch, float tensor of shape (n, C, H, W), and what is written over each."""

    images: Tensor
    titles: list[str]


@dataclass(frozen=True, eq=False, kw_only=True)
class Results(Drawn):
    """Pictures with targets and predictions as text.

    `rows`: their places in the loader's order; `right`: whether target and prediction agree, None without classes.
    """

    rows: list[int]
    images: Tensor
    targets: list[str]
    predictions: list[str]
    right: list[bool] | None


def show_batch(dls: Any, n: int = 9, path: str | Path | None = None) -> Batch:
    """Draw the first pictures of the first training batch, as the model gets them, with their targets.

    Args: `dls`, DataLoaders, a pair of loaders, or a Learner; `n`, at most so many pictures, up to 64; `path`, where
    to save the figure, in the format of its suffix.
    Raises: DataError for data that are no pictures.
    """
    check_number(n)
    dls = dls.dls if isinstance(dls, Learner) else as_loaders(dls)
    inputs, targets = first_batch(dls.train, CPU)
    images = as_pictures(one_tensor(inputs)[:n], dls)
    labelled = isinstance(targets, Tensor) and targets.shape[1:].numel() <= SHOWN_NUMBERS
    titles = [text_of(target, dls.classes) for target in targets[:n]] if labelled else [""] * len(images)
    figure = picture_grid(list(images), titles, heading="Training pictures")
    figure.write(path)
    return Batch(figure=figure, images=images, titles=titles)


def show_results(learn: Learner, dl: Any = None, n: int = 9, path: str | Path | None = None) -> Results:
    """Draw pictures from all over the validation set with target and prediction; those that differ are framed.

    Args: as for `show_batch`; `dl`, another set of pictures than the validation set, of which a loader of another
    library, or one that shuffles, gives the first.
    Raises: DataError for data that are no pictures.
    """
    check_number(n)
    rows, inputs, preds, targets = some_rows(learn, dl, n)
    images = as_pictures(inputs, learn.dls)
    judged = judge(learn, preds, targets)
    if judged is None:
        targets_text, predictions = texts(targets), texts(preds)
        figure = picture_grid(
            list(images), captions(targets_text, predictions, [""] * len(predictions)), heading="Predictions"
        )
        right = None
    else:
        classes = class_names(learn, judged.probabilities.shape[1])
        targets_text = [name_of(classes, label) for label in judged.labels.tolist()]
        predictions = [classes[label] for label in judged.predicted.tolist()]
        right = (judged.labels == judged.predicted).tolist()
        sure = judged.probabilities.amax(dim=1).tolist()
        titles = captions(targets_text, predictions, [f" ({part:.2f})" for part in sure])
        wrong = [not fine for fine in right]
        figure = picture_grid(list(images), titles, wrong, heading=f"{sum(wrong)} of {len(wrong)} wrong")
    figure.write(path)
    return Results(figure=figure, rows=rows, images=images, targets=targets_text, predictions=predictions, right=right)


def captions(targets: list[str], predictions: list[str], sure: list[str]) -> list[str]:
    """Two lines over each picture; names are cut to fit, what is said of their probability is not."""
    return [
        f"target {short(target)}\nsaid {short(said)}{probability}"
        for target, said, probability in zip(targets, predictions, sure, strict=True)
    ]


# -- classes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Confusion(Drawn):
    """How often each class was taken for each: `counts`, int64 of shape (classes, classes), a row for each target."""

    counts: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of one class, in [0, 1], 0 where they are 0/0; `count`, how many targets it has."""

    name: str
    precision: float
    recall: float
    f1: float
    count: int


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassTable(Drawn):
    """The scores of each class; printed, a table."""

    rows: list[ClassScores]
    accuracy: float

    def __str__(self) -> str:
        width = max(len("class"), *(len(row.name) for row in self.rows))
        lines = [f"{'class':<{width}}  precision  recall      f1   count"]
        for row in self.rows:
            lines.append(f"{row.name:<{width}}  {row.precision:9.4f}  {row.recall:6.4f}  {row.f1:6.4f}  {row.count:6d}")
        return "\n".join([*lines, f"accuracy {self.accuracy:.4f}"])


def confusion_matrix(
    learn: Learner | Interpretation, dl: Any = None, *, normalize: bool = False, path: str | Path | None = None
) -> Confusion:
    """Count, for each class, what its samples were taken for.

    Args: `normalize` writes per cents of each row into the figure; `dl`, `path` as for `show_results`.
    Raises: ModelError where the model does not tell classes apart.
    """
    seen, judged = judged_by(learn, dl)
    counts = confusion_counts(judged.labels, judged.predicted, len(seen.classes))
    figure = draw.heat_map(counts, seen.classes, normalize)
    figure.write(path)
    return Confusion(figure=figure, counts=counts, classes=seen.classes)


def class_table(learn: Learner | Interpretation, dl: Any = None, path: str | Path | None = None) -> ClassTable:
    """Precision, recall and F1 of each class, with the number of its samples.

    Args: `dl`, `path` as for `show_results`. Raises: ModelError where the model does not tell classes apart.
    """
    seen, judged = judged_by(learn, dl)
    counts = confusion_counts(judged.labels, judged.predicted, len(seen.classes)).double()
    hits, asked, said = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    precision, recall, f1 = share(hits, said), share(hits, asked), share(2 * hits, asked + said)
    rows = [
        ClassScores(name, float(precision[i]), float(recall[i]), float(f1[i]), int(asked[i]))
        for i, name in enumerate(seen.classes)
    ]
    figure = draw.class_bars(rows)
    figure.write(path)
    return ClassTable(figure=figure, rows=rows, accuracy=float(hits.sum() / counts.sum()))


def confusion_counts(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts of shape (classes, classes), rows for `labels`, columns for `predicted`.

    >>> confusion_counts(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, 0 where both are 0."""
    return part / whole.clamp(min=1)


# -- losses ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TopLoss:
    """A sample that the model does badly on. `index`: its place in the loader's order, from 0.

    `probability`: of the class that was predicted; None where there are no classes.
    """

    index: int
    loss: float
    target: str
    prediction: str
    probability: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class TopLosses(Drawn):
    """Samples with the largest losses, the largest first; printed, a line for each."""

    rows: list[TopLoss]

    def __str__(self) -> str:
        lines = [f"{'index':>7}  {'loss':>9}  target, prediction"]
        for row in self.rows:
            sure = "" if row.probability is None else f" ({row.probability:.3f})"
            lines.append(f"{row.index:7d}  {row.loss:9.4g}  {row.target}, {row.prediction}{sure}")
        return "\n".join(lines)


def top_losses(
    learn: Learner | Interpretation, dl: Any = None, n: int = 9, path: str | Path | None = None
) -> TopLosses:
    """Find the samples with the largest losses and draw them: as pictures, or as bars where they are none.

    Of equal losses the first come first. Targets that the loss leaves out are left out. The loss of a sample is that
    of the Learner's loss function on this sample alone.

    Args: `n`, how many, up to 64; `dl`, `path` as for `show_results`.
    """
    check_number(n)
    seen = interpreted(learn, dl)
    order = torch.sort(seen.losses.nan_to_num(nan=-math.inf), descending=True, stable=True).indices
    chosen = [row for row in order.tolist() if not bool(seen.losses[row].isnan())][:n]
    rows = [top_loss(seen, row) for row in chosen]
    if rows and has_pictures(seen.learn):
        images = list(as_pictures(torch.stack(seen.inputs(chosen)), seen.learn.dls))
        figure = picture_grid(images, [loss_caption(row) for row in rows], heading="Largest losses")
    else:
        figure = draw.loss_bars(rows)
    figure.write(path)
    return TopLosses(figure=figure, rows=rows)


def top_loss(seen: Interpretation, row: int) -> TopLoss:
    """What is to be said about one sample."""
    loss = float(seen.losses[row])
    if seen.judged is None:
        target, prediction = (
            texts(tree_map(lambda t: t[row : row + 1], tree))[0] for tree in (seen.targets, seen.preds)
        )
        return TopLoss(row, loss, target, prediction, None)
    said = int(judge_all(seen).predicted[row])
    label = int(judge_all(seen).labels[row])
    sure = float(judge_all(seen).probabilities[row, said])
    return TopLoss(row, loss, name_of(seen.classes, label), seen.classes[said], sure)


def loss_caption(row: TopLoss) -> str:
    """Three lines over a picture."""
    sure = "" if row.probability is None else f" ({row.probability:.2f})"
    return f"target {short(row.target)}\nsaid {short(row.prediction)}{sure}\n#{row.index}, loss {row.loss:.3g}"


# -- numbers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Residuals(Drawn):
    """Predictions, targets and their differences (target minus prediction), float64 of shape (n, outputs)."""

    predictions: Tensor
    targets: Tensor
    residuals: Tensor
    rmse: list[float]
    r2: list[float]


def residuals(learn: Learner | Interpretation, dl: Any = None, path: str | Path | None = None) -> Residuals:
    """Draw predictions against targets, and what is left over against predictions, for each output.

    Args: `dl`, `path` as for `show_results`. The figure has the first four outputs.
    Returns: with them RMSE and R squared of each output; R squared is NaN for targets of one value.
    Raises: ModelError where the model does not predict numbers.
    """
    seen = interpreted(learn, dl)
    if seen.judged is not None or not are_numbers(seen.preds, seen.targets):
        raise ModelError(
            f"expected a model that predicts numbers, got outputs of {shapes(seen.preds)} for targets of "
            f"{shapes(seen.targets)}; for classes see confusion_matrix"
        )
    targets = seen.targets.double().reshape(len(seen), -1)
    predictions = seen.preds.double().reshape(len(seen), -1)
    left = targets - predictions
    spread = (targets - targets.mean(dim=0)).square().sum(dim=0)
    r2 = torch.where(spread > 0, 1 - left.square().sum(dim=0) / spread, math.nan).tolist()
    rmse = left.square().mean(dim=0).sqrt().tolist()
    figure = draw.residual_panels(targets.numpy(), predictions.numpy(), rmse, r2)
    figure.write(path)
    return Residuals(figure=figure, predictions=predictions, targets=targets, residuals=left, rmse=rmse, r2=r2)


# -- all of them -------------------------------------------------------------------------------------------------------


def write_plots(learn: Learner, folder: str | Path) -> list[Path]:
    """Write every figure that fits the task of a Learner into a folder; returns the files, in order.

    For classes confusion.png, per_class.png and top_losses.png; for numbers residuals.png and top_losses.png; for an
    autoencoder reconstructions.png and embedding.png; for pictures batch.png and results.png; always model.png. Without
    a validation set, batch.png and model.png alone.
    """
    folder = Path(folder)
    written: list[Path] = []

    def to(name: str) -> Path:
        written.append(folder / f"{name}.png")
        return written[-1]

    pictures, coding = has_pictures(learn), isinstance(getattr(learn.model, "encoder", None), nn.Module)
    if learn.dls.valid is not None and coding:
        embedding(learn, path=to("embedding"))
        if pictures:
            reconstructions(learn, path=to("reconstructions"))
    elif learn.dls.valid is not None:
        seen = Interpretation(learn)
        if seen.judged is not None:
            confusion_matrix(seen, path=to("confusion"))
            class_table(seen, path=to("per_class"))
        elif are_numbers(seen.preds, seen.targets):
            residuals(seen, path=to("residuals"))
        if seen.judged is not None or are_numbers(seen.preds, seen.targets):
            top_losses(seen, path=to("top_losses"))
        if pictures and isinstance(seen.preds, Tensor) and seen.preds.ndim <= 2:
            show_results(learn, path=to("results"))
    if pictures:
        show_batch(learn, path=to("batch"))
    summary(learn, path=to("model"))
    return written

"""Looks at model, loss and data together before the first step, so that what cannot work fails with a clear word."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clearloop import rng
from clearloop.adapters import default_loss
from clearloop.component import unwrapped
from clearloop.data.arrays import check_finite, is_finite
from clearloop.data.dataset import Subset, TensorDataset
from clearloop.data.loader import ForeignLoader, Loader
from clearloop.data.loaders import DataLoaders
from clearloop.devices import under_autocast
from clearloop.errors import ConfigError, DataError, ModelError
from clearloop.guard import evaluating
from clearloop.losses import LossFunc, count_for, mnist_loss, soft_cross_entropy
from clearloop.metrics import Metric
from clearloop.step import TrainState, pair
from clearloop.tree import Tree, detach, leaves, tree_map


def check_options(model: nn.Module, lr: float, clip: float | None = None, accumulate: int = 1, epochs: int = 1) -> None:
    """Raise ConfigError for options that cannot work, ModelError for a model without parameters."""
    if not lr >= 0 or not math.isfinite(lr):
        raise ConfigError(f"lr must be a finite number of 0 or more, got {lr}")
    if clip is not None and not clip > 0:
        raise ConfigError(f"clip must be above 0, or None for no clipping; got {clip}")
    for name, number in (("accumulate", accumulate), ("epochs", epochs)):
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, got {number!r}")
    if not any(True for _ in model.parameters()):
        raise ModelError("the model has no parameters, so there is nothing to train")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ConfigError("the model is on the meta device, without values: build it on the CPU, or fill it, first")


def prepare(
    dls: DataLoaders,
    device: torch.device,
    precision: str | None,
    model: nn.Module,
    opt: Any,
    loss_func: LossFunc | None,
    clip: float | None,
    scaler: Any,
    metrics: Sequence[Metric],
) -> TrainState:
    """What steps are taken with, after a look at a batch: how the model is called, the loss, and that all fits."""
    inputs, targets = first_batch(dls.train, device)
    loss_func = loss_func or default_loss(targets)
    forward = under_autocast(callable_for(model, inputs), precision, device)
    if isinstance(loss_func, nn.Module):
        loss_func.to(device)  # its class weights
    check_parameters(model, opt)
    counts = count_for(loss_func, plain=plain_labels(dls))
    state = TrainState(model, opt, loss_func, forward, counts, clip, scaler, (inputs, targets))
    check_fit(state, dls, metrics)
    return state


def first_batch(loader: Loader, device: torch.device) -> tuple[Any, Any]:
    """The first batch of epoch 0 as (inputs, targets), without a trace in any random state.

    Raises: DataError if the loader is empty or its batches are not (inputs, ..., targets).
    """
    with rng.preserved():
        batch = next(iter(loader.batches(0, device=device)), None)
    if batch is None:
        raise DataError("the training loader has no batches")
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise DataError(
            f"a batch must be a tuple (inputs, targets), got {type(batch).__name__}"
            f"{' of length 1' if isinstance(batch, (tuple, list)) else ''}; give the loader a collate_fn that makes one"
        )
    return pair(batch)


def check_parameters(model: nn.Module, opt: Any) -> None:
    """Raise ModelError for parameters of the optimizer that are not the model's: no checkpoint would hold them."""
    own = {id(parameter) for parameter in model.parameters()}
    foreign = sum(id(parameter) not in own for group in opt.param_groups for parameter in group["params"])
    if foreign:
        raise ModelError(
            f"the optimizer trains {foreign} parameters that are not the model's (a loss's, perhaps); put what has "
            "them into the model, so that they are saved with it"
        )


def plain_labels(dls: DataLoaders) -> bool:
    """Whether all labels are in memory and none is -100, which cross-entropy leaves out of its mean by default."""
    parts = [stored_targets(loader) for loader in (dls.train, dls.valid) if loader is not None]
    return all(part is not None and (part.is_floating_point() or not bool((part == -100).any())) for part in parts)


def check_fit(state: TrainState, dls: DataLoaders, metrics: Sequence[Metric]) -> None:
    """One forward pass, loss and metrics over two samples, and a look at all targets that are in memory.

    Raises: ModelError where model, loss and data do not fit; DataError for NaN in the data or labels out of range.
    """
    if isinstance(dls.train, ForeignLoader):
        warnings.warn(
            "the training loader keeps its own order: a run that resumes inside an epoch will not be exact",
            stacklevel=5,
        )
    closure = inspect.signature(state.opt.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(
            f"{type(state.opt).__name__} computes several losses a step, by a closure that it asks for; "
            "use an optimizer that takes one gradient a step, such as Adam"
        )
    for part, loader in (("training", dls.train), ("validation", dls.valid)):
        tensors, rows = stored(loader)
        for number, tensor in enumerate(tensors):
            if tensor.is_floating_point() and not all(map(is_finite, chunks(tensor, rows))):
                check_finite(tensor if rows is None else tensor[rows], f"the {part} data, array {number}")
    if isinstance(dls.valid, ForeignLoader) and len(dls.valid) == 0:
        raise DataError("the validation loader has no batches; give None for no validation")
    few_inputs, few_targets = tree_map(lambda tensor: tensor[:2] if tensor.ndim else tensor, state.example)
    with evaluating(state.model), torch.enable_grad():  # a loss may ask for gradients itself
        try:
            preds = state.forward(few_inputs)
        except Exception as error:  # a forward written by a user can raise anything
            raise ModelError(
                f"the model does not take inputs of {shapes(few_inputs)}: {one_line(error)}; change its first layer, "
                "reshape the inputs (nn.Flatten() for a linear layer on images), or make them float32 (x.float())"
            ) from error
        check_width(preds, dls, unwrapped(state.loss_func)[1].get("ignore_index", -100))
        check_classes(preds, few_targets, dls)
        loss = checked_loss(state.loss_func, preds, few_targets)
    if not torch.is_tensor(loss) or loss.ndim:
        came = shapes(loss) if torch.is_tensor(loss) else type(loss).__name__
        raise ModelError(
            f"the loss must give one number, a mean over samples; got {came}; use .mean() or reduction='mean'"
        )
    with evaluating(state.model), torch.no_grad():
        for metric in metrics:
            check_metric(metric, preds, few_targets)


def check_metric(metric: Metric, preds: Tree, targets: Tree) -> None:
    """Call a metric once, rather than find after an epoch that it cannot be computed."""
    try:
        metric(detach(preds), targets)
    except (TypeError, AttributeError, IndexError, NameError, RuntimeError) as error:
        raise ModelError(
            f"the metric {metric.name} does not fit predictions of {shapes(preds)} and targets of {shapes(targets)}: "
            f"{one_line(error)}"
        ) from error


def checked_loss(loss_func: LossFunc, preds: Tree, targets: Tree) -> Tensor:
    """The loss, with torch's broadcasting warning and its errors turned into a ModelError."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*target size.*")
        base = unwrapped(loss_func)[0]
        name = getattr(base, "__name__", type(base).__name__)
        try:
            if base in (mnist_loss, soft_cross_entropy) and preds.shape != targets.shape:
                raise ValueError("their shapes must be the same, or they are broadcast against each other")
            loss = loss_func(preds, targets)
        except Exception as error:  # a loss written by a user can raise anything
            if "out of bounds" in str(error):  # of data that are not in memory, or check_width would know the row
                raise DataError(
                    f"{name}: {one_line(error)}; labels must lie in [0, outputs): mend them or widen the last layer"
                ) from error
            raise ModelError(
                f"{name} does not fit predictions of {shapes(preds)} and targets of {shapes(targets)}: "
                f"{one_line(error)}; cross-entropy needs int64 targets of shape (batch_size,), regression losses and "
                "binary_cross_entropy_with_logits need float targets of the predictions' own shape: y.float(), and "
                "y.unsqueeze(1) for one output"
            ) from error
    if torch.is_tensor(loss) and broadcast(loss_func, loss, preds, targets):
        warnings.warn(
            f"predictions of {shapes(preds)} and targets of {shapes(targets)}: {name} may compare each with each; "
            "give both one shape",
            stacklevel=6,
        )
    return loss


def broadcast(loss_func: LossFunc, loss: Tensor, preds: Tree, targets: Tree) -> bool:
    """Whether (n, 1) predictions meet (n,) targets, or the reverse, in a loss that makes a square of them."""
    if not isinstance(preds, Tensor) or not isinstance(targets, Tensor) or preds.numel() != targets.numel():
        return False
    if preds.shape == targets.shape or not targets.is_floating_point() or max(preds.ndim, targets.ndim) != 2:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            square = loss_func(*torch.broadcast_tensors(preds, targets))  # each compared with each
            column = loss_func(preds.reshape(-1), targets.reshape(-1))  # each with its own
    except Exception:  # it asks for the shapes that it was given
        return False
    return bool(torch.isclose(loss, square).all()) and not bool(torch.isclose(loss, column).all())


def check_width(preds: Tree, dls: DataLoaders, ignored: int) -> None:
    """Class labels must lie in [0, outputs): the first that does not is named with its row."""
    if not isinstance(preds, Tensor) or preds.ndim < 2 or preds.shape[1] == 1:
        return
    outputs = preds.shape[1]
    for part, loader in (("training", dls.train), ("validation", dls.valid)):
        targets = stored_targets(loader)
        if targets is None or targets.dtype not in (torch.int64, torch.uint8) or targets.ndim != 1:
            continue
        wrong = ((targets < 0) | (targets >= outputs)) & (targets != ignored)
        if bool(wrong.any()):
            low, high, row = *(int(edge) for edge in torch.aminmax(targets)), int(wrong.nonzero()[0])
            raise DataError(
                f"targets must lie in [0, {outputs}), the model has {outputs} outputs; the {part} data hold "
                f"{low}..{high}, first at row {row}; widen the last layer or mend the labels"
            )


def check_classes(preds: Tree, targets: Tree, dls: DataLoaders) -> None:
    """A model that tells classes apart needs an output for each."""
    if dls.classes is None or not isinstance(preds, Tensor) or preds.ndim != 2 or not isinstance(targets, Tensor):
        return
    outputs, labels = preds.shape[1], targets.ndim == 1 and not targets.is_floating_point()
    if labels and outputs not in (1, len(dls.classes)):
        raise ModelError(f"the model has {outputs} outputs for {len(dls.classes)} classes; change the last layer")


def stored(loader: Loader | None) -> tuple[list[Tensor], Tensor | None]:
    """The tensors behind a loader, where they are in memory, and which of their rows its samples are (None: all)."""
    dataset: Any = getattr(loader, "dataset", None)
    rows = torch.arange(len(dataset)) if isinstance(dataset, Subset) else None
    while isinstance(dataset, Subset):
        dataset, rows = dataset.dataset, dataset.indices[rows]
    known = isinstance(dataset, (TensorDataset, torch.utils.data.TensorDataset))
    return (list(dataset.tensors), rows) if known else ([], None)


def stored_tensors(loader: Loader | None) -> list[Tensor]:
    """The tensors behind a loader, in the order of its own samples, where they are in memory; else none.

    This copies the samples of a Subset; `stored` does not.
    """
    tensors, rows = stored(loader)
    return tensors if rows is None else [tensor[rows] for tensor in tensors]


def stored_targets(loader: Loader | None) -> Tensor | None:
    """The last of `stored_tensors`, without a copy of the others; None where the data are not in memory."""
    tensors, rows = stored(loader)
    return None if not tensors else tensors[-1] if rows is None else tensors[-1][rows]


def chunks(tensor: Tensor, rows: Tensor | None, step: int = 1, size: int = 2**24) -> Iterator[Tensor]:
    """Every `step`-th of the rows of a tensor, in pieces of about `size` bytes, so that nothing is copied as a whole.

    >>> [piece.tolist() for piece in chunks(torch.arange(5), torch.tensor([4, 2, 0]), step=2)]
    [[4, 0]]
    """
    count = max(1, size // max(1, tensor[:1].numel() * tensor.element_size()))
    if rows is None:
        yield from tensor[::step].split(count)
    else:
        yield from (tensor[part] for part in rows[::step].split(count))


def callable_for(model: nn.Module, inputs: Any) -> Any:
    """The model as its inputs need it called: `model(x)`, `model(*tuple)` or `model(**dict)`."""
    if isinstance(inputs, (tuple, list)):
        return lambda inputs: model(*inputs)
    if isinstance(inputs, dict):
        return lambda inputs: model(**inputs)
    return model


def shapes(tree: Tree) -> str:
    """Shapes and dtypes, for messages.

    >>> shapes((torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)))
    '(2, 3) float32, (2,) int64'
    """
    return ", ".join(
        f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}" if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in leaves(tree)
    )


def one_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")

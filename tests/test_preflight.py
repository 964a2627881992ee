"""What cannot work is refused before the first step, with what was expected, what came, and what to do."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import data as torch_data

import clearloop
from clearloop import (
    ConfigError,
    DataError,
    DataLoader,
    DataLoaders,
    Learner,
    ModelError,
    Subset,
    TensorDataset,
    models,
)
from clearloop.preflight import callable_for, check_options, shapes, stored_tensors


def check(
    inputs: Any, targets: Any, model: nn.Module, loss_func: Any = None, valid: Any = None, **options: Any
) -> Learner:
    """Look at everything, as the first fit does; the weights must not have moved when something is refused."""
    dls = (
        DataLoader(TensorDataset(inputs, targets), 4),
        None if valid is None else DataLoader(TensorDataset(*valid), 4),
    )
    learn = Learner(dls, model, loss_func, device="cpu", seed=0, **options)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        learn.fit(1, 0.1, quiet=True)
    except Exception:
        assert learn.history.steps == 0
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        raise
    return learn


X = torch.randn(10, 4)
LABELS = torch.arange(10) % 3
FLOATS = torch.randn(10)


@pytest.mark.parametrize("loss_func", [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, nn.MSELoss(), None])
def test_regression_targets_of_another_shape_than_the_predictions_are_refused(loss_func):
    with pytest.raises(ModelError, match=r"predictions of \(2, 1\) float32 and targets of \(2,\) float32") as caught:
        check(X, FLOATS, nn.Linear(4, 1), loss_func)
    assert "need float targets of the predictions' own shape" in str(caught.value)
    check(X, FLOATS[:, None], nn.Linear(4, 1), loss_func)


@pytest.mark.parametrize("loss_func", [clearloop.mnist_loss, functools.partial(clearloop.mnist_loss)])
def test_the_two_class_loss_refuses_what_would_be_broadcast(loss_func):
    with pytest.raises(ModelError, match=r"mnist_loss does not fit predictions of \(2, 1\).*shapes must be the same"):
        check(X, LABELS, nn.Linear(4, 1), loss_func)
    check(X, LABELS[:, None], nn.Linear(4, 1), loss_func)


@pytest.mark.parametrize("targets", [FLOATS, torch.randn(10, 5), LABELS.int(), torch.zeros(10, 2, dtype=torch.int64)])
def test_cross_entropy_refuses_targets_that_are_no_labels(targets):
    with pytest.raises(ModelError, match=r"cross_entropy does not fit .* cross-entropy needs int64 targets of shape"):
        check(X, targets, nn.Linear(4, 3), F.cross_entropy)


def test_labels_are_no_targets_for_regression():
    with pytest.raises(ModelError, match=r"mse_loss does not fit predictions of \(2, 3\) .* targets of \(2,\) int64"):
        check(X, LABELS, nn.Linear(4, 3), F.mse_loss)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize(("row", "label"), [(0, 3), (7, 3), (9, 200)])
def test_a_label_that_the_model_has_no_output_for_is_named_with_its_row(row, label, dtype):
    labels = LABELS.clone().to(dtype)
    labels[row] = label
    with pytest.raises(
        DataError, match=rf"targets must lie in \[0, 3\), .* training data hold 0..{label}, first at row {row}"
    ):
        check(X, labels, nn.Linear(4, 3), F.cross_entropy)
    with pytest.raises(DataError, match=rf"the validation data hold 0..{label}, first at row {row}"):
        check(X, LABELS, nn.Linear(4, 3), F.cross_entropy, valid=(X, labels))


def test_a_negative_label_is_named_with_its_row():
    labels = LABELS.clone()
    labels[4] = -1
    with pytest.raises(DataError, match=r"hold -1..2, first at row 4"):
        check(X, labels, nn.Linear(4, 3))


def test_rows_of_a_subset_are_counted_in_the_subset():
    labels = LABELS.clone()
    labels[6] = 5
    part = Subset(Subset(TensorDataset(X, labels), [9, 8, 7, 6, 5]), [1, 2, 3])
    assert [tensor.tolist() for tensor in stored_tensors(DataLoader(part))][1] == labels[[8, 7, 6]].tolist()
    with pytest.raises(DataError, match="first at row 2"):
        Learner((DataLoader(part, 2), None), nn.Linear(4, 3), device="cpu").prepared()


class Stream(torch_data.IterableDataset):
    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def __iter__(self):
        return zip(X, self.targets, strict=True)


@pytest.mark.parametrize(
    "loader", [lambda y: DataLoader(list(zip(X, y, strict=True)), 4), lambda y: torch_data.DataLoader(Stream(y), 4)]
)
@pytest.mark.filterwarnings("ignore:the training loader keeps its own order")
def test_a_label_out_of_range_in_data_that_are_not_in_memory_is_refused_where_it_is_seen(loader):
    with pytest.raises(DataError, match=r"cross_entropy: Target 7 is out of bounds; labels must lie in \[0, outputs\)"):
        Learner((loader(LABELS + 7), None), nn.Linear(4, 3), device="cpu").fit(1, 0.1, quiet=True)


def test_a_model_with_another_number_of_outputs_than_there_are_classes_is_refused():
    data = DataLoader(TensorDataset(X, LABELS), 4)
    learn = Learner(DataLoaders(data, classes=["a", "b", "c"]), nn.Linear(4, 5), device="cpu")
    with pytest.raises(ModelError, match="the model has 5 outputs for 3 classes; change the last layer"):
        learn.fit(1, 0.1, quiet=True)


@pytest.mark.parametrize(
    "model", [nn.Linear(5, 3), nn.Conv2d(1, 3, 3), nn.Embedding(3, 3), nn.Bilinear(4, 4, 3)], ids=str
)
def test_inputs_that_the_model_does_not_take_are_refused_with_their_shape(model):
    with pytest.raises(
        ModelError, match=r"the model does not take inputs of \(2, 4\) float32: .*; change its first layer"
    ):
        check(X, LABELS, model)


class Asserting(nn.Linear):
    def forward(self, inputs: Any) -> Tensor:
        assert inputs["pixels"].ndim == 4, "expected images"
        return super().forward(inputs)


@pytest.mark.parametrize("inputs", [X, {"pixels": X}], ids=["no dict", "dict"])
def test_whatever_a_forward_pass_raises_becomes_a_model_error(inputs):
    class Items:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"inputs": {"pixels": X[index]}} if isinstance(inputs, dict) else X[index], 1

    with pytest.raises(ModelError, match="the model does not take inputs of") as caught:
        Learner((DataLoader(Items(), 2), None), Asserting(4, 3), device="cpu").fit(1, 0.1, quiet=True)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_are_named(value):
    spoiled = X.clone()
    spoiled[6, 2] = spoiled[8, 0] = value
    message = r"array 0: row 6 holds NaN or infinity \(2 such rows of 10\); remove or fill them first"
    with pytest.raises(DataError, match="the training data, " + message):
        check(spoiled, LABELS, nn.Linear(4, 3))
    with pytest.raises(DataError, match="the validation data, " + message):
        check(X, LABELS, nn.Linear(4, 3), valid=(spoiled, LABELS))
    targets = FLOATS[:, None].clone()
    targets[3] = value
    with pytest.raises(DataError, match="the training data, array 1: row 3"):
        check(X, targets, nn.Linear(4, 1))


@pytest.mark.parametrize(
    "loss_func",
    [
        nn.CrossEntropyLoss(reduction="none"),
        nn.CrossEntropyLoss(reduction="sum"),
        functools.partial(F.cross_entropy, reduction="sum"),
        functools.partial(F.cross_entropy, reduction="none"),
    ],
    ids=["none", "sum", "partial sum", "partial none"],
)
def test_a_loss_that_is_no_mean_is_refused(loss_func):
    with pytest.raises(ConfigError, match=r"a loss must be a mean over samples.*reduction='(none|sum)'"):
        check(X, LABELS, nn.Linear(4, 3), loss_func)


@pytest.mark.parametrize(
    ("loss_func", "came"),
    [
        (lambda preds, targets: (preds.sum(1) - targets).square(), r"\(2,\) float32"),
        (lambda preds, targets: preds.mean().view(1), r"\(1,\) float32"),
        (lambda preds, targets: 3.0, "float"),
        (lambda preds, targets: None, "NoneType"),
    ],
    ids=["a loss a sample", "one in a row", "a float", "nothing"],
)
def test_a_loss_that_is_not_one_number_is_refused(loss_func, came):
    with pytest.raises(ModelError, match=rf"the loss must give one number, a mean over samples; got {came}"):
        check(X, LABELS, nn.Linear(4, 3), loss_func)


def test_targets_that_no_loss_is_known_for_need_one():
    with pytest.raises(ConfigError, match=r"no loss is known for targets of type torch\.bool; give"):
        check(X, LABELS > 0, nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "the training loader has no batches"),
        ([X], "a batch must be a tuple"),
        ([(X,)], "of length 1; give the loader a collate_fn"),
        ([{"x": X, "y": LABELS}], "a batch must be a tuple .* got dict"),
    ],
    ids=["empty", "tensor", "inputs alone", "dict"],
)
def test_batches_that_are_no_pairs_are_refused(batches, message):
    with pytest.raises(DataError, match=message):
        Learner((batches, None), nn.Linear(4, 3), device="cpu").fit(1, 0.1, quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": math.inf}, "lr must be a finite number of 0 or more, got inf"),
        ({"lr": 0.1, "clip": -1.0}, "clip must be above 0"),
        ({"lr": 0.1, "clip": math.nan}, "clip must be above 0"),
        ({"lr": 0.1, "accumulate": 0}, "accumulate must be a whole number of at least 1"),
        ({"lr": 0.1, "epochs": "3"}, "epochs must be a whole number"),
    ],
    ids=str,
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        check_options(nn.Linear(1, 1), **options)


def test_an_optimizer_that_wants_a_closure_cannot_train():
    with pytest.raises(ConfigError, match=r"LBFGS computes several losses a step, by a closure .*such as Adam"):
        check(X, LABELS, nn.Linear(4, 3), opt_func=torch.optim.LBFGS)


GOOD = {
    "labels": (X, LABELS, nn.Linear(4, 3), None),
    "bytes as labels": (X, LABELS.byte(), nn.Linear(4, 3), None),
    "probabilities": (X, torch.full((10, 3), 1 / 3), nn.Linear(4, 3), F.cross_entropy),
    "pixels": (torch.randn(10, 1, 6, 6), torch.randint(3, (10, 6, 6)), nn.Conv2d(1, 3, 3, padding=1), F.cross_entropy),
    "one logit": (X, (LABELS > 0).float()[:, None], nn.Linear(4, 1), F.binary_cross_entropy_with_logits),
    "several values": (X, torch.randn(10, 3), nn.Linear(4, 3), None),
    "batch norm": (X, LABELS, nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), None),
    "images": (torch.randn(10, 1, 28, 28), LABELS, models.cnn(3, widths=(2,)), None),
}


@pytest.mark.parametrize(("inputs", "targets", "model", "loss_func"), GOOD.values(), ids=GOOD)
def test_what_can_work_is_not_refused(inputs, targets, model, loss_func):
    assert check(inputs, targets, model, loss_func).history.steps == 3


def test_a_loss_of_the_users_own_that_compares_each_with_each_is_warned_about_and_not_refused():
    def careless(preds, targets):
        return (preds - targets).square().mean()  # (n, 1) - (n,) is (n, n)

    with pytest.warns(UserWarning, match=r"targets of \(2,\) float32: careless may compare each with each"):
        learn = check(X, FLOATS, nn.Linear(4, 1), careless)
    assert learn.history.steps == 3


def test_a_loss_that_makes_the_shapes_agree_is_not_warned_about():
    check(X, FLOATS, nn.Linear(4, 1), lambda preds, targets: F.mse_loss(preds.squeeze(1), targets))
    check(X, FLOATS, nn.Linear(4, 1), lambda preds, targets: (preds.flatten() - targets).abs().mean())


def test_a_loss_that_is_the_same_either_way_is_not_warned_about():
    check(X, FLOATS, nn.Linear(4, 1), lambda preds, targets: (preds.mean() - targets.mean()).square())


def test_a_metric_that_cannot_be_computed_is_refused_before_the_first_epoch():
    def wrong(preds, targets):
        return preds["logits"].mean()

    with pytest.raises(ModelError, match=r"the metric wrong does not fit predictions of \(2, 3\) float32 and targets"):
        check(X, LABELS, nn.Linear(4, 3), valid=(X, LABELS), metrics=wrong)


def test_a_validation_loader_without_batches_is_refused():
    learn = Learner((DataLoader(TensorDataset(X, LABELS), 4), []), nn.Linear(4, 3), device="cpu")
    with pytest.raises(DataError, match="the validation loader has no batches"):
        learn.fit(1, 0.1, quiet=True)


@pytest.mark.parametrize(
    ("ignored", "loss_func"),
    [(-100, None), (-100, F.cross_entropy), (7, nn.CrossEntropyLoss(ignore_index=7))],
)
def test_labels_that_the_loss_leaves_out_are_no_mistakes_and_do_not_count(ignored, loss_func):
    labels = LABELS.clone()
    labels[[1, 2, 5]] = ignored
    learn = check(X, labels, nn.Linear(4, 3), loss_func, valid=(X, labels))
    kept = labels != ignored
    with torch.no_grad():
        exact = F.cross_entropy(learn.model(X[kept]), labels[kept]).item()
    assert learn.validate()[0] == pytest.approx(exact, rel=1e-6)
    assert [float(count) for count in learn.history.counts] == [2, 3, 2]


def test_the_look_leaves_no_trace():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, inputs):
            self.calls += 1
            return super().forward(inputs) + torch.rand(())

    model = Counting().train()
    learn = Learner((DataLoader(TensorDataset(X, LABELS), 4), None), model, device="cpu", seed=0)
    before = torch.get_rng_state()
    learn.prepared()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert int(model.calls) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:the training loader keeps its own order")
def test_the_look_at_a_foreign_loader_draws_nothing():
    foreign = torch_data.DataLoader(TensorDataset(X, LABELS), 4, shuffle=True)
    learn = Learner((foreign, None), nn.Linear(4, 3), device="cpu", seed=0)
    before = torch.get_rng_state()
    learn.prepared()
    assert torch.equal(torch.get_rng_state(), before)


def test_models_are_called_as_their_inputs_need():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a - b

    one, two = torch.ones(2), torch.full((2,), 3.0)
    assert torch.equal(callable_for(Sum(), (one, two))((one, two)), one - two)
    assert torch.equal(callable_for(Sum(), [one, two])([one, two]), one - two)
    assert torch.equal(callable_for(Sum(), {"b": one, "a": two})({"b": one, "a": two}), two - one)
    model = nn.ReLU()
    assert callable_for(model, one) is model


def test_shapes_are_written_with_their_types():
    tree = {"x": torch.zeros(2, 3, dtype=torch.bfloat16), "y": [torch.zeros(4, dtype=torch.uint8), "text"]}
    assert shapes(tree) == "(2, 3) bfloat16, (4,) uint8, 'text'"
    assert re.fullmatch(r"\(\) int64", shapes(torch.tensor(3)))

"""What a model does, as data and figures: against scikit-learn and counts by hand, without a trace in training."""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn import metrics as reference
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

import clearloop as cl
from clearloop import interpret, models
from clearloop.callbacks.ema import EMA
from clearloop.data.normalize import Normalize
from clearloop.errors import ConfigError, DataError, ModelError, NonFiniteError
from clearloop.interpret_plots import cell_text
from clearloop.interpretation import Interpretation
from clearloop.picture_plots import pixels

CLASSES = ["tern", "kite", "owl", "lark"]


class Says(nn.Module):
    """Gives its inputs back, as outputs that a test has chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * self.unused


def says(outputs: Tensor, targets: Tensor, loss_func: Any = None, names: Any = None, **options: Any) -> cl.Learner:
    """A Learner whose model gives `outputs`."""
    data = cl.TensorDataset(outputs, targets)
    dls = cl.DataLoaders(cl.DataLoader(data, 4), cl.DataLoader(data, 4), classes=names)
    return cl.Learner(dls, Says(), loss_func, seed=0, device="cpu", **options)


def chosen(n: int = 60, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits and labels, about half of which agree; the last class is never a target nor predicted."""
    labels = torch.randint(0, classes - 1, (n,))
    logits = torch.randn(n, classes) + 2 * F.one_hot(labels, classes)
    logits[:, -1] = -9
    return logits, labels


def birds(names: Any = CLASSES, n: int = 40, channels: int = 3, seed: int = 0, **options: Any) -> cl.Learner:
    """A Learner of small pictures with dropout and batch norm, not trained yet."""
    torch.manual_seed(seed)
    labels = torch.arange(n) % 4
    x = (torch.rand(n, channels, 8, 8) + labels.view(-1, 1, 1, 1) / 4).clamp(0, 1.2)
    data = cl.TensorDataset(x, labels)
    dls = cl.DataLoaders(cl.DataLoader(data, 8, shuffle=True, seed=0), cl.DataLoader(data, 16), classes=names)
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 4))
    return cl.Learner(dls, net, F.cross_entropy, lr=0.1, seed=seed, device="cpu", **options)


def table_learner(outputs: int = 1) -> cl.Learner:
    """Diabetes: ten numbers to one, or to that and its square root."""
    x, y = (torch.tensor(array).float() for array in load_diabetes(return_X_y=True))
    targets = torch.stack([y, y.sqrt()], dim=1)[:, :outputs]
    dls = cl.DataLoaders.arrays(20 * x, targets, batch_size=64, seed=0)
    torch.manual_seed(0)
    return cl.Learner(dls, models.mlp(10, 8, outputs), opt_func=torch.optim.Adam, lr=0.05, seed=0, device="cpu")


def outside(figure: Any) -> list[Any]:
    """Parts of a figure that reach beyond its edges; ticks that are out of sight do not count."""
    figure.draw_without_rendering()
    frame = figure.bbox
    parts = [*figure.axes, *figure.texts, *figure.legends]
    boxes = [(part, part.get_tightbbox(figure.canvas.get_renderer())) for part in parts]
    return [
        part
        for part, box in boxes
        if box is not None and (box.x0 < -1 or box.y0 < -1 or box.x1 > frame.x1 + 1 or box.y1 > frame.y1 + 1)
    ]


# -- the data behind ---------------------------------------------------------------------------------------------------


def test_outputs_losses_and_probabilities_are_those_of_each_sample():
    logits, labels = chosen()
    seen = Interpretation(says(logits, labels))
    assert len(seen) == 60
    assert torch.equal(seen.preds, logits)
    torch.testing.assert_close(seen.losses, F.cross_entropy(logits, labels, reduction="none").double())
    torch.testing.assert_close(seen.judged.probabilities, logits.double().softmax(dim=1))
    assert torch.equal(seen.judged.predicted, logits.argmax(dim=1))
    assert seen.classes == ("0", "1", "2", "3")


BINARY = {
    "one logit and whole targets": (lambda p: p.logit(), lambda y: y.long(), F.binary_cross_entropy_with_logits),
    "a column of logits": (lambda p: p.logit()[:, None], lambda y: y[:, None], F.binary_cross_entropy_with_logits),
    "a loss object": (lambda p: p.logit()[:, None], lambda y: y[:, None], nn.BCEWithLogitsLoss()),
    "probabilities": (lambda p: p[:, None], lambda y: y[:, None], F.binary_cross_entropy),
    "mnist_loss": (lambda p: p.logit()[:, None], lambda y: y[:, None], cl.mnist_loss),
    "two log-probabilities": (lambda p: torch.stack([1 - p, p], 1).log(), lambda y: y.long(), F.nll_loss),
    "soft targets": (
        lambda p: torch.stack([1 - p, p], 1).log(),
        lambda y: torch.stack([1 - y, y], 1),
        cl.soft_cross_entropy,
    ),
}


@pytest.mark.parametrize("name", BINARY)
def test_two_classes_are_told_in_every_form(name):
    outputs, targets, loss_func = BINARY[name]
    p, y = torch.tensor([0.1, 0.7, 0.4, 0.9, 0.2]), torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0])
    made = targets(y)
    if name == "one logit and whole targets":
        loss_func = lambda preds, targets: F.binary_cross_entropy_with_logits(preds, targets.float())  # noqa: E731
    table = cl.confusion_matrix(says(outputs(p), made, loss_func, ["no", "yes"]))
    assert table.counts.tolist() == [[2, 1], [1, 1]]
    assert table.classes == ("no", "yes")
    judged = Interpretation(says(outputs(p), made, loss_func)).judged
    torch.testing.assert_close(judged.probabilities[:, 1], p.double(), rtol=1e-4, atol=1e-6)


def test_targets_that_the_loss_leaves_out_are_left_out():
    logits, labels = chosen()
    labels[::5] = -100
    learn = says(logits, labels)
    kept = labels != -100
    assert int(cl.confusion_matrix(learn).counts.sum()) == 48
    assert cl.class_table(learn).accuracy == pytest.approx(
        reference.accuracy_score(labels[kept], logits[kept].argmax(1))
    )
    worst = cl.top_losses(learn, n=60).rows
    assert len(worst) == 48
    assert all(bool(kept[row.index]) for row in worst)


# -- classes -----------------------------------------------------------------------------------------------------------


def test_a_confusion_matrix_is_that_of_scikit_learn():
    logits, labels = chosen()
    table = cl.confusion_matrix(says(logits, labels, names=CLASSES))
    expected = reference.confusion_matrix(labels, logits.argmax(1), labels=range(4))
    assert table.counts.tolist() == expected.tolist()
    assert table.counts.dtype == torch.int64
    shown = {text.get_text() for text in table.figure.axes[0].texts}
    assert shown == {str(count) if count else "" for count in expected.flatten().tolist()}


def test_a_normalised_confusion_matrix_writes_per_cents_and_gives_counts():
    logits = torch.eye(3)[[0] * 999 + [1] + [1] * 5 + [2] * 3 + [0]]
    labels = torch.tensor([0] * 1000 + [1] * 5 + [2] * 4)
    table = cl.confusion_matrix(says(logits, labels), normalize=True)
    assert table.counts.tolist() == [[999, 1, 0], [0, 5, 0], [1, 0, 3]]
    shown = [text.get_text() for text in table.figure.axes[0].texts]
    assert shown == [">99", "<1", "", "", "100", "", "25", "", "75"]
    assert cell_text(3, 0.126, True) == "13"


def test_the_table_of_classes_is_that_of_scikit_learn():
    logits, labels = chosen()
    table = cl.class_table(says(logits, labels, names=CLASSES))
    predicted = logits.argmax(1)
    columns = reference.precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
    for row, name, *expected in zip(table.rows, CLASSES, *(column.tolist() for column in columns), strict=True):
        assert row.name == name
        assert (row.precision, row.recall, row.f1, row.count) == pytest.approx(tuple(expected))
    assert table.rows[3].count == 0  # a class that is not there has no 0/0
    assert table.accuracy == pytest.approx(reference.accuracy_score(labels, predicted))
    lines = str(table).splitlines()
    assert lines[0].split() == ["class", "precision", "recall", "f1", "count"]
    assert lines[1].split()[0] == "tern"
    assert lines[-1] == f"accuracy {table.accuracy:.4f}"


@pytest.mark.parametrize("look", [cl.confusion_matrix, cl.class_table])
def test_numbers_are_no_classes(look):
    with pytest.raises(ModelError, match=r"tells classes apart, got outputs of \(89, 1\) float32.*see residuals"):
        look(whole_table())


@pytest.mark.parametrize("loss_func", [F.mse_loss, nn.L1Loss(), functools.partial(F.huber_loss, delta=2.0)])
@pytest.mark.parametrize("most", [2, 9])
def test_whole_targets_of_a_loss_of_numbers_are_numbers(loss_func, most, tmp_path):
    x = torch.randn(20, 2)
    y = torch.arange(20) % most
    dls = cl.DataLoaders.arrays(x, y, x, y, batch_size=10, seed=0)
    learn = cl.Learner(dls, nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), loss_func, device="cpu")
    found = interpret.residuals(learn)
    assert torch.equal(found.targets.flatten(), y.double())
    assert len(interpret.top_losses(learn, n=3).rows) == 3
    assert [path.name for path in interpret.write_plots(learn, tmp_path)] == [
        "residuals.png",
        "top_losses.png",
        "model.png",
    ]
    with pytest.raises(ModelError, match="tells classes apart"):
        interpret.confusion_matrix(learn)
    assert str(cl.baseline(dls, loss_func)).startswith(f"the mean of the training targets, {y.double().mean():.6g}")


def whole_table() -> cl.Learner:
    data = cl.TensorDataset(torch.rand(89, 10), torch.rand(89, 1))
    return cl.Learner((cl.DataLoader(data, 32), cl.DataLoader(data, 32)), models.mlp(10, 1), seed=0, device="cpu")


# -- losses ------------------------------------------------------------------------------------------------------------


def test_top_losses_are_the_largest_in_order_with_all_that_is_said_of_them():
    logits, labels = chosen()
    found = cl.top_losses(says(logits, labels, names=CLASSES), n=7)
    losses = F.cross_entropy(logits, labels, reduction="none")
    expected = losses.sort(descending=True, stable=True).indices[:7].tolist()
    assert [row.index for row in found.rows] == expected
    for row in found.rows:
        said = int(logits[row.index].argmax())
        assert row.loss == pytest.approx(float(losses[row.index]), rel=1e-6)
        assert row.target == CLASSES[labels[row.index]]
        assert row.prediction == CLASSES[said]
        assert row.probability == pytest.approx(float(logits[row.index].softmax(0)[said]), rel=1e-5)
    assert len(str(found).splitlines()) == 8


def test_of_equal_losses_the_first_come_first():
    assert [row.index for row in cl.top_losses(says(torch.zeros(9, 2), torch.zeros(9).long()), n=3).rows] == [0, 1, 2]


def test_pictures_of_top_losses_are_those_of_their_rows():
    learn = birds()
    found = cl.top_losses(learn, n=4)
    data = learn.dls.valid.dataset
    for row, axes in zip(found.rows, found.figure.axes, strict=True):
        assert np.allclose(axes.images[0].get_array(), pixels(data[row.index][0]))
        assert axes.get_title() == interpret.loss_caption(row)
        assert axes.get_title().startswith(f"target {CLASSES[int(data[row.index][1])]}\nsaid ")


def test_losses_of_numbers_are_shown_as_bars():
    learn = whole_table()
    found = cl.top_losses(learn, n=5)
    preds, targets = learn.get_preds()
    errors = (preds - targets).square().flatten()
    assert [row.index for row in found.rows] == errors.sort(descending=True, stable=True).indices[:5].tolist()
    assert all(row.probability is None for row in found.rows)
    widths = [bar.get_width() for bar in found.figure.axes[0].patches]
    assert widths == [row.loss for row in found.rows]


def test_a_loader_that_shuffles_anew_each_time_is_refused_rather_than_shown_wrong():
    learn = birds()
    torch_data = torch.utils.data
    dataset = torch_data.TensorDataset(torch.rand(40, 3, 8, 8), torch.randint(0, 4, (40,)))
    generator = torch.Generator()  # its own, so that the second pass has another order
    loader = torch_data.DataLoader(dataset, 8, shuffle=True, generator=generator)
    with pytest.raises(DataError, match="another order each time"):
        cl.top_losses(learn, loader)
    assert len(cl.top_losses(learn, torch_data.DataLoader(dataset, 8)).rows) == 9


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 2])
def test_residuals_rmse_and_r2_are_those_of_scikit_learn(outputs):
    learn = table_learner(outputs)
    learn.fit(3, quiet=True)
    found = interpret.residuals(learn)
    preds, targets = (tensor.double() for tensor in learn.get_preds())
    assert torch.equal(found.residuals, targets - preds)
    assert found.r2 == pytest.approx(reference.r2_score(targets, preds, multioutput="raw_values").tolist())
    squared = reference.mean_squared_error(targets, preds, multioutput="raw_values")
    assert found.rmse == pytest.approx(np.sqrt(squared).tolist())
    assert len(found.figure.axes) == 2 * outputs
    points = found.figure.axes[0].collections[0].get_offsets()
    assert np.allclose(points, torch.cat([targets[:, :1], preds[:, :1]], dim=1))


def test_targets_of_one_value_have_no_r2():
    assert math.isnan(cl.residuals(says(torch.rand(8, 1), torch.ones(8, 1))).r2[0])


def test_classes_are_no_numbers():
    with pytest.raises(ModelError, match=r"predicts numbers.*see confusion_matrix"):
        cl.residuals(says(*chosen()))


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_show_batch_draws_the_first_pictures_that_training_gets():
    learn = birds()
    batch = cl.show_batch(learn.dls, 5)
    inputs, targets = next(learn.dls.train.batches(0))
    assert torch.equal(batch.images, inputs[:5])
    assert batch.titles == [CLASSES[label] for label in targets[:5].tolist()]
    assert [axes.get_title() for axes in batch.figure.axes[:5]] == batch.titles
    assert torch.equal(cl.show_batch(learn, 5).images, batch.images)
    assert len(cl.show_batch(learn, 64).images) == 8  # as many as a batch has


def test_show_results_names_target_and_prediction_and_frames_what_is_wrong():
    learn = birds()
    shown = cl.show_results(learn, n=12)
    preds, targets = learn.get_preds()
    preds, targets = preds[shown.rows], targets[shown.rows]
    said = preds.argmax(1)
    assert torch.equal(shown.images, learn.dls.valid.dataset.tensors[0][shown.rows])
    assert shown.targets == [CLASSES[label] for label in targets.tolist()]
    assert shown.predictions == [CLASSES[label] for label in said.tolist()]
    assert shown.right == (said == targets).tolist()
    assert True in shown.right
    assert False in shown.right
    frames = [axes.spines["left"].get_linewidth() > 2 for axes in shown.figure.axes[:12]]
    assert frames == [not right for right in shown.right]


def test_pictures_of_results_come_from_all_over_a_set_in_the_order_of_its_classes():
    learn = birds()
    x, labels = learn.dls.valid.dataset.tensors
    order = labels.sort(stable=True).indices
    ordered = cl.TensorDataset(x[order], labels[order])
    assert cl.show_results(learn, cl.DataLoader(ordered, 16), n=4).targets == CLASSES
    assert cl.show_results(learn, cl.DataLoader(ordered, 16), n=4).rows == [5, 15, 25, 35]
    assert cl.show_results(learn, torch.utils.data.DataLoader(ordered, 16), n=4).targets == ["tern"] * 4  # the first
    assert cl.show_results(learn, n=60).rows == list(range(40))


def test_show_results_of_numbers_shows_both():
    torch.manual_seed(0)
    data = cl.TensorDataset(torch.rand(6, 1, 8, 8), torch.rand(6, 2))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    shown = cl.show_results(cl.Learner((cl.DataLoader(data, 4), cl.DataLoader(data, 4)), net, device="cpu"), n=5)
    assert shown.right is None
    assert shown.targets[0] == ", ".join(f"{number:.4g}" for number in data.tensors[1][0].tolist())
    assert len(shown.predictions) == 5


def test_normalised_pictures_are_shown_as_they_were():
    raw = torch.randint(0, 256, (8, 3, 6, 6)).byte()
    data = cl.TensorDataset(raw, torch.arange(8) % 2, transform=Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    loader = cl.DataLoader(data, 8)
    dls = cl.DataLoaders(loader, loader, normalize=data.transform)
    torch.testing.assert_close(cl.show_batch(dls, 8).images, raw.float() / 255)


def test_flat_pictures_are_shown_where_the_data_say_their_size():
    data = cl.TensorDataset(torch.rand(6, 12), torch.arange(6) % 2)
    loader = cl.DataLoader(data, 6)
    assert cl.show_batch(cl.DataLoaders(loader, image_size=(3, 4)), 2).images.shape == (2, 1, 3, 4)
    with pytest.raises(DataError, match=r"pictures of shape \(C, H, W\), got \(12,\) float32.*image_size=\(H, W\)"):
        cl.show_batch(cl.DataLoaders(loader))


def test_shades_are_shown_as_they_are_and_only_others_are_spread():
    assert pixels(torch.tensor([[[0.2, 0.4]]])).tolist() == pytest.approx(np.array([[0.2, 0.4]]), rel=1e-6)
    assert pixels(torch.tensor([[[-1.0, 0.0, 3.0]]])).tolist() == [[0, 0.25, 1]]
    assert pixels(torch.full((1, 1, 2), 7.0)).tolist() == [[0.5, 0.5]]
    assert pixels(torch.rand(3, 4, 5)).shape == (4, 5, 3)


# -- what they have in common ------------------------------------------------------------------------------------------

LOOKS = {
    "interpretation": lambda learn: Interpretation(learn).losses,
    "batch": cl.show_batch,
    "results": cl.show_results,
    "confusion": cl.confusion_matrix,
    "classes": cl.class_table,
    "losses": cl.top_losses,
    "summary": cl.summary,
    "predictions of the training set": lambda learn: cl.top_losses(learn, learn.dls.train),
}


def weights(learn: cl.Learner) -> list[Tensor]:
    return list(learn.model.state_dict().values())


@pytest.mark.parametrize("name", [*LOOKS, "all plots"])
def test_training_goes_on_to_the_same_bits_after_a_look(name, tmp_path):
    look = LOOKS.get(name, lambda learn: interpret.write_plots(learn, tmp_path))
    plain, looked = (birds(cbs=EMA(0.9)) for _ in range(2))
    look(looked)  # before, between and after fits
    for learn in (plain, looked):
        learn.fit(1, quiet=True)
    outside_state = torch.get_rng_state()
    look(looked)
    assert torch.equal(torch.get_rng_state(), outside_state)
    assert all(module.training for module in looked.model.modules())
    for learn in (plain, looked):
        learn.fit(1, quiet=True)
    look(looked)
    assert plain.history.losses == looked.history.losses
    assert plain.history.values == looked.history.values
    assert all(torch.equal(one, other) for one, other in zip(weights(plain), weights(looked), strict=True))


@pytest.mark.parametrize("name", ["batch", "results", "confusion", "classes", "losses"])
def test_a_look_gives_the_same_figure_each_time(name):
    learn = birds()
    one, other = (LOOKS[name](learn)._repr_png_() for _ in range(2))
    assert one == other
    assert one.startswith(b"\x89PNG")


def test_averaged_weights_are_what_is_looked_at():
    learn = birds(cbs=EMA(0.9))
    learn.fit(2, quiet=True)
    torch.testing.assert_close(Interpretation(learn).preds, learn.get_preds()[0])
    assert float(Interpretation(learn).losses.mean()) == pytest.approx(learn.validate()[0], rel=1e-5)


def test_an_interpretation_is_computed_once_and_used_by_all(monkeypatch):
    learn = birds()
    seen = Interpretation(learn)
    monkeypatch.setattr(learn, "get_preds", lambda dl=None: pytest.fail("a second pass"))
    assert cl.confusion_matrix(seen).counts.sum() == 40
    cl.class_table(seen)
    cl.top_losses(seen)
    with pytest.raises(ConfigError, match="leave out dl"):
        cl.confusion_matrix(seen, learn.dls.train)


def test_another_set_can_be_looked_at():
    learn = birds()
    few = cl.DataLoader(cl.TensorDataset(*(tensor[:6] for tensor in learn.dls.valid.dataset.tensors)), 4)
    assert cl.confusion_matrix(learn, few).counts.sum() == 6
    assert len(cl.show_results(learn, few).images) == 6


@pytest.mark.parametrize("look", [Interpretation, cl.confusion_matrix, cl.class_table, cl.top_losses, cl.show_results])
def test_bad_arguments_are_named(look):
    with pytest.raises(ConfigError, match="expected a Learner, got str"):
        look("run")
    learn = birds()
    learn.dls.valid = None
    with pytest.raises(DataError, match="no validation set"):
        look(learn)


@pytest.mark.parametrize("n", [0, 65, 2.0, True])
@pytest.mark.parametrize("look", [cl.show_batch, cl.show_results, cl.top_losses])
def test_the_number_of_pictures_is_checked(look, n):
    with pytest.raises(ConfigError, match="whole number from 1 to 64"):
        look(birds(), n=n)


def test_lost_outputs_and_labels_out_of_range_are_refused_with_their_row():
    logits, labels = chosen()
    learn = says(logits, labels)
    lost = cl.DataLoader(cl.TensorDataset(torch.where(torch.arange(60)[:, None] == 7, math.nan, logits), labels), 8)
    with pytest.raises(NonFiniteError, match="row 7"):
        Interpretation(learn, lost)
    wrong = cl.DataLoader(cl.TensorDataset(logits, torch.where(torch.arange(60) == 9, 4, labels)), 8)
    with pytest.raises(DataError, match=r"targets must lie in \[0, 4\), got 4 at row 9"):
        cl.confusion_matrix(learn, wrong)


def test_several_inputs_cannot_be_shown_but_their_losses_can():
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.layer(a + b)

    data = cl.TensorDataset(torch.rand(8, 3), torch.rand(8, 3), torch.arange(8) % 2)
    learn = cl.Learner((cl.DataLoader(data, 4), cl.DataLoader(data, 4)), Adds(), device="cpu")
    assert len(interpret.top_losses(learn, n=3).rows) == 3
    with pytest.raises(DataError, match="inputs in one tensor, got a tuple"):
        cl.show_results(learn)


# -- the figures -------------------------------------------------------------------------------------------------------

LONG = [f"{kind} number {i:02d}" for i in range(10) for kind in ("golden eagle", "tern", "kite", "great owl", "lark")]


@pytest.mark.parametrize(("classes", "named"), [(2, True), (3, False), (10, True), (25, False), (50, True)])
def test_nothing_is_cut_off_and_names_do_not_meet(classes, named):
    labels = torch.arange(400) % classes
    logits = torch.randn(400, classes) + 3 * F.one_hot(labels, classes)
    seen = Interpretation(says(logits, labels, names=LONG[:classes] if named else None))
    drawn = [cl.confusion_matrix(seen, normalize=classes == 10), cl.class_table(seen)]
    assert [outside(one.figure) for one in drawn] == [[], []]
    axes = drawn[0].figure.axes[0]
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [tick.get_window_extent() for tick in ticks if tick.get_text()]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    cell = axes.transData.transform([(0, 0), (1, 1)])
    width = abs(cell[1, 0] - cell[0, 0])
    assert all(text.get_window_extent().width <= width for text in axes.texts if text.get_text())
    assert min(text.get_fontsize() for text in axes.texts) >= 5


@pytest.mark.parametrize("n", [1, 2, 9, 33])
def test_titles_of_pictures_are_whole_and_do_not_meet(n):
    learn = birds(names=["great spotted woodpecker", "tern", "kite", "owl"])
    for drawn in (cl.show_results(learn, n=n), cl.top_losses(learn, n=n), cl.show_batch(learn, n=n)):
        assert outside(drawn.figure) == []
        boxes = [axes.title.get_window_extent() for axes in drawn.figure.axes if axes.get_title()]
        assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_figures_of_numbers_and_of_losses_are_whole():
    learn = table_learner(2)
    assert outside(cl.residuals(learn).figure) == []
    assert outside(cl.top_losses(learn, n=20).figure) == []


def test_a_path_chooses_the_format(tmp_path):
    learn = birds()
    cl.confusion_matrix(learn, path=tmp_path / "new" / "matrix.svg")
    cl.show_results(learn, path=str(tmp_path / "results.png"))
    assert "<svg" in (tmp_path / "new" / "matrix.svg").read_text()
    with Image.open(tmp_path / "results.png") as picture:
        assert picture.size[0] > 300


PLOTS = {
    "pictures in classes": (birds, "confusion per_class top_losses results batch model"),
    "numbers": (table_learner, "residuals top_losses model"),
    "classes of rows": (lambda: says(*chosen()), "confusion per_class top_losses model"),
}


@pytest.mark.parametrize("name", PLOTS)
def test_all_plots_that_fit_the_task_are_written(name, tmp_path):
    make, names = PLOTS[name]
    learn = make()
    written = interpret.write_plots(learn, tmp_path / "plots")
    assert [path.stem for path in written] == names.split()
    assert sorted(Path(tmp_path / "plots").iterdir()) == sorted(written)
    learn.dls.valid = None
    alone = {"batch", "model"} & set(names.split())
    assert {path.stem for path in interpret.write_plots(learn, tmp_path / "alone")} == alone

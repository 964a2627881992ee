"""Tables from end to end: as good as scikit-learn's net on its own sets, weights of classes, baselines."""

from __future__ import annotations

import csv
import functools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import datasets
from sklearn.compose import make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch.optim import AdamW

from clearloop import ConfigError, DataError, DataLoaders, Learner, TableDataLoaders, accuracy, baseline, table_learner
from clearloop.metrics import mae, r2_score, rmse
from clearloop.tabular import table_loss

HIDDEN, EPOCHS, BATCH, LR = (128, 64), 15, 32, 0.003
SAME = {"hidden_layer_sizes": HIDDEN, "max_iter": EPOCHS, "batch_size": BATCH, "learning_rate_init": LR}


def bundled(name: str, folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """One of scikit-learn's sets as a CSV file, and as its arrays."""
    found = getattr(datasets, f"load_{name}")()
    names = [str(feature) for feature in found.feature_names]
    targets = found.target if name == "diabetes" else found.target_names[found.target]
    path = folder / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "target"])
        writer.writerows([*row, target] for row, target in zip(found.data.tolist(), targets.tolist(), strict=True))
    return path, found.data, targets


def trained(dls: TableDataLoaders, seed: int = 0) -> float:
    """The last metric on the validation rows: accuracy, or the share of the variance that is explained."""
    learn = table_learner(dls, HIDDEN, functools.partial(AdamW, weight_decay=0.1), seed=seed, device="cpu")
    learn.fit_one_cycle(EPOCHS, LR, quiet=True)
    return learn.validate()[-1]


def fitted(model, inputs, targets, dls: TableDataLoaders) -> float:
    """scikit-learn's score on the same split; targets of a regression are standardised for it, too."""
    train, valid = dls.train_rows.numpy(), dls.valid_rows.numpy()
    if dls.table.classes is None:
        targets = (targets - dls.table.center) / dls.table.scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(inputs[train] if isinstance(inputs, np.ndarray) else inputs.iloc[train], targets[train])
    return model.score(inputs[valid] if isinstance(inputs, np.ndarray) else inputs.iloc[valid], targets[valid])


@pytest.mark.parametrize(
    ("name", "kind", "classes"),
    [
        ("diabetes", "regression", None),
        ("breast_cancer", "binary", 2),
        ("iris", "classes", 3),
        ("wine", "classes", 3),
        ("digits", "classes", 10),
    ],
)
def test_real_tables_are_learned_as_well_as_scikit_learn_does_it(tmp_path, name, kind, classes):
    path, inputs, targets = bundled(name, tmp_path)
    ours, theirs = [], []
    for seed in (0, 1, 2):
        dls = TableDataLoaders.from_csv(path, "target", BATCH, seed=seed)
        assert dls.table.kind == kind
        assert (None if dls.classes is None else len(dls.classes)) == classes
        net = MLPRegressor if kind == "regression" else MLPClassifier
        theirs.append(fitted(make_pipeline(StandardScaler(), net(**SAME, random_state=seed)), inputs, targets, dls))
        ours.append(trained(dls, seed))
    assert np.mean(ours) >= 0.95 * np.mean(theirs), (ours, theirs)
    assert np.mean(ours) > (0.35 if kind == "regression" else 0.95)


def houses(rows: int = 600) -> dict[str, list]:
    """Prices from numbers with gaps, a category with gaps, and house numbers that are mostly text."""
    rng = np.random.default_rng(5)
    size, rooms = rng.normal(100, 30, rows), rng.integers(1, 9, rows)
    town = rng.choice(["Ulm", "Bonn", "Kiel", "Trier"], rows)
    worth = {"Ulm": 60.0, "Bonn": 0.0, "Kiel": -40.0, "Trier": 20.0}
    door = rng.choice(["1a", "2", "3b", "4c"], rows)
    price = size * 2 + 15 * rooms + 30 * np.sin(size / 20) + [worth[name] for name in town] + rng.normal(0, 8, rows)
    price += 25.0 * (door == "2")
    gaps = rng.random((3, rows)) < 0.1
    return {
        "size": [None if gap else float(value) for value, gap in zip(size, gaps[0], strict=True)],
        "rooms": [None if gap else int(value) for value, gap in zip(rooms, gaps[1], strict=True)],
        "town": [None if gap else str(value) for value, gap in zip(town, gaps[2], strict=True)],
        "door": door.tolist(),
        "price": (1000 * price).tolist(),
    }


def test_a_table_of_numbers_categories_and_gaps_is_learned_as_well_as_scikit_learn_does_it(tmp_path):
    pandas = pytest.importorskip("pandas")
    columns = houses()
    frame = pandas.DataFrame(columns)
    frame.to_csv(tmp_path / "houses.csv", index=False)
    dls = TableDataLoaders.from_csv(tmp_path / "houses.csv", "price", BATCH, seed=0)
    assert [column.kind for column in dls.table.columns] == ["number", "number", "category", "category"]
    assert dls.table.category_sizes == (6, 5)
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    names = OneHotEncoder(handle_unknown="ignore")
    columns_of = make_column_transformer((numbers, ["size", "rooms"]), (names, ["town", "door"]))
    net = MLPRegressor(**SAME, random_state=0)
    theirs = fitted(make_pipeline(columns_of, net), frame, frame["price"].to_numpy(), dls)
    ours = trained(dls)
    assert ours >= 0.95 * theirs, (ours, theirs)
    assert ours > 0.85


# -- the parts of the Learner -----------------------------------------------------------------------------------------


def test_the_seed_alone_gives_the_weights_and_nothing_outside_is_changed():
    dls = TableDataLoaders.from_table({"x": list(range(40)), "y": [0, 1] * 20}, "y", seed=0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = table_learner(dls, (4,), seed=5, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    same, other = (table_learner(dls, (4,), seed=seed, device="cpu") for seed in (5, 6))
    weights = [learn.model[0].weight for learn in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_regression_is_measured_in_its_own_units():
    dls = TableDataLoaders.from_table(houses(), "price", 32, seed=0)
    learn = table_learner(dls, (16,))
    learn.fit(2, 0.01, quiet=True)
    preds, targets = learn.get_preds()
    errors = (preds - targets).double()
    loss, *found = learn.validate()
    assert found[0] == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-5)
    assert found[1] == pytest.approx(float(errors.abs().mean()), rel=1e-5)
    assert loss == pytest.approx((found[0] / dls.table.scale) ** 2, rel=1e-4)
    assert 100_000 < float(targets.mean()) < 500_000


def unbalanced() -> dict[str, list]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=200).tolist(), "y": ["rare"] * 20 + ["common"] * 180}


def test_balanced_weights_give_each_class_the_same_weight_in_all():
    dls = TableDataLoaders.from_table(unbalanced(), "y", seed=0)
    loss = table_loss(dls, "balanced")
    counts = torch.bincount(dls.train.dataset.tensors[1]).float()
    assert (loss.weight * counts).tolist() == pytest.approx([80, 80])
    assert table_loss(dls) is F.cross_entropy
    assert table_loss(dls, [1, 4]).weight.tolist() == [1, 4]


def test_weights_change_what_is_predicted_and_are_saved_with_the_run(tmp_path):
    dls = TableDataLoaders.from_table(unbalanced(), "y", seed=0)
    shares = []
    for weights in (None, "balanced"):
        learn = table_learner(dls, (8,), class_weights=weights)
        learn.fit(20, 0.01, quiet=True)
        shares.append(float(learn.get_preds()[0].softmax(dim=1)[:, dls.classes.index("rare")].mean()))
    assert shares[0] < 0.2 < 0.35 < shares[1]
    learn.save(tmp_path / "run")
    again = Learner.load(tmp_path / "run", dls=dls)
    assert again.loss_func.weight.tolist() == learn.loss_func.weight.tolist()
    assert again.validate() == learn.validate()


@pytest.mark.parametrize("weights", ["equal", [1.0], [1.0, 0.0], [1.0, float("inf")]])
def test_weights_that_cannot_be_are_refused(weights):
    dls = TableDataLoaders.from_table(unbalanced(), "y", seed=0)
    with pytest.raises(ConfigError, match=r"balanced|a positive weight for each of 2 classes"):
        table_loss(dls, weights)
    with pytest.raises(ConfigError, match="class weights are for classes, this is a regression"):
        table_loss(TableDataLoaders.from_table(unbalanced(), "x", seed=0), "balanced")


# -- baselines --------------------------------------------------------------------------------------------------------


def test_the_mean_explains_nothing_and_costs_one_in_units_of_the_deviation():
    dls = TableDataLoaders.from_table(houses(), "price", seed=0)
    found = baseline(dls, table_loss(dls), (rmse, mae, r2_score))
    train, valid = (loader.dataset.tensors[1].double() for loader in dls)
    assert found.metrics["rmse"] == pytest.approx(float((valid - train.mean()).square().mean().sqrt()), rel=1e-5)
    assert abs(found.metrics["r2_score"]) < 0.05
    assert found.valid_loss == pytest.approx(1, abs=0.3)
    assert str(found).startswith("the mean of the training targets, ")


def test_the_majority_costs_what_the_shares_of_the_classes_cost():
    dls = TableDataLoaders.from_table(unbalanced(), "y", seed=0)
    found = baseline(dls, metrics=(accuracy,))
    assert found.metrics == {"accuracy": 0.9}
    assert found.valid_loss == pytest.approx(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1)), rel=1e-5)
    assert found.what == "always 'common', 90.0 % of the training rows"


def test_a_baseline_of_targets_that_are_not_in_memory_is_refused():
    batches = [(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(DataError, match="needs the training targets in memory"):
        baseline((batches, batches))
    with pytest.raises(DataError, match="there is no validation set"):
        baseline((DataLoaders.arrays(torch.zeros(5, 1), torch.zeros(5), seed=0).train, None))

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

import clearloop as cl
from clearloop import models
from clearloop.errors import RunError
from clearloop.recipe import FORMAT, Recipe
from clearloop.rundir import RunDirectory
from cli_tools import write_idx


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two epochs, trained once."""
    folder = tmp_path_factory.mktemp("recipe")
    torch.set_num_threads(1)
    dls = cl.DataLoaders.idx(write_idx(folder / "data", 60, 20), 30, seed=5)
    learn = cl.Learner(
        dls, models.linear(784, 10), F.cross_entropy, metrics=cl.accuracy, clip=1.0, seed=9, device="cpu",
        cbs=cl.Checkpoints(folder / "run"),
    )  # fmt: skip
    learn.fit(2, 0.25, quiet=True)
    return RunDirectory.open(folder / "run")


def plain(run):
    return json.loads(json.dumps(run.read_recipe()))


def test_the_recipe_of_a_run_holds_all_that_is_needed_to_run_it_again(run):
    recipe = Recipe.read(run.read_recipe())
    assert recipe.model == {"path": "clearloop.models.linear:linear", "args": [784, 10]}
    assert recipe.data["path"] == "clearloop.data.loaders:DataLoaders.idx"
    assert recipe.data["kwargs"] == {"seed": 5}
    assert recipe.loss_func == {"path": "torch.nn.functional:cross_entropy"}
    assert recipe.opt_func == {"path": "torch.optim.sgd:SGD"}
    assert (recipe.seed, recipe.clip, recipe.accumulate, recipe.precision, recipe.fast) == (9, 1.0, 1, None, "off")
    assert (recipe.threads, recipe.device, recipe.metrics) == (1, "cpu", ["accuracy"])
    assert [callback["path"] for callback in recipe.callbacks] == ["clearloop.callbacks.checkpoints:Checkpoints"]
    assert len(recipe.fits) == 1
    assert {"first_epoch": 0, "last_epoch": 2, "first_step": 0, "lr": 0.25}.items() <= recipe.fits[0].items()
    assert recipe.fingerprint["train"]["samples"] == 60
    assert recipe.fingerprint["valid"]["samples"] == 20
    assert {"python", "torch", "numpy", "clearloop"} <= set(recipe.versions)


def test_a_recipe_survives_json(run):
    recipe = Recipe.read(run.read_recipe())
    assert Recipe.read(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert recipe.as_dict() == run.read_recipe()


def test_a_recipe_cannot_be_changed(run):
    recipe = Recipe.read(run.read_recipe())
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1


def test_a_recipe_of_another_format_is_refused(run):
    with pytest.raises(RunError, match=f"there: expected a recipe of format {FORMAT}, got 7; use a newer clearloop"):
        Recipe.read({**plain(run), "format": 7}, "there")
    with pytest.raises(RunError, match="got None"):
        Recipe.read({})


def test_missing_and_unknown_fields_are_named(run):
    data = plain(run)
    del data["clip"]
    with pytest.raises(RunError, match=r"missing \['clip'\], unknown \['extra'\]"):
        Recipe.read({**data, "extra": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "0"),
        ("seed", True),
        ("seed", -1),
        ("threads", 0),
        ("threads", 1.0),
        ("model", "mlp"),
        ("data", None),
        ("loss_func", []),
        ("opt_func", 1),
        ("metrics", [1]),
        ("metrics", "accuracy"),
        ("callbacks", ["EMA"]),
        ("fits", [{}]),
        ("fits", {"first_epoch": 0}),
        ("fits", [{"first_epoch": 0, "last_epoch": "2", "first_step": 0, "lr": 0.1, "schedule": None, "per": None}]),
        ("fits", [{"first_epoch": 0, "last_epoch": 2, "first_step": 0, "lr": None, "schedule": None, "per": None}]),
        ("fingerprint", {"train": None}),
        ("versions", {"torch": 2}),
        ("versions", None),
    ],
)
def test_a_field_in_another_form_is_named_with_what_came(run, field, value):
    with pytest.raises(RunError, match=f"there: expected {field} in the form that clearloop writes, got "):
        Recipe.read({**plain(run), field: value}, "there")


def test_a_run_that_was_never_fitted_has_a_recipe_too(run):
    assert Recipe.read({**plain(run), "fits": []}).fits == []

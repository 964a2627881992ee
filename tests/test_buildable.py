"""Descriptions to components and back; and what a recipe must never be able to import or call."""

import functools
import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.optim import lr_scheduler

from clearloop import buildable, losses, metrics, models, schedules
from clearloop.buildable import build, build_model, is_buildable
from clearloop.callbacks.checkpoints import Checkpoints
from clearloop.callbacks.early_stopping import EarlyStopping
from clearloop.callbacks.ema import EMA
from clearloop.component import describe, remember
from clearloop.data import augment
from clearloop.data.loaders import DataLoaders
from clearloop.errors import ConfigError, DataError

KINDS = ("model", "loss", "optimizer", "schedule", "data", "callback", "metric")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def again(component, kind):
    """Built from the description of `component`; the description of the result must be the same."""
    built = build(describe(component), kind)
    assert describe(built) == describe(component)
    return built


# --- round trips


@pytest.mark.parametrize(
    "model",
    [models.linear(4, 2), models.mlp(5, 3, 2, dropout=0.5), models.cnn(), models.cnn(3, 1, widths=(4, 8), size=12)],
    ids=["linear", "mlp", "cnn", "small cnn"],
)
def test_a_model_is_built_again_with_the_same_layers(model):
    built = again(model, "model")
    assert str(built) == str(model)
    assert [p.shape for p in built.parameters()] == [p.shape for p in model.parameters()]


def test_build_model_draws_new_weights_from_the_generator_of_torch():
    description = describe(models.mlp(4, 3, 2))
    torch.manual_seed(0)
    first, second = build_model(description), build_model(description)
    torch.manual_seed(0)
    assert torch.equal(first[1].weight, build_model(description)[1].weight)
    assert not torch.equal(first[1].weight, second[1].weight)


@pytest.mark.parametrize("name", sorted(buildable._TORCH_LOSSES & set(vars(F))))
def test_every_listed_loss_function_of_torch_is_given_as_it_is(name):
    assert inspect.isfunction(getattr(F, name))
    assert build({"path": f"torch.nn.functional:{name}"}, "loss") is getattr(F, name)


def test_a_loss_function_with_options_is_a_partial():
    built = again(functools.partial(F.cross_entropy, label_smoothing=0.1), "loss")
    logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    assert torch.equal(built(logits, targets), F.cross_entropy(logits, targets, label_smoothing=0.1))


def test_class_weights_of_a_loss_function_come_back_as_a_tensor():
    weight = torch.tensor([0.5, 2.0, 1 / 3])
    built = again(functools.partial(F.cross_entropy, weight=weight), "loss")
    logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    assert torch.equal(built(logits, targets), F.cross_entropy(logits, targets, weight=weight))


LOSS_CLASSES = [
    thing
    for name, thing in vars(nn.modules.loss).items()
    if isinstance(thing, type) and issubclass(thing, nn.modules.loss._Loss) and not name.startswith("_")
    if name not in ("LinearCrossEntropyLoss", "NLLLoss2d")  # has parameters, whose size must be given; is deprecated
]


@pytest.mark.parametrize("loss", LOSS_CLASSES, ids=lambda loss: loss.__name__)
def test_every_loss_class_of_torch_is_made(loss):
    path = {"path": f"torch.nn.modules.loss:{loss.__name__}"}
    made = build(path, "loss")
    assert type(made) is loss
    if loss is not nn.TripletMarginWithDistanceLoss:  # its distance is a module, which no recipe may name
        assert type(again(made, "loss")) is loss


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([0.1, 2.0, 1 / 3]), label_smoothing=0.2, ignore_index=1),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.5)),
        nn.HuberLoss(delta=0.3),
    ],
    ids=["weights", "one weight", "delta"],
)
def test_the_options_and_weights_of_a_loss_come_back(loss):
    built = again(loss, "loss")
    state, expected = dict(built.named_buffers()), dict(loss.named_buffers())
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) and state[name].dtype == torch.float32 for name in state)
    options = ("label_smoothing", "ignore_index", "reduction", "delta")
    assert [getattr(built, name, None) for name in options] == [getattr(loss, name, None) for name in options]


@pytest.mark.parametrize("loss", [losses.mnist_loss, losses.soft_cross_entropy])
def test_our_own_losses_are_given_as_they_are(loss):
    assert again(loss, "loss") is loss


OPTIMIZERS = [c for c in vars(optim).values() if isinstance(c, type) and issubclass(c, optim.Optimizer)]


@pytest.mark.parametrize("optimizer", [c for c in OPTIMIZERS if c is not optim.Optimizer], ids=lambda c: c.__name__)
def test_every_optimizer_of_torch_is_given_as_it_is(optimizer):
    assert again(optimizer, "optimizer") is optimizer


def test_an_optimizer_with_options_is_a_partial_that_takes_parameters_and_lr():
    built = again(functools.partial(optim.Adam, betas=(0.8, 0.99), weight_decay=1e-3), "optimizer")
    opt = built([nn.Parameter(torch.ones(2))], 0.5)
    assert type(opt) is optim.Adam
    assert [opt.defaults[name] for name in ("lr", "weight_decay")] == [0.5, 1e-3]
    assert tuple(opt.defaults["betas"]) == (0.8, 0.99)


@pytest.mark.parametrize(
    "schedule",
    [schedules.constant(0.3), schedules.one_cycle(0.1, 100), schedules.cosine(0.1, total_steps=50, lr_min=1e-3)],
)
def test_our_schedules_are_called_and_give_the_same_learning_rates(schedule):
    built = again(schedule, "schedule")
    assert [built(step) for step in range(60)] == [schedule(step) for step in range(60)]


SCHEDULERS = [
    c
    for name, c in vars(lr_scheduler).items()
    if isinstance(c, type) and issubclass(c, lr_scheduler.LRScheduler) and not name.startswith("_")
]


@pytest.mark.parametrize("scheduler", [c for c in SCHEDULERS if c is not lr_scheduler.LRScheduler])
def test_every_scheduler_of_torch_is_given_as_it_is(scheduler):
    assert again(scheduler, "schedule") is scheduler


def test_a_scheduler_with_options_is_a_partial_that_takes_an_optimizer():
    opt = optim.SGD([nn.Parameter(torch.ones(1))], 1.0)
    made = again(functools.partial(lr_scheduler.StepLR, step_size=7, gamma=0.2), "schedule")(opt)
    assert (type(made), made.step_size, made.gamma) == (lr_scheduler.StepLR, 7, 0.2)


def test_mnist_is_loaded_again_in_the_same_order():
    dls = DataLoaders.mnist(32, seed=5)
    built = again(dls, "data")
    for now, then in zip(next(built.train.batches(1)), next(dls.train.batches(1)), strict=True):
        assert torch.equal(now, then)
    assert len(built.train) == len(dls.train)


def test_loaders_come_back_with_their_augmentation():
    dls = DataLoaders.mnist(32, seed=5, augment=augment.random_flip)
    built = again(dls, "data")
    assert built.train.augment is augment.random_flip


def test_a_function_that_makes_an_augmentation_is_called(monkeypatch):
    made = []

    def shift(pixels):
        made.append(pixels)
        return lambda inputs, keys: inputs

    shift.__module__ = "clearloop.data.augment"
    monkeypatch.setattr(augment, "shift", remember(shift), raising=False)
    kwargs = {"seed": 5, "augment": {"path": "clearloop.data.augment:shift", "args": [2]}}
    built = build({"path": "clearloop.data.loaders:DataLoaders.mnist", "kwargs": kwargs}, "data")
    assert made == [2]
    assert callable(built.train.augment)


def test_an_npz_file_is_loaded_again_and_a_missing_one_is_a_data_error(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.random.rand(50, 3).astype("float32"), y=np.arange(50) % 2)
    dls = DataLoaders.npz(tmp_path / "data.npz", 8, seed=1, valid=10)
    built = again(dls, "data")
    assert all(map(torch.equal, next(built.train.batches(0)), next(dls.train.batches(0))))
    (tmp_path / "data.npz").unlink()
    with pytest.raises(DataError, match=r"data\.npz"):
        build(describe(dls), "data")


@pytest.mark.parametrize(
    ("callback", "names"),
    [
        (EMA(0.75), ["decay"]),
        (EarlyStopping("train_loss", patience=2, min_delta=0.1), ["monitor", "patience", "min_delta"]),
        (Checkpoints("runs/x", every=5, keep=3), ["path", "every", "keep", "monitor"]),
    ],
    ids=["ema", "early stopping", "checkpoints"],
)
def test_a_callback_comes_back_with_its_options(callback, names):
    built = again(callback, "callback")
    assert type(built) is type(callback)
    assert [getattr(built, name) for name in names] == [getattr(callback, name) for name in names]


@pytest.mark.parametrize("name", ["accuracy", "error_rate", "mse", "rmse", "mae", "r2_score"])
def test_a_metric_is_found_by_its_name_and_by_its_description(name):
    metric = getattr(metrics, name)
    assert build(name, "metric") is metric
    assert again(metric, "metric") is metric


def test_top_k_accuracy_is_made_with_its_k():
    logits, targets = torch.tensor([[0.1, 0.3, 0.2], [0.3, 0.2, 0.1]]), torch.tensor([2, 2])
    for description in ("top_2_accuracy", describe(metrics.top_k_accuracy(2))):
        assert build(description, "metric")(logits, targets).item() == 0.5


def test_infinite_floats_are_decoded():
    assert build({"path": "clearloop.schedules:constant", "args": [{"float": "inf"}]}, "schedule")(3) == float("inf")
    assert build(describe(EarlyStopping(min_delta=float("inf"))), "callback").min_delta == float("inf")


# --- what is refused

TOUCH = ["touch marker"]
MALICIOUS = [
    {"path": "os:system", "args": TOUCH},
    {"path": "posix:system", "args": TOUCH},
    {"path": "subprocess:getoutput", "args": TOUCH},
    {"path": "builtins:eval", "args": ["__import__('os').system('touch marker')"]},
    {"path": "builtins:exec", "args": ["import evil"]},
    {"path": "builtins:__import__", "args": ["evil"]},
    {"path": "importlib:import_module", "args": ["evil"]},
    {"path": "pickle:loads", "args": ["x"]},
    {"path": "torch:load", "args": ["marker"]},
    {"path": "torch.hub:load", "args": ["evil"]},
    {"path": "torch:compile"},
    {"path": "evil:net"},
    {"path": "evil:Evil"},
    {"path": "clearloop.models.mlp:os.system", "args": TOUCH},
    {"path": "clearloop.models.mlp:nn.Linear", "args": [2, 2]},
    {"path": "clearloop.models.mlp:remember", "args": [1]},
    {"path": "clearloop.models.mlp:pairwise", "args": [[1, 2]]},
    {"path": "clearloop.models.mlp:check_mlp", "args": [[2, 2], None]},
    {"path": "clearloop.models.mlp:__builtins__"},
    {"path": "clearloop.models.mlp:mlp.__globals__"},
    {"path": "clearloop.models.mlp:mlp.__wrapped__", "args": [2, 2]},
    {"path": "clearloop.models.mlp:"},
    {"path": "clearloop.models.mlp"},
    {"path": "clearloop.models.mlp:mlp\n", "args": [2, 2]},
    {"path": " clearloop.models.mlp:mlp", "args": [2, 2]},
    {"path": "clearloop.models.mlp:mlp:mlp", "args": [2, 2]},
    {"path": "clearloop.models.nothing:net"},
    {"path": "clearloop.models..mlp:mlp", "args": [2, 2]},
    {"path": "clearloop.models._private:net"},
    {"path": "clearloop.models.../../evil:net"},
    {"path": "clearloop.modelsevil:net"},
    {"path": "clearloop.model\u0455.mlp:mlp", "args": [2, 2]},
    {"path": "clearloop:models.mlp", "args": [2, 2]},
    {"path": "clearloop.rundir:RunDirectory", "args": ["marker"]},
    {"path": "clearloop.durable:write_file", "args": ["marker", "x"]},
    {"path": "clearloop.environment:git_commit"},
    {"path": "clearloop.callback:Callback"},
    {"path": "clearloop.callbacks.ema:torch"},
    {"path": "clearloop.callbacks.ema:Callback"},
    {"path": "clearloop.callbacks.ema:named_tensors", "args": [1]},
    {"path": "clearloop.callbacks.checkpoints:RunWriter", "args": ["marker"]},
    {"path": "clearloop.callbacks.nothing:Callback"},
    {"path": "clearloop.data.loaders:DataLoaders", "args": [[1]]},
    {"path": "clearloop.data.loaders:DataLoaders.arrays", "args": [[1], [1]]},
    {"path": "clearloop.data.loaders:DataLoaders._idx"},
    {"path": "clearloop.data.loaders:DataLoaders.mnist.__globals__"},
    {"path": "clearloop.data.loaders:read_npz", "args": ["marker"]},
    {"path": "clearloop.schedules:as_schedule", "args": [1]},
    {"path": "clearloop.schedules:TorchSchedule", "args": [1]},
    {"path": "clearloop.losses:count_for", "args": [1]},
    {"path": "clearloop.losses:length", "args": [1]},
    {"path": "torch.nn.functional:relu"},
    {"path": "torch.nn.functional:torch"},
    {"path": "torch.nn.functional:importlib"},
    {"path": "torch.nn.functional:cross_entropy.__globals__"},
    {"path": "torch.nn.modules.loss:_Loss"},
    {"path": "torch.nn.modules.loss:Module"},
    {"path": "torch.nn.modules.linear:Linear", "args": [2, 2]},
    {"path": "torch.optim.optimizer:Optimizer"},
    {"path": "torch.optim:_multi_tensor"},
    {"path": "torch.optim:lr_scheduler.LambdaLR"},
    {"path": "torch.optim.lr_scheduler:_LRScheduler"},
    {"path": "torch.optim.lr_scheduler:LRScheduler"},
    {"path": "torch.optim.lr_scheduler:partial", "args": [1]},
    {"path": "torch.optim.swa_utils:AveragedModel"},
    {"path": ["os", "system"]},
    {"path": None},
    {"path": {"path": "os:system"}},
    {"path": "clearloop.models.mlp:mlp", "args": [2, 2], "call": "os:system"},
    {"path": "clearloop.models.mlp:mlp", "args": {"0": 2}},
    {"path": "clearloop.models.mlp:mlp", "args": [2, 2], "kwargs": [["dropout", 0.5]]},
    {"path": "clearloop.models.mlp:mlp", "args": [2, {"path": "os:system", "args": TOUCH}]},
    {"path": "clearloop.models.mlp:mlp", "args": [2, [{"path": "evil:net"}]]},
    {"path": "clearloop.models.mlp:mlp", "kwargs": {"dropout": {"path": "clearloop.data.augment:torch"}}},
    {"path": "clearloop.models.mlp:mlp", "kwargs": {"dropout": {"path": "clearloop.models.mlp:mlp", "args": [2, 2]}}},
    {"path": "clearloop.models.mlp:mlp", "args": [2, {"source": "import evil", "name": "x", "sha256": "0"}]},
    {"path": "clearloop.models.mlp:mlp", "args": [2, object()]},
    {"path": "clearloop.data.loaders:DataLoaders.mnist", "kwargs": {"augment": {"path": "os:system", "args": TOUCH}}},
    {"path": "clearloop.data.loaders:DataLoaders.mnist", "kwargs": {"augment": {"repr": "<function>"}}},
    {"path": "clearloop.metrics:ratio"},
    {"path": "clearloop.metrics:Metric", "kwargs": {"name": "evil"}},
    {"path": "clearloop.metrics:Metric", "kwargs": {**describe(metrics.accuracy)["kwargs"], "value": "os:system"}},
    {"source": "import evil", "name": "Net", "sha256": "0"},
    {"repr": "Net()"},
    {},
    None,
    42,
    "os:system",
    "clearloop.models.mlp:mlp",
    ["clearloop.models.mlp:mlp"],
]
IMPORTABLE = ("clearloop.models", "clearloop.callback", "clearloop.data", "clearloop.losses", "clearloop.schedules")
TORCH = {"torch.nn.functional", "torch.nn.modules.loss", "torch.optim", "torch.optim.lr_scheduler"}


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder with a module that leaves a marker when it is imported; gives the names of modules asked for."""
    (tmp_path / "evil.py").write_text("open('marker', 'w').close()\ndef net(): ...\nclass Evil: ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    asked = []

    def spy(name):
        asked.append(name)
        return import_module(name)

    import_module = buildable.import_module
    monkeypatch.setattr(buildable, "import_module", spy)
    yield asked
    assert not os.path.exists("marker")
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "description", MALICIOUS, ids=lambda d: str(d.get("path", d) if isinstance(d, dict) else d)[:60]
)
@pytest.mark.parametrize("kind", KINDS)
def test_anything_else_is_refused_without_an_import_or_a_call(description, kind, trap):
    with pytest.raises(ConfigError) as caught:
        build(description, kind)
    assert kind in str(caught.value)
    assert "give it yourself" in str(caught.value)
    assert all(name.startswith(IMPORTABLE) or name in TORCH for name in trap)
    assert not any("evil" in name or "/" in name or ".." in name for name in trap)


def test_the_trap_would_show_an_import(trap, tmp_path):
    buildable.import_module("evil")
    assert trap == ["evil"]
    assert (tmp_path / "marker").exists()
    (tmp_path / "marker").unlink()
    del sys.modules["evil"]


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ({"path": "torch.optim.sgd:SGD"}, "loss"),
        ({"path": "torch.nn.functional:mse_loss"}, "optimizer"),
        ({"path": "torch.nn.functional:mse_loss"}, "model"),
        ({"path": "clearloop.models.linear:linear", "args": [2, 2]}, "data"),
        ({"path": "clearloop.schedules:constant", "args": [1]}, "model"),
        ({"path": "torch.optim.lr_scheduler:StepLR", "kwargs": {"step_size": 2}}, "optimizer"),
        ({"path": "torch.optim.adam:SGD"}, "optimizer"),
    ],
)
def test_a_part_of_one_kind_is_refused_as_another(description, kind):
    with pytest.raises(ConfigError, match=r"expected (a|DataLoaders)"):
        build(description, kind)


def smuggle(monkeypatch, module, thing, name="smuggled"):
    """Put `thing` into a module of ours, where a description can name it."""
    monkeypatch.setitem(vars(sys.modules[module]), name, thing)
    return {"path": f"{module}:{name}"}


def test_what_a_module_imports_from_elsewhere_is_not_its_own(monkeypatch):
    called = []

    def net():
        called.append(1)
        return nn.Linear(1, 1)

    with pytest.raises(ConfigError, match="smuggled"):
        build(smuggle(monkeypatch, "clearloop.models.mlp", remember(net)), "model")
    assert not called
    net.__module__ = "clearloop.models.mlp"
    assert isinstance(build(smuggle(monkeypatch, "clearloop.models.mlp", remember(net)), "model"), nn.Linear)


@pytest.mark.parametrize(
    ("kind", "module"),
    [("model", "clearloop.models.mlp"), ("schedule", "clearloop.schedules")],
    ids=["model", "schedule"],
)
def test_a_helper_that_makes_no_component_is_never_called(kind, module, monkeypatch):
    called = []

    def helper():
        called.append(1)

    helper.__module__ = module
    with pytest.raises(ConfigError, match="smuggled"):
        build(smuggle(monkeypatch, module, helper), kind)
    assert not called


def test_what_makes_something_other_than_a_model_is_refused(monkeypatch):
    def net():
        return lambda inputs: inputs

    net.__module__ = "clearloop.models.mlp"
    with pytest.raises(ConfigError, match="a function in place of a model"):
        build(smuggle(monkeypatch, "clearloop.models.mlp", remember(net)), "model")


def test_a_class_that_is_no_callback_is_never_made(monkeypatch):
    class Helper:
        def __init__(self):
            pytest.fail("made")

    Helper.__module__ = "clearloop.callbacks.ema"
    with pytest.raises(ConfigError, match="smuggled"):
        build(smuggle(monkeypatch, "clearloop.callbacks.ema", Helper), "callback")


def test_arguments_that_do_not_fit_name_the_part_and_the_error():
    with pytest.raises(
        ConfigError, match=r"clearloop\.models\.linear:linear cannot be built.*unexpected keyword.*model="
    ):
        build({"path": "clearloop.models.linear:linear", "args": [2, 2], "kwargs": {"bias": True}}, "model")
    with pytest.raises(ConfigError, match="positive ints"):
        build({"path": "clearloop.models.linear:linear", "args": [2, -2]}, "model")
    deep = functools.reduce(lambda inner, _: [inner], range(100_000), 1)
    with pytest.raises(ConfigError, match="RecursionError"):
        build({"path": "clearloop.models.linear:linear", "args": [deep, 2]}, "model")


@pytest.mark.parametrize("bad", ["zero", "", "0x1p99999", 3, None])
def test_a_float_that_is_none_is_refused(bad):
    with pytest.raises(ConfigError):
        build({"path": "clearloop.models.mlp:mlp", "args": [2, 2], "kwargs": {"dropout": {"float": bad}}}, "model")


def test_a_model_of_the_users_own_is_refused_by_name_with_the_way_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

    with pytest.raises(ConfigError, match=r"Net.*Learner\.load\(run, model=\.\.\.\)"):
        build(describe(Net()), "model")
    with pytest.raises(ConfigError, match=r"resume\(schedule=\.\.\.\)"):
        build(describe(lambda step: 0.1), "schedule")


def test_what_is_buildable_is_known_without_building_it():
    assert is_buildable({"path": "clearloop.models.linear:linear", "args": ["no number"]}, "model")
    assert is_buildable(describe(metrics.accuracy), "metric")
    assert not is_buildable("no_metric", "metric")
    for kind in KINDS:
        assert not is_buildable({"path": "os:system", "args": TOUCH}, kind)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="kind must be one of"):
        build({"path": "clearloop.models.linear:linear", "args": [2, 2]}, "engine")


def test_importing_it_imports_neither_torch_nor_the_learner():
    code = "import sys, clearloop.buildable; print([m for m in sys.modules if m in ('torch', 'clearloop.learner')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Components built again from the descriptions of `clearloop.component.describe`, by allow-lists alone.

A recipe is data that may come from anywhere. So nothing in a description is imported or called because it is named
there: its path is looked up among the functions and classes that its kind may be, and everything else is refused. A
module is imported only after its name was found to be one of ours, or one of torch's that are listed here.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from clearloop.errors import ClearloopError, ConfigError

if TYPE_CHECKING:
    from torch import nn

    from clearloop.metrics import Metric

Kind = Literal["model", "loss", "optimizer", "schedule", "data", "callback", "metric"]
Make = Callable[..., Any]  # takes the arguments of a description and gives the component

_PATH = re.compile(r"([A-Za-z_][A-Za-z0-9_.]{0,200}):([A-Za-z][A-Za-z0-9_.]{0,200})", re.ASCII)  # the name is public
_PUBLIC_MODULE = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_TOP_K = re.compile(r"top_([1-9][0-9]{0,5})_accuracy", re.ASCII)
_LOADERS = {  # the functions that read files, by the module of their class
    "clearloop.data.loaders": {"DataLoaders.mnist", "DataLoaders.idx", "DataLoaders.npz", "DataLoaders.npy"},
    "clearloop.data.images": {"ImageDataLoaders.from_folder"},
    "clearloop.data.tables": {"TableDataLoaders.from_file"},
}
_TORCH_LOSSES = frozenset(  # the functions of torch.nn.functional that are losses
    {
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "cosine_embedding_loss",
        "cross_entropy",
        "ctc_loss",
        "gaussian_nll_loss",
        "hinge_embedding_loss",
        "huber_loss",
        "kl_div",
        "l1_loss",
        "linear_cross_entropy",
        "margin_ranking_loss",
        "mse_loss",
        "multi_margin_loss",
        "multilabel_margin_loss",
        "multilabel_soft_margin_loss",
        "nll_loss",
        "poisson_nll_loss",
        "smooth_l1_loss",
        "soft_margin_loss",
        "triplet_margin_loss",
        "triplet_margin_with_distance_loss",
    }
)
_CAN_BE: dict[Kind, str] = {
    "model": "a function of clearloop.models",
    "loss": "a loss of torch.nn.functional, torch.nn or clearloop.losses",
    "optimizer": "an optimizer of torch.optim",
    "schedule": "a function of clearloop.schedules or a scheduler of torch.optim.lr_scheduler",
    "data": "DataLoaders.mnist, .idx, .npz or .npy, ImageDataLoaders.from_folder, or TableDataLoaders.from_file",
    "callback": "a callback of clearloop.callbacks",
    "metric": "a metric of clearloop.metrics",
}
_REMEDY: dict[Kind, str] = {
    "model": "Learner.load(run, model=...)",
    "loss": "Learner.load(run, loss_func=...)",
    "optimizer": "Learner.load(run, opt_func=...)",
    "schedule": "learn.resume(schedule=...)",
    "data": "Learner.load(run, dls=...)",
    "callback": "Learner.load(run, cbs=[...])",
    "metric": "Learner.load(run, metrics=[...])",
}


def build(description: Any, kind: Kind) -> Any:
    """Make the component that `description` describes, if it is one that a `kind` may be.

    Args:
        description: `{"path": "module:name", "args": [...], "kwargs": {...}}`, the last two optional; for a metric
            also its name.
        kind: what the component is for, which decides what it may be.

    Returns:
        A model, loss, loaders, callback, metric or schedule, made by a call of the named function or class. Loss
        functions, optimizer classes and torch's scheduler classes are given as they are, in a `functools.partial`
        where there are arguments.

    Raises:
        ConfigError: a description of anything else (defined in a script, say), or arguments that do not fit; it says
            how to give the part yourself.

    >>> build({"path": "clearloop.models.linear:linear", "args": [4, 2]}, "model")[1]
    Linear(in_features=4, out_features=2, bias=True)
    >>> build({"path": "os:system", "args": ["true"]}, "model")
    Traceback (most recent call last):
    clearloop.errors.ConfigError: the model cannot be built from 'os:system': expected a function of clearloop.models...
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"kind must be one of {', '.join(get_args(Kind))}; got {kind!r}")
    if kind == "metric":
        return _metric(description)
    make = _FINDERS[kind](*_path_of(description, kind))
    if make is None:
        _refuse(kind, repr(description["path"]))
    try:
        args = [_decode(value, kind) for value in _part(description, "args", list, kind)]
        kwargs = {name: _decode(value, kind) for name, value in _part(description, "kwargs", dict, kind).items()}
        return make(*args, **kwargs)
    except ClearloopError:
        raise
    except Exception as error:  # what a constructor raises over arguments that were edited can be anything
        raise ConfigError(
            f"the {kind} {description['path']} cannot be built: expected arguments that it takes, got {error!r}; "
            f"mend the recipe, or give it yourself: {_REMEDY[kind]}"
        ) from error


def is_buildable(description: Any, kind: Kind) -> bool:
    """Whether a description names something that a `kind` may be; its arguments are not looked at, nothing is made.

    >>> is_buildable({"path": "torch.nn.functional:mse_loss"}, "loss"), is_buildable({"path": "os:system"}, "loss")
    (True, False)
    """
    try:
        found = _metric(description) if kind == "metric" else _FINDERS[kind](*_path_of(description, kind))
        return found is not None
    except ConfigError:
        return False


def is_augmentation(description: Any) -> bool:
    """Whether a description names an augmentation of ours; its arguments are not looked at."""
    try:
        return _augmentation(*_path_of(description, "data")) is not None
    except ConfigError:
        return False


def build_model(description: Any) -> nn.Module:
    """`build(description, "model")`: a new model, its weights drawn from torch's generator.

    >>> build_model({"path": "clearloop.models.mlp:mlp", "args": [4, 3, 2]})[3].weight.shape
    torch.Size([2, 3])
    """
    model: nn.Module = build(description, "model")
    return model


# -- reading a description ---------------------------------------------------------------------------------------------


def _path_of(description: Any, kind: Kind) -> tuple[str, str]:
    """Module and name of a description with a path; any other description is refused."""
    if not isinstance(description, dict):
        _refuse(kind, repr(description)[:200])
    if "path" not in description:
        what = description.get("name", description.get("repr", description))
        _refuse(kind, f"{str(what)[:200]!r}, of which the recipe knows the source or the printed form alone")
    path = description["path"]
    if set(description) - {"path", "args", "kwargs"}:
        _refuse(kind, f"a description with the keys {sorted(map(str, description))}")
    match = _PATH.fullmatch(path) if isinstance(path, str) else None
    if match is None:
        _refuse(kind, f"the path {str(path)[:200]!r}")
    return match[1], match[2]


def _part(description: dict[str, Any], name: str, kind_of_part: type, kind: Kind) -> Any:
    part = description.get(name, kind_of_part())
    if not isinstance(part, kind_of_part) or isinstance(part, dict) and not all(type(key) is str for key in part):
        _refuse(kind, f"{description['path']!r} with {name} that are no JSON {kind_of_part.__name__}")
    return part


def _decode(value: Any, kind: Kind) -> Any:
    """A plain value as it was; `{"float": hex}` as a float; a description inside one as the augmentation it may be."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_decode(item, kind) for item in value]
    if not isinstance(value, dict):
        _refuse(kind, f"an argument of type {type(value).__name__}")
    if set(value) == {"float"} and isinstance(value["float"], str):
        return float.fromhex(value["float"])
    if {"path", "source", "repr"} & set(value):
        make = _augmentation(*_path_of(value, kind))
        if make is None:
            _refuse(kind, f"an argument {value['path']!r} (of descriptions, only those of clearloop.data.augment)")
        args, kwargs = _part(value, "args", list, kind), _part(value, "kwargs", dict, kind)
        return make(*(_decode(item, kind) for item in args), **{key: _decode(kwargs[key], kind) for key in kwargs})
    return {str(key): _decode(item, kind) for key, item in value.items()}


def _refuse(kind: Kind, got: str) -> NoReturn:
    raise ConfigError(
        f"the {kind} cannot be built from {got}: expected {_CAN_BE[kind]}; give it yourself: {_REMEDY[kind]}"
    )


# -- what each kind may be: (module, name) -> a function that takes the arguments, or None ----------------------------


def _model(module: str, name: str) -> Make | None:
    found = _our_function(module, name, "clearloop.models")
    return _making_a_module(found) if _remembered(found) else None


def _loss(module: str, name: str) -> Make | None:
    if module == "torch.nn.functional" and name in _TORCH_LOSSES:
        found = vars(import_module("torch.nn.functional")).get(name)
        return _with_weights(_given(found)) if inspect.isfunction(found) else None
    if module == "torch.nn.modules.loss":
        losses = vars(import_module("torch.nn.modules.loss"))
        found = _own_class(losses, name, module, losses["_Loss"])
        return None if found is None else _with_weights(found)
    if module in ("clearloop.losses", "clearloop.models.autoencoder", "clearloop.models.table_net"):
        found = _our_function(module, name, module)
        first_two = [] if found is None else [*inspect.signature(found).parameters][:2]
        return _given(found) if found is not None and first_two == ["preds", "targets"] else None
    return None


def _optimizer(module: str, name: str) -> Make | None:
    optim = vars(import_module("torch.optim"))
    found = _own_class(optim, name, module, optim["Optimizer"])
    return None if found is None else _given(found)


def _schedule(module: str, name: str) -> Make | None:
    if module == "clearloop.schedules":
        found = _our_function(module, name, module)
        return found if _remembered(found) else None
    if module == "torch.optim.lr_scheduler":
        schedulers = vars(import_module(module))
        found = _own_class(schedulers, name, module, schedulers["LRScheduler"])
        return None if found is None else _given(found)
    return None


def _data(module: str, name: str) -> Make | None:
    if name not in _LOADERS.get(module, ()):
        return None
    loaders, method = name.split(".")
    make: Make = getattr(getattr(import_module(module), loaders), method)
    return make


def _callback(module: str, name: str) -> Make | None:
    namespace = _our_module(module, "clearloop.callbacks")
    if namespace is None:
        return None
    return _own_class(namespace, name, module, import_module("clearloop.callback").Callback)


def _augmentation(module: str, name: str) -> Make | None:
    """A function that makes an augmentation is called, an augmentation itself is given as it is."""
    found = _our_function(module, name, "clearloop.data.augment")
    return found if found is None or _remembered(found) else _given(found)


def _metric(description: Any) -> Metric:
    """A metric by its name. One that is described in full must be ours in full, not a namesake."""
    from clearloop import metrics
    from clearloop.component import describe

    name = description
    if not isinstance(description, str):
        module, kind_of_metric = _path_of(description, "metric")
        kwargs = _part(description, "kwargs", dict, "metric")
        name = kwargs.get("name") if (module, kind_of_metric) == ("clearloop.metrics", "Metric") else None
    known = {metric.name: metric for metric in vars(metrics).values() if isinstance(metric, metrics.Metric)}
    match = _TOP_K.fullmatch(name) if isinstance(name, str) else None
    found = metrics.top_k_accuracy(int(match[1])) if match else known.get(name) if isinstance(name, str) else None
    if found is None or not isinstance(description, str) and describe(found) != description:
        _refuse("metric", repr(description)[:200])
    return found


_FINDERS: dict[Kind, Callable[[str, str], Make | None]] = {
    "model": _model,
    "loss": _loss,
    "optimizer": _optimizer,
    "schedule": _schedule,
    "data": _data,
    "callback": _callback,
}


# -- looking things up -------------------------------------------------------------------------------------------------


def _our_module(module: str, home: str) -> dict[str, Any] | None:
    """The names in `module`, imported if it is `home` or a public module below it."""
    below = module.removeprefix(home)
    if not module.startswith(home) or below and not below.startswith("."):
        return None
    if not all(_PUBLIC_MODULE.fullmatch(part) for part in below.split(".")[1:]):
        return None
    try:
        return vars(import_module(module))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(home):  # there is no such module in this version of the library
            return None
        raise ConfigError(f"{module} needs the package {error.name}, which is not installed: pip install it") from error


def _our_function(module: str, name: str, home: str) -> Make | None:
    """A public function that was defined in `home` or below it, not one that it imports from elsewhere."""
    found = (_our_module(module, home) or {}).get(name)
    if not inspect.isfunction(found):
        return None
    return found if found.__module__ == home or found.__module__.startswith(f"{home}.") else None


def _own_class(namespace: dict[str, Any], name: str, module: str, base: type) -> type | None:
    """A public class in `namespace`, defined in `module`, that is derived from `base`."""
    found = namespace.get(name)
    fits = isinstance(found, type) and issubclass(found, base) and found is not base
    return found if fits and found.__module__ == module else None


def _remembered(found: Make | None) -> bool:
    """Whether `clearloop.component.remember` marks it as a function that makes a component."""
    return hasattr(found, "__wrapped__")


def _given(found: Make) -> Make:
    """Give `found` itself rather than call it; arguments are kept in a partial."""
    return lambda *args, **kwargs: functools.partial(found, *args, **kwargs) if args or kwargs else found


def _with_weights(loss: Make) -> Make:
    """Make a loss whose class weights are written as lists."""

    def make(*args: Any, **kwargs: Any) -> Any:
        import torch

        for name in {"weight", "pos_weight"} & {name for name, value in kwargs.items() if value is not None}:
            kwargs[name] = torch.tensor(kwargs[name], dtype=torch.float32)
        return loss(*args, **kwargs)

    return make


def _making_a_module(function: Make | None) -> Make:
    assert function is not None

    def make(*args: Any, **kwargs: Any) -> Any:
        from torch import nn

        model = function(*args, **kwargs)
        if not isinstance(model, nn.Module):
            raise TypeError(f"a {type(model).__name__} in place of a model")
        return model

    return make

"""Models of one's own on the command line: `--model my_net.py:Net --set width=64`.

Code is only ever run because it is named on the command line. What a run's files say of its model is compared with what
was named, before anything of it is run, and is otherwise only shown: no file or module is opened because they name it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import linecache
import re
import shlex
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearloop.errors import ConfigError, RunError

if TYPE_CHECKING:
    from torch import nn

    from clearloop.learner import Learner

WORDS = {"true": True, "false": False, "none": None}
HOLDERS = {"file", "module"}  # what a description names: where its NAME is


@dataclass(frozen=True)
class Named:
    """What `--model` and `--set` name, read and not yet run.

    `where` is the file or the module, `path` the file that has its source.
    """

    text: str
    where: str
    name: str
    path: Path
    source: str
    given: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of the file, as it was read."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def is_file(self) -> bool:
        """Whether it is a file rather than a module."""
        return self.where.endswith(".py")


def read(text: str, given: Sequence[str] | None = None) -> Named:
    """The file or module of `FILE.py:NAME` or `package.module:NAME`. Raises ConfigError where there is none."""
    where, _, name = text.rpartition(":")
    if not where or not name.isidentifier():
        raise ConfigError(f"--model takes FILE.py:NAME or package.module:NAME, got {text}")
    path = Path(where) if where.endswith(".py") else module_file(where)
    try:
        source = path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(f"--model {text}: there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--model {text}: {path} cannot be read: {error}") from None
    return Named(text, where, name, path.resolve(), source, tuple(given or ()))


def module_file(module: str) -> Path:
    """The file of a module's source. Raises ConfigError for one that is not installed, or is Python's own."""
    if module.split(".")[0] in sys.stdlib_module_names:
        raise ConfigError(f"--model takes a module that makes models, got {module}, which is Python's own")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(f"--model: no module {module} is installed; for a file write FILE.py:NAME")
    return Path(spec.origin)


def make(named: Named) -> nn.Module:
    """The model, its weights drawn from torch's generator as it is now; it remembers where it comes from.

    Raises: ConfigError for a file that fails, a NAME that is not there, arguments that do not fit, or no model.
    """
    from torch import nn

    thing = loaded(named)
    arguments = arguments_of(named, thing)
    call = f"{named.name}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
    try:
        model = thing(**arguments)
    except Exception as error:  # a user's own code can raise anything
        raise ConfigError(f"--model {named.text}: {call} failed: {said(error, named.path)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"--model {named.text}: expected an nn.Module from {call}, got {type(model).__name__}")
    model.recipe_call = description(named, arguments)  # type: ignore[assignment]
    return model


def description(named: Named, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe keeps of the model: for people, and to be compared with. Nothing builds a model from it."""
    from clearloop.component import describe

    where = {"file": str(named.path)} if named.is_file else {"module": named.where}
    kwargs = describe(dict(arguments))
    return {"name": named.name, **where, "kwargs": kwargs, "source": named.source, "sha256": named.sha256}


def loaded(named: Named) -> Any:
    """The class or function, its file run once a process, without moving torch's random state."""
    from clearloop import rng

    with rng.preserved():
        module = file_module(named) if named.is_file else imported(named)
    thing = getattr(module, named.name, None)
    if not callable(thing):
        there = [name for name, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)]
        own = [name for name in there if getattr(module, name).__module__ == module.__name__]
        raise ConfigError(
            f"--model {named.text}: expected a class or function {named.name} in {named.where}, got "
            f"{'none' if thing is None else f'a {type(thing).__name__}'}; it has {', '.join(own) or 'none at all'}"
        )
    return thing


def file_module(named: Named) -> types.ModuleType:
    """The module of a file, run from the very bytes that were compared; files beside it can be imported."""
    name = f"own_{re.sub(r'[^A-Za-z0-9_]', '_', named.path.stem)}_{named.sha256[:12]}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(named.path):
        return known
    module = types.ModuleType(name)
    module.__file__ = str(named.path)
    if str(named.path.parent) not in sys.path:
        sys.path.append(str(named.path.parent))
    sys.modules[name] = module  # classes look up their own module
    linecache.checkcache(str(named.path))
    try:
        exec(compile(named.source, str(named.path), "exec"), vars(module))
    except Exception as error:  # a user's own code can raise anything
        del sys.modules[name]
        raise ConfigError(f"--model {named.text}: the file fails: {said(error, named.path)}") from error
    return module


def imported(named: Named) -> types.ModuleType:
    """An installed module."""
    try:
        return importlib.import_module(named.where)
    except Exception as error:  # what a module raises when it is imported can be anything
        raise ConfigError(f"--model {named.text}: the module fails: {said(error, named.path)}") from error


def said(error: Exception, path: Path) -> str:
    """An error of a user's file in a line, with the last line of the file that it came through."""
    line, traceback = getattr(error, "lineno", None), error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" + (f" (line {line})" if line is not None else "")


# -- arguments ---------------------------------------------------------------------------------------------------------


def arguments_of(named: Named, thing: Any) -> dict[str, Any]:
    """The arguments that `--set` gives. Raises ConfigError, with the signature, for what does not fit it."""
    try:
        signature = signature_of(thing)
    except (TypeError, ValueError):
        raise ConfigError(f"--model {named.text}: {named.name} does not say which arguments it takes") from None
    shown = f"{named.name}{signature.replace(return_annotation=inspect.Signature.empty)}"
    found: dict[str, Any] = {}
    for pair in named.given:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name.isidentifier():
            raise ConfigError(f"--set takes NAME=VALUE, got {pair!r}; it is {shown}")
        if name in found:
            raise ConfigError(f"--set takes each argument once, got {name} again")
        parameters = signature.parameters.values()
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        by_name = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if name not in by_name and not anything:
            raise ConfigError(f"--set {pair}: there is no argument {name} in {shown}")
        try:
            found[name] = value_of(text, by_name[name]) if name in by_name else guessed(text)
        except ValueError as error:
            raise ConfigError(f"--set {pair}: expected {error}, got {text!r}; it is {shown}") from None
    try:
        signature.bind(**found)
    except TypeError as error:
        raise ConfigError(f"--model {named.text}: {error} in {shown}; give it with --set NAME=VALUE") from None
    return found


def signature_of(thing: Any) -> inspect.Signature:
    """Its signature, with annotations that were written as text read where they can be."""
    try:
        return inspect.signature(thing, eval_str=True)
    except NameError:  # of what is imported for type checkers alone
        return inspect.signature(thing)


def value_of(text: str, parameter: inspect.Parameter) -> Any:
    """The value of an argument: by its annotation, else by its default, else by its look. Raises ValueError."""
    if parameter.annotation not in (inspect.Parameter.empty, Any, object):
        return annotated(text, parameter.annotation)
    default = parameter.default
    if type(default) in (bool, int, float, str) and not (type(default) is int and is_float(text)):
        return annotated(text, type(default))
    if isinstance(default, (list, tuple)):
        return type(default)(guessed(part) for part in parts(text))
    return guessed(text)


def annotated(text: str, kind: Any) -> Any:
    """A value of the annotated type. Raises ValueError that says what was expected."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for one in sorted(inner, key=lambda one: one is str):  # text last, which everything is
            try:
                return annotated(text, one)
            except ValueError:
                continue
        raise ValueError(" or ".join(getattr(one, "__name__", str(one)) for one in inner))
    if kind is type(None):
        if text.lower() == "none":
            return None
        raise ValueError("none")
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ValueError("true or false")
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError("a whole number" if kind is int else "a number") from None
    if kind is str:
        return text
    if (origin or kind) in (list, tuple, Sequence):
        holder = tuple if (origin or kind) is tuple else list
        return holder(annotated(part, inner[0]) if inner else guessed(part) for part in parts(text))
    if origin is typing.Literal:
        value = next((one for one in inner if str(one).lower() == text.lower()), inner)
        if value is inner:
            raise ValueError(f"one of {', '.join(map(str, inner))}")
        return value
    return guessed(text)


def guessed(text: str) -> Any:
    """A value by its look.

    >>> [guessed(text) for text in ("64", "0.5", "true", "none", "16,32", "relu")]
    [64, 0.5, True, None, [16, 32], 'relu']
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if "," in text:
        return [guessed(part) for part in parts(text)]
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    return float(text) if is_float(text) else text


def parts(text: str) -> list[str]:
    """The parts between commas, of which the last may be left out.

    >>> parts("16, 32"), parts("16,")
    (['16', '32'], ['16'])
    """
    return [part.strip() for part in text.removesuffix(",").split(",")] if text else []


def is_float(text: str) -> bool:
    """Whether it is a number with a point or an exponent.

    >>> is_float("1e-3"), is_float("64"), is_float("nan")
    (True, False, False)
    """
    return re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?", text) is not None


def text_of(value: Any) -> str:
    """A recorded value as `--set` takes it."""
    if isinstance(value, list):
        return ",".join(map(text_of, value)) + ("," if len(value) == 1 else "")
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


# -- a run's model -----------------------------------------------------------------------------------------------------


def recorded(run: Path) -> tuple[dict[str, Any], int]:
    """What a run, or a predictor's folder, says of its model; and the seed that the weights were made with."""
    from clearloop.predictor_folder import read_folder
    from clearloop.rundir import RunDirectory

    if not (run / "recipe.json").exists():
        model = read_folder(run)[0]["model"]
        return model if isinstance(model, dict) else {}, 0
    recipe = RunDirectory.open(run).read_recipe()
    model, seed = recipe.get("model"), recipe.get("seed")
    return model if isinstance(model, dict) else {}, seed if isinstance(seed, int) else 0


def options_for(model: Mapping[str, Any]) -> str:
    """The options that name a recorded model, to be shown: `--model my_net.py:Net --set width=64`."""
    where, kwargs = str(model.get("file", model.get("module"))), model.get("kwargs")
    path = Path(where)
    if "file" in model and path.is_relative_to(Path.cwd()):
        where = str(path.relative_to(Path.cwd()))
    pairs = kwargs.items() if isinstance(kwargs, dict) else ()
    given = [part for name, value in pairs for part in ("--set", f"{name}={text_of(value)}")]
    return shlex.join(["--model", f"{where}:{model.get('name')}", *given])


def of_run(command: str, run: Path, text: str | None, given: Sequence[str] | None, changed: bool) -> nn.Module | None:
    """The model that `--model` names for a run, made as it was made for training; None where the run needs none.

    Raises: ConfigError where the run's model must be named, or what is named is another; RunError for no run.
    """
    import torch

    from clearloop import rng

    try:
        model, seed = recorded(run)
    except RunError:
        if text is None:
            return None  # the command itself says what is wrong
        raise
    own = "source" in model and bool(HOLDERS & set(model))
    if text is None:
        if given or changed:
            raise ConfigError(f"{'--set' if given else '--changed'} goes with --model FILE.py:NAME")
        if own:
            raise ConfigError(
                f"{run} was trained with a model of one's own, whose code is run only where you name it: "
                f"clearloop {command} {shlex.quote(str(run))} {options_for(model)}"
            )
        return None
    if str(model.get("path", "")).startswith("clearloop."):
        raise ConfigError(f"{run} was trained with a model of clearloop's own: leave out --model")
    named = read(text, given)
    require_same(command, run, named, model, own, changed)
    with rng.preserved():
        torch.manual_seed(seed)
        made = make(named)
    kwargs: Any = made.recipe_call
    if own and kwargs["kwargs"] != model.get("kwargs"):
        raise ConfigError(
            f"{run} was trained with other arguments: clearloop {command} {shlex.quote(str(run))} {options_for(model)}"
        )
    return made


def require_same(command: str, run: Path, named: Named, model: Mapping[str, Any], own: bool, changed: bool) -> None:
    """Raise ConfigError unless what is named is what the run was trained with. Nothing of it has been run yet."""
    if own and named.name != model.get("name"):
        raise ConfigError(
            f"{run} was trained with {model.get('name')}, got {named.name}: "
            f"clearloop {command} {shlex.quote(str(run))} {options_for(model)}"
        )
    source = model.get("source")
    same = named.sha256 == model.get("sha256") if own else not isinstance(source, str) or source in named.source
    if not same and not changed:
        raise ConfigError(
            f"{named.path} has changed since {run} was trained with it; put it back, or say --changed to take it as it "
            "is now"
        )


def learner(run: Path, model: nn.Module, device: str | None = "cpu") -> Learner:
    """The Learner of a run with the model that was named for it, to look at; None is the device that it ran on."""
    import warnings

    from clearloop.learner import Learner

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether it could go on to the bit does not matter here
        return Learner.load(run, model=model, device=device)


def expression(model: nn.Module) -> Any:
    """What makes the model in a printed program: a call, or the function itself where it takes nothing.

    The model forgets where it comes from, as what the program makes will know nothing of it.

    Raises: ConfigError for a function with arguments that gives a model of torch's, which a program cannot name.
    """
    made: Any = model.recipe_call
    del model.recipe_call
    if type(model).__module__.startswith("own_"):
        return f"{made['name']}({', '.join(f'{name}={value!r}' for name, value in made['kwargs'].items())})"
    function = next((vars(m)[made["name"]] for m in own_modules() if m.__file__ == made.get("file")), None)
    if function is None or made["kwargs"]:
        raise ConfigError(
            f"{made['name']} gives a {type(model).__name__} of {type(model).__module__}, which is not printed; make it "
            "a class in a file of yours, or a function without arguments"
        )
    return function


def own_modules() -> list[types.ModuleType]:
    """The files that were loaded, the newest first."""
    return [module for name, module in reversed(list(sys.modules.items())) if name.startswith("own_")]


def repeated(options: Sequence[str]) -> list[str]:
    """Those of a command's options that name a model of one's own, for the command that goes on with its run.

    >>> repeated(["-n", "3", "--model", "net.py:Net", "--set=width=3", "--lr", "0.1"])
    ['--model', 'net.py:Net', '--set=width=3']
    >>> repeated(["--model", "mlp"])
    []
    """
    found: list[str] = []
    for number, option in enumerate(options):
        if option in ("--model", "--set"):
            found += options[number : number + 2]
        elif option.startswith(("--model=", "--set=")):
            found.append(option)
    return found if any(":" in option for option in found) else []

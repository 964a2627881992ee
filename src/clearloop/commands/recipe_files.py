"""Recipe files: the options of `clearloop train` as JSON, `--print-recipe`, and a training from such a file.

    {"recipe": "clearloop train", "version": 1, "data": "mnist", "model": "cnn", "epochs": 4, "lr": 0.01, …}

A key is the long name of an option; null is an option that was left out. A file is data: the code of a model of one's
own is only run where the command line names it too.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from clearloop.commands.choices import AUTOENCODERS, Bound, Form, Model
from clearloop.commands.groups import FOR_NETS, Keeping, Net, Plan, Source, Training, check_options
from clearloop.errors import ConfigError

KIND, VERSION = "clearloop train", 1
NOT_IN_FILES = {"out", "quiet", "one_cycle", "data"}  # of this one run; said by schedule; not an option
WIDTHS = {Model.mlp: "64", Model.cnn: "16,32,64", Model.autoencoder: "128,64", Model.conv_autoencoder: "16,32"}
GROUPS: dict[str, Any] = {"source": Source, "net": Net, "training": Training, "keeping": Keeping}
WHAT: dict[type, str] = {int: "a whole number", float: "a number", str: "text"}
OF_A_NET = {"arguments", *(name for name in FOR_NETS if name != "normalize")}  # of no use with another model


class Parts(NamedTuple):
    """The options of train, in their groups."""

    source: Source
    net: Net
    training: Training
    keeping: Keeping


def is_recipe(data: str) -> bool:
    """Whether DATA is a recipe file, by its name."""
    return data.lower().endswith(".json")


def long_names(command: Any) -> dict[str, Any]:
    """The options that a file may have, by their long names without dashes."""
    options = [one for one in command.params if one.param_type_name == "option" and one.name not in NOT_IN_FILES]
    known = {field.name for part in Parts.__annotations__ for field in fields(GROUPS[part])}
    return {next(name for name in one.opts if name.startswith("--"))[2:]: one for one in options if one.name in known}


# -- printing ----------------------------------------------------------------------------------------------------------


def recipe_text(command: Any, parts: Parts, plan: Plan) -> str:
    """The recipe of a command: what was left out is filled with what it stands for.

    Raises: ConfigError for options that cannot be.
    """
    source, net, training, keeping = parts
    check_options(source, net)
    table = source.form is Form.table
    autoencoder = net.model in AUTOENCODERS
    values: dict[str, Any] = {**vars(source), **vars(net), **vars(training), **vars(keeping)}
    values |= {"opt": plan.opt, "lr": plan.lr, "schedule": plan.shape, "epochs": plan.epochs}
    values |= {"threads": int(os.environ["OMP_NUM_THREADS"])}
    if net.model in WIDTHS:
        values["hidden"] = net.hidden or ("128,64" if table else WIDTHS[Model(net.model)])
    if autoencoder:
        values |= {"code": 32 if net.code is None else net.code, "output": net.output or Bound.tanh}
    if table and source.valid is None:
        values["valid"] = 0.2
    names = {name: plain(values[one.name]) for name, one in long_names(command).items()}
    return json.dumps({"recipe": KIND, "version": VERSION, "data": source.data, **names}, indent=1, ensure_ascii=False)


def plain(value: Any) -> Any:
    """A value of an option as JSON has it: lists, text, numbers; null for what was left out."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (Path, str)):
        return str(value) or None
    return value


# -- reading -----------------------------------------------------------------------------------------------------------


def with_recipe(context: Any, given: Parts) -> Parts:
    """The options of a recipe file, those of the command line above them.

    Args: `context`, of the command, which knows what was given.
    Raises: ConfigError, with the key, for what is no recipe file or cannot be.
    """
    path = Path(given.source.data)
    content = read(path)
    said = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}
    if "model" in said and content.get("model") != given.net.model:
        content = {name: value for name, value in content.items() if name not in {key_of(name) for name in OF_A_NET}}
    require_named(path, content, given.net, said)
    if "one_cycle" in said:
        content.pop("schedule", None)
    found = parsed(context.command, path, content)
    made: list[Any] = [
        replace(group, **{field.name: found[field.name] for field in fields(group)
                          if field.name in found and (field.name not in said or field.name == "data")})
        for group in given
    ]  # fmt: skip
    return Parts(*made)


def key_of(name: str) -> str:
    """The key of an option."""
    return "set" if name == "arguments" else name.replace("_", "-")


def read(path: Path) -> dict[str, Any]:
    """The keys of a recipe file. Raises ConfigError for other files."""
    try:
        content = json.loads(path.read_bytes().decode(), parse_constant=str, object_pairs_hook=once)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such recipe file; `clearloop train DATA --print-recipe` prints one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected a recipe file in JSON, got what cannot be read: {error}") from None
    if isinstance(content, dict) and {"fits", "fingerprint"} <= set(content):
        run = shlex.quote(str(path.parent))
        raise ConfigError(f"{path} is the record of a run, not a recipe file; go on with it: clearloop resume {run}")
    if not isinstance(content, dict) or content.get("recipe") != KIND:
        got = content.get("recipe") if isinstance(content, dict) else type(content).__name__
        raise ConfigError(f'{path}: expected a recipe file, with "recipe": "{KIND}", got {got!r}')
    if content.get("version") != VERSION or type(content["version"]) is not int:
        raise ConfigError(f"{path}: expected version {VERSION}, got {content.get('version')!r}; use a newer clearloop")
    if not isinstance(content.get("data"), str) or is_recipe(content["data"]):
        raise ConfigError(f'{path}: expected data, as in "data": "mnist", got {content.get("data")!r}')
    return {name: value for name, value in content.items() if name not in ("recipe", "version")}


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, each of whose keys is there once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def require_named(path: Path, content: Mapping[str, Any], net: Net, said: set[str]) -> None:
    """Raise ConfigError unless the command line names the code that the file names."""
    own, arguments = content.get("model"), content.get("set") or []
    if not isinstance(own, str) or ":" not in own:
        return
    if not isinstance(arguments, list) or not all(isinstance(one, str) for one in arguments):
        raise ConfigError(f'{path}: set takes a list of texts such as "width=64", got {arguments!r}')
    if "model" in said and list(net.arguments or ()) == arguments:
        return
    if "model" in said and "arguments" in said:
        return  # other arguments for the same code, which the command line has named
    options = shlex.join(["--model", own, *(part for one in arguments for part in ("--set", one))])
    raise ConfigError(
        f"{path} has a model of one's own, whose code is run only where you name it: "
        f"clearloop train {shlex.quote(str(path))} {options}"
    )


def parsed(command: Any, path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The file's values as the command line would read them, by the names of their fields."""
    options = long_names(command)
    arguments, kept = [], {"data"}
    for key, value in content.items():
        if key == "data":
            continue
        if key not in options:
            raise ConfigError(
                f"{path}: unknown key {key!r}; `clearloop train DATA --print-recipe` prints all there are"
            )
        kept.add(options[key].name)
        arguments += words(path, key, value, options[key])
    try:
        context = command.make_context("clearloop train", [*arguments, "--", content["data"]])
    except Exception as error:  # typer's own, which has no public name in all of its versions
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        raise ConfigError(f"{path}: {message().replace(chr(39) + '--', chr(39))}") from None
    return {name: value for name, value in context.params.items() if name in kept}


def words(path: Path, key: str, value: Any, option: Any) -> list[str]:
    """The words of an option in a file. Raises ConfigError for a value of another type."""
    kind, is_list = kind_of(option.name)
    if value is None:
        return []
    if kind is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"{path}: {key} takes true or false, got {value!r}")
        return [f"--{key}"] if value else []
    if is_list != isinstance(value, list):
        raise ConfigError(f"{path}: {key} takes {'a list' if is_list else WHAT[kind]}, got {value!r}")
    values = value if is_list else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, (int, float) if kind is float else kind):
            raise ConfigError(f"{path}: {key} takes {WHAT[kind]}, got {one!r}")
    return [f"--{key}={one!r}" if isinstance(one, float) else f"--{key}={one}" for one in values]


def kind_of(name: str) -> tuple[type, bool]:
    """What JSON has for an option, bool, int, float or str, and whether it is a list of them.

    >>> kind_of("lr"), kind_of("augment"), kind_of("opt")
    ((<class 'float'>, False), (<class 'str'>, True), (<class 'str'>, False))
    """
    kind = next(hints[name] for hints in map(get_type_hints, GROUPS.values()) if name in hints)
    kind = next((one for one in get_args(kind) if one is not type(None)), kind) if isinstance(kind, UnionType) else kind
    is_list = get_origin(kind) is list
    return next((one for one in (bool, int, float) if kind is one), str), is_list

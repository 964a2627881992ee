"""Eject: a run as one plain PyTorch program, put together from the very functions that ran it."""

from __future__ import annotations

import ast
import io
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clearloop import durable
from clearloop.buildable import build, is_buildable
from clearloop.data.mnist import VALID_IMAGES
from clearloop.environment import clearloop_version
from clearloop.errors import ConfigError, EjectError
from clearloop.printer import WIDTH, Always, Given, Printer, bracketed
from clearloop.recipe import Recipe
from clearloop.rundir import RunDirectory

RUNGS = (7,)
IGNORED_CALLBACKS = (  # they do not change what is trained
    "clearloop.callbacks.checkpoints:Checkpoints",
    "clearloop.callbacks.progress:Progress",
)
PRINTABLE = {  # what each part may be; nothing else from a recipe, which is data, gets into a program
    "model": "a function of clearloop.models",
    "loss": "a function of clearloop.losses or torch.nn.functional, or a class of torch.nn",
    "optimizer": "a class of torch.optim",
    "schedule": "a function of clearloop.schedules",
    "data": "DataLoaders.mnist, .idx or .npz",
}


@dataclass(frozen=True)
class Program:
    """The text of a program, and the initial weights that must lie beside it where the seed does not give them."""

    text: str
    weights: dict[str, Any] | None = None

    def write(self, path: Path) -> None:
        """Write the program, and `<name>.weights.npz` beside it if it needs one. Raises StorageError."""
        import numpy as np

        if self.weights is not None:
            packed = io.BytesIO()
            np.savez(packed, **{name: tensor.numpy() for name, tensor in self.weights.items()})
            durable.write_file(weights_path(path), packed.getvalue())
        durable.write_file(path, self.text.encode())


def weights_path(program: Path) -> Path:
    """Where a program looks for its initial weights."""
    return program.with_suffix(".weights.npz")


def eject(run: str | Path, rung: int = 7) -> Program:
    """Print a run as one Python file that needs torch and NumPy alone, at a level of abstraction.

    Args: `rung`, 7: `fit` with a DataLoader and validation.
    Raises: EjectError naming what cannot be printed, and why; RunError for a folder that holds no run.
    """
    if rung not in RUNGS:
        raise EjectError(f"expected rung {', '.join(map(str, RUNGS))}, got {rung}: the others are not written yet")
    directory = RunDirectory.open(run)
    recipe = Recipe.read(directory.read_recipe(), str(directory.recipe))
    refuse_unprintable(recipe)
    weights = None
    if recipe.initial_weights == "unknown":
        raise EjectError(
            f"{run} was first saved after training had begun, so its first weights are not known; train with the "
            "callback Checkpoints(folder), or from the command line"
        )
    if recipe.initial_weights == "file":
        from clearloop import packing

        weights = packing.load(directory.path / "initial")["model"]
    text = assemble(recipe, weights is not None)
    compile(text, "<ejected>", "exec")
    return Program(text, weights)


def refuse_unprintable(recipe: Recipe) -> None:
    """Raise EjectError, with the reason, for a recipe that this version cannot print."""
    callbacks = [name_of(callback) for callback in recipe.callbacks if callback.get("path") not in IGNORED_CALLBACKS]
    reasons = {
        f"a run of one fit, got {len(recipe.fits)}, one after the other": len(recipe.fits) != 1,
        f"the eager engine, got fast={recipe.fast!r}": recipe.fast != "off",
        f"a run on the CPU, got {recipe.device}": recipe.device != "cpu",
        f"float32, got precision={recipe.precision!r}": recipe.precision is not None,
        f"no gradient accumulation, got accumulate={recipe.accumulate!r}": recipe.accumulate != 1,
        f"no callback that changes training or ends it, got {', '.join(callbacks)}": bool(callbacks),
        "a loss without class weights, got one with them": "weight" in recipe.loss_func.get("kwargs", {}),
        "a validation set, got none": recipe.fingerprint["valid"] is None,
    }
    for expected, unmet in reasons.items():
        if unmet:
            raise EjectError(f"only what can be printed exactly is printed: expected {expected}")
    schedule = recipe.fits[0]["schedule"]
    require_printable(recipe.model, "model")
    require_printable(recipe.data, "data")
    require_printable(recipe.loss_func, "loss")
    require_printable(recipe.opt_func, "optimizer")
    if schedule is not None:
        require_printable(schedule, "schedule")
        if not schedule["path"].startswith("clearloop."):
            raise EjectError(f"the schedule {name_of(schedule)} is torch's: expected {PRINTABLE['schedule']}, or none")
    if recipe.data.get("kwargs", {}).get("augment") is not None:
        raise EjectError("the data are augmented, which cannot be printed yet: expected augment=None")


def require_printable(description: Any, kind: Literal["model", "loss", "optimizer", "schedule", "data"]) -> None:
    """Raise EjectError for a part that is not ours or torch's."""
    if is_buildable(description, kind):
        return
    if kind == "data":
        reason = "data in memory, or from a loader of your own, cannot be found by a program"
    elif "path" in description:
        reason = "it is neither clearloop's nor torch's, and its source is not printed yet"
    elif kind == "model":
        reason = "a model object does not remember the arguments that it was made with"
    else:
        reason = "it is defined in a script, a notebook cell or a lambda"
    raise EjectError(f"the {kind} ({name_of(description)}) cannot be printed: {reason}; expected {PRINTABLE[kind]}")


def name_of(description: Mapping[str, Any]) -> str:
    """What to call a component in a message."""
    known = [description[name] for name in ("path", "name", "repr") if name in description]
    return str(known[0] if known else "?").split(":")[-1][:80]


def assemble(recipe: Recipe, from_file: bool) -> str:
    """The text of the program at rung 7."""
    plan = recipe.fits[0]
    printer = Printer(what_is_known(recipe))
    for module in ("argparse", "torch"):
        printer.need_import(module)
    source, loaders = print_data(printer, recipe)
    model, loss = print_call(printer, recipe.model), print_call(printer, recipe.loss_func)
    weights = print_weights(printer) if from_file else []
    opt = print_optimizer(printer, recipe.opt_func, plan["lr"])
    metrics = [print_metric(printer, metric) for metric in recipe.metrics]
    options = [f"metrics=[{', '.join(metrics)}]"]
    if plan["schedule"] is not None:
        options.append(f"schedule={print_call(printer, plan['schedule'])}")
    if recipe.clip is not None:
        options.append(f"clip={value_text(recipe.clip)}")
    fit = printer.need("clearloop.rungs.fit:fit")
    sha, named = printer.need("clearloop.weights:weights_sha256"), printer.need("clearloop.weights:named_tensors")
    body = [
        f"torch.set_num_threads({recipe.threads})  # the number of threads decides the last bits",
        *loaders,
        "",
        "torch.manual_seed(SEED)",
        f"model = {model}",
        *weights,
        f"opt = {opt}",
        "",
        "torch.manual_seed(SEED)  # what training draws (dropout, say) starts from the seed too",
        f"{fit}({', '.join(['EPOCHS', 'model', loss, 'opt', 'train_dl', 'valid_dl', *options])})",
        f'print("sha256", {sha}({named}(model)))',
    ]
    return TEMPLATE.format(
        title=textwrap.fill(f"Trains {model}: a plain PyTorch program.", WIDTH - 8),
        version=clearloop_version(),
        torch=re.sub(r"[^\w.+-]", "", recipe.versions["torch"]),
        data=source.split(" ")[0].upper(),
        source=source,
        imports=printer.import_lines(),
        seed=recipe.seed,
        epochs=plan["last_epoch"] - plan["first_epoch"],
        pieces=printer.text(),
        body="\n".join(f"    {line}" if line else "" for line in wrap_all(body)),
    )


def what_is_known(recipe: Recipe) -> dict[str, Any]:
    """What this recipe decides of the parameters of the functions that are printed."""

    def known(value: Any, type: str) -> Any:
        return None if value is None else Given(type)

    model = recipe.model.get("kwargs", {})
    found = {
        "scaler": None,
        "count": Always("len"),
        "metrics": Given("Sequence[Metric]"),
        "clip": known(recipe.clip, "float"),
        "schedule": known(recipe.fits[0]["schedule"], "Callable[[int], float]"),
        "dropout": known(model.get("dropout"), "float"),
    }
    if not recipe.data["path"].endswith(".npz"):
        found["valid"] = known(held_out(recipe), "float")
    return found


def held_out(recipe: Recipe) -> Any:
    """How much of the training data is held out, as the recipe says it; None where other files are."""
    return VALID_IMAGES if recipe.data["path"].endswith(".mnist") else recipe.data.get("kwargs", {}).get("valid")


TEMPLATE = '''"""{title}

Printed by clearloop {version} from a run, with which it agrees to the bit on torch {torch}:
the losses of every epoch, and the SHA-256 of the final weights. Run it with --data {data}.
"""

from __future__ import annotations

{imports}

SEED = {seed}
EPOCHS = {epochs}

{pieces}

def main() -> None:
    """Read the data, build the model, train it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="{source}")
    arguments = parser.parse_args()
{body}


if __name__ == "__main__":
    main()
'''


def print_data(printer: Printer, recipe: Recipe) -> tuple[str, list[str]]:
    """What --data is to be, and the lines that make train_dl and valid_dl."""
    name, options = recipe.data["path"].split(".")[-1], dict(recipe.data.get("kwargs", {}))
    given = recipe.data.get("args", [])
    batch_size = given[-1] if given and isinstance(given[-1], int) else options.get("batch_size", 64)
    valid = held_out(recipe)
    arguments = ["arguments.data"] + ([] if valid is None else [f"valid={value_text(valid)}"])
    seed = "SEED" if options["seed"] == recipe.seed else value_text(options["seed"])  # the data's, not the model's
    if name == "npz":
        source, parts = "file with the arrays, an .npz archive", printer.need("clearloop.rungs.loader:npz_parts")
        scale = f"{printer.need('clearloop.data.loaders:scaling_of')}(train[0])"
        arguments.append(f"seed={seed}")
    else:
        files = "train-* and t10k-*" if valid is None else "train-*"
        source = f"folder with the IDX files {files}, gzipped or not"
        parts = printer.need("clearloop.data.loaders:idx_parts")
        scale = printer.need("clearloop.data.loaders:scale_images")
    loader = printer.need("clearloop.rungs.loader:TensorLoader")
    return source, [
        f"train, valid = {parts}({', '.join(arguments)})",
        f"train_dl = {loader}(train, {value_text(batch_size)}, {scale}, seed={seed})",
        f"valid_dl = {loader}(valid, {value_text(options.get('valid_batch_size', 512))}, {scale})",
    ]


def print_metric(printer: Printer, description: Any) -> str:
    """A metric of clearloop.metrics as an expression."""
    try:
        name = build(description, "metric").name
    except ConfigError:
        shown = name_of(description) if isinstance(description, Mapping) else description
        raise EjectError(f"the metric {shown} cannot be printed: expected metrics of clearloop.metrics") from None
    if match := re.fullmatch(r"top_(\d+)_accuracy", name):
        return f"{printer.need('clearloop.metrics:top_k_accuracy')}({match[1]})"
    return printer.need(f"clearloop.metrics:{name}")


def print_call(printer: Printer, description: Mapping[str, Any]) -> str:
    """A component as an expression; ours are printed, torch's imported."""
    module, name = description["path"].split(":")
    if module.startswith("clearloop."):
        function = printer.need(description["path"])
    elif module == "torch.nn.functional":
        printer.need_import("torch.nn.functional as F")
        function = f"F.{name}"
    else:
        printer.need_import("torch", "nn")
        function = f"nn.{name}"
    if module.startswith("clearloop.models"):  # our models take None for "left out"
        named = {key: value for key, value in description.get("kwargs", {}).items() if value is not None}
        description = {**description, "kwargs": named}
    is_loss = module in ("torch.nn.functional", "clearloop.losses")  # a function that is handed on, not called
    options = arguments_text(description)
    if not is_loss:
        return f"{function}({options})"
    if not options:
        return function
    printer.need_import("functools", "partial")
    return f"partial({function}, {options})"


def print_optimizer(printer: Printer, description: Mapping[str, Any], lr: float) -> str:
    """The optimizer over all parameters of the model."""
    name, options = description["path"].split(":")[1], arguments_text({"kwargs": description.get("kwargs", {})})
    return f"torch.optim.{name}(model.parameters(), lr={value_text(lr)}{', ' if options else ''}{options})"


def arguments_text(description: Mapping[str, Any]) -> str:
    """Arguments of a call as source."""
    named = description.get("kwargs", {})
    if not all(name.isidentifier() for name in named):
        raise EjectError(f"expected the names of arguments, got {sorted(named)}")
    args = [value_text(value) for value in description.get("args", [])]
    return ", ".join([*args, *(f"{name}={value_text(value)}" for name, value in named.items())])


def value_text(value: Any) -> str:
    """A plain value as source; lists were tuples as often as not, and serve as either.

    >>> value_text([1, 2.5, "mean", None, {"float": "inf"}])
    '(1, 2.5, "mean", None, float("inf"))'
    """
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(value_text, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, Mapping) and set(value) == {"float"}:
        return f'float("{float.fromhex(value["float"])}")'  # one that is not finite
    if isinstance(value, str):
        return json.dumps(value)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    raise EjectError(f"an argument {value!r} cannot be printed: expected numbers, text and lists of them")


def print_weights(printer: Printer) -> list[str]:
    """Lines that put the initial weights from the file beside the program into the model."""
    printer.need_import("pathlib", "Path")
    printer.need_import("numpy as np")
    named = printer.need("clearloop.weights:named_tensors")
    return [
        'weights = np.load(Path(__file__).with_suffix(".weights.npz"))  # the first ones, which no seed gives',
        "with torch.no_grad():",
        f"    for name, tensor in {named}(model).items():",
        "        tensor.copy_(torch.from_numpy(weights[name]))",
    ]


def wrap_all(lines: list[str]) -> list[str]:
    """Break calls that are too long at their commas."""
    wrapped = []
    for line in lines:
        call = call_in(line) if len(line) + 4 > WIDTH else None
        if call is None:
            wrapped.append(line)
            continue
        parts = [ast.unparse(part) for part in call.args]
        parts += [f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in call.keywords]
        wrapped += bracketed(line.split("(")[0], parts, width=WIDTH - 4)
    return wrapped


def call_in(line: str) -> ast.Call | None:
    """The call that a line consists of, perhaps with a name for its result."""
    (statement,) = ast.parse(line.strip()).body
    found = getattr(statement, "value", None)
    return found if isinstance(found, ast.Call) else None

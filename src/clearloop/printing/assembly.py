"""A recipe as the text of a program, on one of seven rungs of abstraction."""

from __future__ import annotations

import ast
import re
import textwrap
from typing import Any

from torch import nn

from clearloop.buildable import is_buildable
from clearloop.data.images import ImageDataLoaders
from clearloop.data.loaders import DataLoaders
from clearloop.environment import clearloop_version
from clearloop.printing import byhand
from clearloop.printing.draft import BY_HAND, INDEXED, Data, Draft, Objects
from clearloop.printing.expressions import value_text, wrap_all
from clearloop.printing.model import named_weights, print_model, print_weights
from clearloop.printing.parts import (
    keyed_augment,
    print_data,
    print_loaders,
    print_loss,
    print_metrics,
    print_optimizer,
    print_schedule,
    schedule_kind,
)
from clearloop.printing.pictures import is_grey
from clearloop.printing.printable import require_printable
from clearloop.printing.printer import WIDTH, Always, Given, Printer
from clearloop.printing.sources import held_out
from clearloop.rebuild import on_no_device
from clearloop.recipe import Recipe

LOOPS = {  # the loop of each rung
    1: "clearloop.rungs.loops:raw_layers",
    2: "clearloop.rungs.loops:parameters",
    3: "clearloop.rungs.loops:own_optimizer",
    4: "clearloop.rungs.loops:torch_optimizer",
    5: "clearloop.rungs.loops:with_dataset",
    6: "clearloop.rungs.loops:with_loader",
    7: "clearloop.rungs.fit:fit",
}
ABOUT = {
    1: "layers, updates and loop by hand",
    2: "a model that knows its parameters, updates and loop by hand",
    3: "an optimizer by hand",
    4: "an optimizer of torch's",
    5: "a Dataset",
    6: "DataLoaders",
    7: "fit, with DataLoaders and validation",
}


def assemble(
    recipe: Recipe,
    rung: int,
    from_file: bool,
    objects: Objects | None = None,
    loaders: DataLoaders | None = None,
) -> str:
    """The text of the program. Raises EjectError for a part that cannot be printed, or not on this rung.

    Args: `from_file`, whether the initial weights lie in a file beside the program; `loaders`, of the data, if
    `looked_at` says that they are needed.
    """
    printer = Printer(what_is_known(recipe, rung, objects, loaders))
    draft = Draft(printer, recipe, rung, objects, loaders)
    for module in ("argparse", "torch"):
        printer.need_import(module)
    for name in ("SEED", "EPOCHS", "main", "parser", "arguments"):
        printer.claim(name, "the program's own")
    title, model = print_model(draft, model_of(recipe, objects))
    data = print_data(draft)
    weights = print_weights(draft) if from_file else []
    optimizer, options = print_optimizer(draft)
    scheduler, more = print_schedule(draft)
    loss = print_loss(draft)
    options = {**options, **more, "metrics": f"[{', '.join(print_metrics(draft))}]"}
    options |= loop_options(draft, data)
    body = [
        f"torch.set_num_threads({recipe.threads})  # the number of threads decides the last bits",
        *data.lines,
        *print_loaders(draft, data),
        "",
        "torch.manual_seed(SEED)",
        *model,
        *weights,
        *optimizer,
        *scheduler,
        "",
        "torch.manual_seed(SEED)  # what training draws (dropout, say) starts from the seed too",
        loop_call(draft, loss, options),
        f'print("sha256", {draft.need("clearloop.weights:weights_sha256")}({named_weights(draft)}))',
    ]
    claim_variables(printer, body)
    return TEMPLATE.format(
        title=textwrap.fill(f"Trains {title}: a plain PyTorch program, rung {rung} of 7 ({ABOUT[rung]}).", WIDTH - 8),
        version=clearloop_version(),
        torch=re.sub(r"[^\w.+-]", "", recipe.versions["torch"]),
        run_with=run_with(data),
        data_option=data_option(draft, data),
        imports=printer.import_lines(),
        seed=recipe.seed,
        epochs=draft.plan["last_epoch"] - draft.plan["first_epoch"],
        pieces=printer.text(),
        body="\n".join(f"    {line}" if line else "" for line in wrap_all(body)),
    )


def loop_options(draft: Draft, data: Data) -> dict[str, str]:
    """What the recipe asks of the loop itself."""
    options = {}
    if draft.recipe.clip is not None:
        options["clip"] = value_text(draft.recipe.clip)
    if draft.recipe.accumulate != 1:
        options["part_size"] = str(data.batch_size)
    if data.augment is not None and draft.rung <= INDEXED + 1:
        options["augment"] = keyed_augment(draft, data)
    return options


def claim_variables(printer: Printer, body: list[str]) -> None:
    """Raise EjectError for a part of the user's that has the name of a variable of `main`: it could not be called."""
    for node in ast.walk(ast.parse("\n".join(body))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            printer.claim(node.id, "a variable of the program's")


TEMPLATE = '''"""{title}

Printed by clearloop {version} from a run, with which it agrees to the bit on torch {torch}:
the losses of every epoch, and the SHA-256 of the final weights. {run_with}
"""

from __future__ import annotations

{imports}

SEED = {seed}
EPOCHS = {epochs}

{pieces}

def main() -> None:
    """Read the data, build the model, train it."""
    parser = argparse.ArgumentParser(description=__doc__)
    {data_option}
    arguments = parser.parse_args()
{body}


if __name__ == "__main__":
    main()
'''


def loop_call(draft: Draft, loss: str, options: dict[str, str]) -> str:
    """The line that trains."""
    loop, rung = draft.need(LOOPS[draft.rung]), draft.rung
    arguments = ["EPOCHS", "model", loss, *(["opt"] if rung >= BY_HAND else [])]
    first_lr = options.pop("lr", None)
    lr = [] if first_lr is None or "schedule" in options else [f"lr={first_lr}"]
    if rung <= INDEXED + 1:
        arguments += ["train", "valid_batches", "sampler", *lr]
    else:
        arguments += ["train_dl", "valid_dl"]
    return f"{loop}({', '.join([*arguments, *(f'{name}={text}' for name, text in options.items())])})"


def run_with(data: Data) -> str:
    """A sentence on where the data are."""
    if data.source is None:
        return "The data lie beside it."
    what = data.source.split()[0]
    if data.default is None:
        return f"Run it with --data {what.upper()}."
    return f"Data that were moved\nare given by --data {what.upper()}."


def data_option(draft: Draft, data: Data) -> str:
    """The line that says what --data is."""
    if data.source is not None:
        default = "required=True" if data.default is None else f"default={value_text(data.default)}"
        line = f'parser.add_argument("--data", {default}, help="{data.source}")'
        return "\n    ".join(wrap_all([line]))
    draft.printer.need_import("pathlib", "Path")
    return 'parser.add_argument("--data", default=Path(__file__).with_suffix(".data.npz"), help="arrays, an .npz file")'


# -- what is known before a line is printed ----------------------------------------------------------------------------


def what_is_known(recipe: Recipe, rung: int, objects: Objects | None, loaders: DataLoaders | None) -> dict[str, Any]:
    """What this recipe decides of the parameters of the functions that are printed."""

    def known(value: Any, type: str) -> Any:
        return None if value is None or value is False else Given(type)

    model, plan = recipe.model.get("kwargs", {}), recipe.fits[0]
    kind = schedule_kind(plan, rung)
    schedulers = {
        name: known(kind == name, "Any")
        for name in ("step_scheduler", "epoch_scheduler", "plateau_scheduler", "scheduler")
    }
    found = {
        "scaler": None,
        "count": Always("len"),
        "metrics": Given("Sequence[Metric]"),
        "clip": known(recipe.clip, "float"),
        "schedule": known(kind == "schedule", "Schedule"),
        **schedulers,
        "part_size": known(recipe.accumulate != 1, "int"),
        "augment": known(augmentation(recipe, objects), "KeyedAugment"),
        "dropout": known(model.get("dropout"), "float"),
    }
    if kind == "schedule":
        found |= {"raw_layers.lr": None, "parameters.lr": None}  # it is the schedule's from the first step on
    if rung <= 2:
        found["update"] = known(not byhand.is_plain_descent(recipe.opt_func), "Update")
    if is_buildable(recipe.data, "data") and not recipe.data["path"].endswith(".npz"):
        found["hold_out"] = known(held_out(recipe.data), "float")
    if isinstance(loaders, ImageDataLoaders):
        found |= {"grey": is_grey(loaders), "grey_pixels.dark_on_light": False, "grey_pixels.crop": False}
    return found


def augmentation(recipe: Recipe, objects: Objects | None) -> Any:
    """How training inputs are augmented; None if they are not."""
    if objects is not None and objects.arrays is not None:
        return objects.arrays.augment
    return recipe.data.get("kwargs", {}).get("augment")


def model_of(recipe: Recipe, objects: Objects | None) -> nn.Module:
    """The model, or one of its form."""
    if objects is not None:
        return objects.model
    require_printable(recipe.model, "model")
    return on_no_device(recipe.model)

"""Imports go one way: base, data, core, run storage, rim; and what is heavy is imported where it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import clearloop

ROOT = Path(clearloop.__file__).parent
BASE = {
    "errors",
    "tree",
    "rng",
    "component",
    "devices",
    "durable",
    "environment",
    "signals",
    "weights",
    "imaging",
    "nvml",
}
CORE = {"losses", "metrics", "schedules", "step", "history", "callback", "learner", "checkpoint"}
BESIDE_CORE = {
    "guard",
    "adapters",
    "preflight",
    "distributed",
    "peers",
    "conveniences",
}  # outside of its budget, for what users bring and get wrong
STORAGE = {"packing", "rundir", "recipe", "buildable", "build", "rebuild", "predictor", "predictor_folder", "saving"}
LAYERS = ["base", "data", "core", "storage", "rim"]

# The Learner's conveniences, and what it makes its engine and its table with.
FROM_LEARNER = {
    "checking",
    "checks.finding",
    "engines",
    "callbacks.progress",
    "lr_find",
    "plots",
    "predictor",
    "saving",
    "build",
    "eject",
    "verify",
}
# Files of the rim import others of their own folder, and these.
WITHIN_RIM = {
    "__main__": {"cli"},
    "checking": {f"checks.{part}" for part in ("finding", "inputs", "model", "order", "split", "subject")}
    | {"checks.targets", "checks.training"},
    "autograd_graph": {"drawing", "sketch"},
    "callbacks.reconstructions": {"reconstruct"},
    "drawing": {"dot_language", "sketch"},
    "exporting": {"deployed", "interpretation"},
    "eject": {"printing.assembly", "printing.byhand", "printing.draft", "printing.printable"},
    "printing.pictures": {"rungs.pictures"},
    "printing.table": {"rungs.tables"},
    "verify": {"eject", "printing.sources"},
    "interpret": {"interpret_plots", "interpretation", "model_summary", "picture_plots", "reconstruct"},
    "interpret_plots": {"interpret", "picture_plots", "plots"},
    "lr_find": {"plots"},
    "picture_plots": {"plots"},
    "reconstruct": {"interpret_plots", "interpretation", "picture_plots"},
    "report": {
        *("eject", "interpret", "interpretation", "model_summary", "reconstruct"),
        *("report_charts", "report_page", "callbacks.timing"),
    },
    "report_charts": {"report_page"},
    "report_page": {"report_style"},
    "sketch": {"layered"},
    "model_summary": {"interpret_plots", "picture_plots"},
    "tabular": {"models.table_net"},
    "sweeping": {"plots"},
    "searching": {"plots"},
    "vision": {"models.published"},
    "notebook": {  # the names of them all
        "checking",
        "exporting",
        "report",
        "autograd_graph",
        "baselines",
        "callbacks.checkpoints",
        "callbacks.csv_logger",
        "callbacks.mlflow",
        "callbacks.tensorboard",
        "callbacks.timing",
        "callbacks.wandb",
        "callbacks.early_stopping",
        "callbacks.ema",
        "callbacks.progress",
        "callbacks.reconstructions",
        "callbacks.sync_batch_norm",
        "drawing",
        "interpret",
        "interpretation",
        "models",
        "notebook2script",
        "pictures",
        "row_predictions",
        "reconstruct",
        "rungs.fit",
        "sweeping.training",
        "searching.search",
        "searching.space",
        "tabular",
        "model_summary",
        "vision",
    },
}
EVERYWHERE = {"torch", "numpy", "safetensors"}
EXTRA = {  # modules that are imported when they are used
    "cli": {"typer"},
    "commands": {"typer"},
    "interpret_plots": {"matplotlib"},
    "notebook": {"fastcore", "jinja2", "matplotlib", "pandas", "PIL"},
    "picture_plots": {"matplotlib"},
    "pictures": {"matplotlib", "PIL"},
    "plots": {"matplotlib"},
    "sweeping.plots": {"matplotlib"},
    "searching.plots": {"matplotlib"},
}
HEAVY = ["matplotlib", "PIL", "fastcore", "pandas", "ax", "pyarrow", "IPython", "onnx", "sklearn"]

FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def module_of(path: Path) -> str:
    """The dotted name below clearloop: data/idx.py is "data.idx"."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def layer(module: str) -> int:
    top = module.split(".")[0]
    for number, names in enumerate((BASE, {"data"}, CORE | BESIDE_CORE, STORAGE)):
        if top in names:
            return number
    return LAYERS.index("rim")


@cache
def imports(path: Path) -> list[tuple[str, str]]:
    """Every import as (where, dotted name); where is "top", "function" or "types"."""
    return list(_walk(ast.parse(path.read_text()), "top"))


def _walk(node: ast.AST, where: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        inner = where
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = "function"
        elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            inner = "types"
        elif isinstance(child, ast.Import):
            yield from ((where, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports hide what depends on what"
            assert child.module is not None
            assert all(alias.name != "*" for alias in child.names)
            yield from ((where, f"{child.module}.{alias.name}") for alias in child.names)
        yield from _walk(child, inner)


def ours(path: Path, *where: str) -> set[str]:
    """The modules of clearloop that a file imports."""
    found = set()
    for place, name in imports(path):
        parts = name.split(".")
        if place not in where or parts[0] != "clearloop":
            continue
        while ".".join(parts[1:]) not in MODULES:
            parts.pop()
            assert len(parts) > 1, f"{name} is no module of clearloop, nor in one"
        found.add(".".join(parts[1:]))
    return found - {module_of(path)}


every_file = pytest.mark.parametrize("path", FILES, ids=module_of)


def test_every_module_of_a_layer_exists():
    assert not (BASE | CORE | BESIDE_CORE | STORAGE) - MODULES


@every_file
def test_a_module_imports_only_from_its_own_layer_or_below(path):
    above = {other for other in ours(path, "top") if layer(other) > layer(module_of(path))}
    assert not above, f"{LAYERS[layer(module_of(path))]} imports {above}"


@every_file
def test_data_and_core_import_the_rim_in_the_learners_own_methods_alone(path):
    module = module_of(path)
    above = {other for other in ours(path, "function") if layer(other) > layer(module)}
    if LAYERS[layer(module)] in ("base", "data", "core"):
        assert above <= (FROM_LEARNER if module in ("learner", "conveniences") else set())


@every_file
def test_files_of_the_rim_do_not_import_each_other_unless_their_names_say_so(path):
    module = module_of(path)
    if LAYERS[layer(module)] != "rim" or module.split(".")[0] in ("cli", "commands"):
        return
    folder = module.split(".")[0]
    others = {
        other
        for other in ours(path, "top", "function")
        if LAYERS[layer(other)] == "rim" and other.split(".")[0] != folder
    }
    assert others <= WITHIN_RIM.get(module, WITHIN_RIM.get(folder, set()))


@every_file
def test_only_torch_numpy_and_safetensors_are_imported_when_a_module_is(path):
    roots = {name.split(".")[0] for where, name in imports(path) if where == "top"}
    foreign = roots - set(sys.stdlib_module_names) - EVERYWHERE - {"clearloop", "__future__"}
    assert foreign <= EXTRA.get(module_of(path), EXTRA.get(module_of(path).split(".")[0], set()))


def test_modules_do_not_import_each_other_in_a_circle():
    edges = {module_of(path): ours(path, "top") for path in FILES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for other in edges[module]:
                visit(other, (*above, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_nothing_but_the_edges_knows_the_recipe():
    edge = {"commands", "eject", "printing", "verify", "search", "predictor", "saving", "build", "sweep"}
    users = {module_of(path).split(".")[0] for path in FILES if "recipe" in ours(path, "top", "function")}
    assert users <= edge


def modules_after(code: str) -> set[str]:
    """What is imported once `code` has run in a fresh interpreter."""
    listing = "\nimport sys\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + listing], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_importing_clearloop_imports_no_torch():
    loaded = modules_after("import clearloop\ndir(clearloop)")
    assert "clearloop" in loaded
    assert not loaded & {"torch", "numpy", "typer", "rich", *HEAVY}


def test_help_imports_no_torch():
    code = (
        "import sys\n"
        "sys.argv = ['clearloop', '--help']\n"
        "from clearloop.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass"
    )
    loaded = modules_after(code)
    assert "clearloop.cli" in loaded
    assert not loaded & {"torch", "numpy", *HEAVY}


def test_training_imports_nothing_that_only_shows_or_stores():
    code = (
        "import torch, clearloop as cl\n"
        "data = cl.TensorDataset(torch.zeros(8, 1), torch.zeros(8, 1))\n"
        "learn = cl.Learner((cl.DataLoader(data, 4), cl.DataLoader(data, 4)), torch.nn.Linear(1, 1), device='cpu')\n"
        "learn.fit(1, 0.1, quiet=True)"
    )
    loaded = modules_after(code)
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "PIL", "pandas", "typer", "safetensors", "clearloop.cli", "clearloop.saving"}

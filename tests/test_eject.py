import ast
import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clearloop as cl
from clearloop import models, schedules
from clearloop.commands import running
from clearloop.eject import eject
from clearloop.errors import EjectError, RunError
from clearloop.metrics import Metric, correct, ratio
from clearloop.printing.expressions import value_text
from clearloop.printing.printer import WIDTH
from clearloop.rundir import RunDirectory
from clearloop.verify import verify
from cli_tools import clearloop, process, write_idx
from eject_tools import fitted, printed_by, run_programs

PACKAGE = Path(cl.__file__).parent
COMMANDS = {  # by what they show: options of `clearloop train`
    "linear, plain descent": "idx --model linear --opt sgd --schedule constant --lr 0.2",
    "linear, momentum": "idx --model linear --opt momentum --schedule one-cycle -b 100",
    "linear, adam, clipped": "idx --model linear --opt adam --schedule cosine --clip 0.5",
    "mlp, plain descent, clipped": "idx --model mlp --opt sgd --schedule constant --clip 1.0 --seed 3",
    "mlp, momentum, dropout": "idx --model mlp --hidden 32 --opt momentum --schedule cosine --dropout 0.3",
    "mlp, adam, dropout, clipped": "idx --model mlp --hidden 32,16 --opt adam --dropout 0.2 --clip 1 --seed 11",
    "mlp, adamw, decay, held out": "idx --model mlp --schedule constant --weight-decay 0.1 --valid 0.2",
    "cnn, plain descent": "idx --model cnn --hidden 4,8 --opt sgd --schedule one-cycle",
    "cnn, momentum, clipped": "idx --model cnn --hidden 4 --opt momentum --schedule constant --lr 0.02 --clip 0.7",
    "cnn, adam": "idx --model cnn --hidden 4,8 --opt adam --schedule cosine -n 1",
    "cnn, adamw": "idx --model cnn --hidden 4,8 --valid 200",
    "table, regression": "table.npz --opt adam --schedule constant",
    "table, regression, split by count": "table.npz --opt sgd --lr 0.01 --valid 30 --seed 4 --clip 2",
    "images in an archive": "images.npz --model cnn --hidden 4 --opt momentum --schedule cosine",
    "an archive with its own validation set": "split.npz --model mlp --dropout 0.1 --opt sgd",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of IDX files, and archives of arrays."""
    folder = tmp_path_factory.mktemp("data")
    write_idx(folder / "idx")
    digits = cl.mnist()
    images, labels = digits.train_images[:400].numpy(), digits.train_labels[:400].numpy()
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 5))
    np.savez(folder / "table.npz", x=x, y=x @ generator.normal(size=5) + 1)
    np.savez(folder / "images.npz", x=images, y=labels)
    flat = images.reshape(400, -1) / 255
    np.savez(folder / "split.npz", x_train=flat[:300], y_train=labels[:300], x_valid=flat[300:], y_valid=labels[300:])
    return folder


def table(data):
    return cl.DataLoaders.npz(data / "table.npz", batch_size=16, seed=2, valid=0.3, valid_batch_size=7)


def with_own_weights():
    net = models.mlp(784, 8, 10)
    with torch.no_grad():
        net[1].weight.mul_(0.5)
    return net


REGRESSION = {"model": lambda: models.mlp(5, 4, 1), "dls": table, "metrics": cl.mae}
NESTEROV = functools.partial(torch.optim.SGD, momentum=0.8, nesterov=True, weight_decay=1e-4)
BUILT = {  # by what they show: arguments of `fitted`
    "smoothed labels": {
        "loss_func": functools.partial(F.cross_entropy, label_smoothing=0.1),
        "metrics": [cl.error_rate, cl.top_k_accuracy(3)],
        "seed": 12345,
    },
    "a loss that is a class": {"loss_func": nn.CrossEntropyLoss(label_smoothing=0.2), "metrics": []},
    "all metrics of regression": {
        **REGRESSION,
        "loss_func": nn.SmoothL1Loss(beta=0.5),
        "metrics": [cl.mse, cl.rmse, cl.mae, cl.r2_score],
    },
    "another optimizer": {
        **REGRESSION,
        "loss_func": F.l1_loss,
        "opt_func": functools.partial(torch.optim.RMSprop, alpha=0.9),
    },
    "cosine with a warm-up": {"schedule": schedules.cosine(0.2, 12, warmup_steps=3, lr_min=0.01), "epochs": 2},
    "a long line of options": {"opt_func": NESTEROV, "clip": 0.1, "schedule": schedules.cosine(0.123456789012, 6)},
    "a model with options": {"model": lambda: models.cnn(10, 1, (4, 8), kernel=3), "clip": float("inf")},
    "a model of many widths": {"model": lambda: models.mlp(784, *[11] * 30, 10)},
    "weights of its own": {"model": with_own_weights},
}


@dataclasses.dataclass(frozen=True)
class Ejected:
    """A run and its program, after the run was moved away."""

    text: str
    path: Path
    expected: list[str]
    printed: list[str]


@pytest.fixture(scope="module")
def module_monkeypatch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def ejected(data, tmp_path_factory, module_monkeypatch):
    """Every run of COMMANDS and BUILT, ejected, removed, and its program run."""
    module_monkeypatch.setattr(running, "draw_curves", lambda learn: None)  # pictures take longer than these runs
    folder = tmp_path_factory.mktemp("ejected")
    jobs: dict[str, Any] = {}
    for number, name in enumerate([*COMMANDS, *BUILT]):
        run, program = folder / f"run-{number}", folder / f"program_{number}.py"
        if name in COMMANDS:
            where, *options = COMMANDS[name].split()
            epochs = [] if "-n" in options else ["-n", "2"]
            done = clearloop("train", data / where, *options, *epochs, "--quiet", "--device", "cpu", "-o", run)
            assert (done.code, done.err) == (0, ""), name
        else:
            where = "table.npz" if "dls" in BUILT[name] else "idx"
            fitted(data, run, **BUILT[name])
        done = clearloop("eject", run, "--out", program)
        assert (done.code, done.out, done.err) == (0, f"wrote {program}\n", "")
        jobs[name] = program, data / where, printed_by(run)
        shutil.rmtree(run)
    printed = run_programs([(program, "--data", where) for program, where, _ in jobs.values()], folder)
    return {
        name: Ejected(program.read_text(), program, expected, found)
        for (name, (program, _, expected)), found in zip(jobs.items(), printed, strict=True)
    }


@pytest.mark.parametrize("name", [*COMMANDS, *BUILT])
def test_the_program_prints_the_losses_of_the_run_and_ends_in_the_same_weights(ejected, name):
    assert ejected[name].printed == ejected[name].expected
    assert len(ejected[name].printed) > 1


def test_ruff_finds_nothing_in_the_programs(ejected):
    paths = [program.path for program in ejected.values()]
    done = process("-m", "ruff", "check", "--isolated", *paths)
    assert done.code == 0, done.out
    rules = "E,F,W,I,B,UP,SIM,C4,PIE,RET,ARG,PLW,ERA,D101,D103"
    done = process("-m", "ruff", "check", "--isolated", "--select", rules, "--line-length", WIDTH, *paths)
    assert done.code == 0, done.out
    done = process("-m", "ruff", "format", "--isolated", "--line-length", WIDTH, "--diff", *paths)
    assert done.code == 0, done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_program_imports_torch_and_numpy_and_python_s_own_modules_alone(ejected, name):
    modules = set()
    for node in ast.walk(ast.parse(ejected[name].text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
    assert modules - set(sys.stdlib_module_names) == {"torch", "numpy"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_program_has_no_trace_of_what_was_cut(ejected, name):
    text, command = ejected[name].text, COMMANDS[name]
    assert text.count("clearloop") == 1  # where the docstring says what printed it
    for word in ("eject", ">>>", "scaler", "autocast", "remember", "type: ignore", "DataError", "count: Count"):
        assert word not in text
    code = "\n".join(line.split("  # ")[0] for line in text.splitlines())
    assert ("clip" in code) == ("--clip" in command)
    assert ("dropout" in code) == ("--dropout" in command)
    assert ("schedule" in code or "set_lr" in code) == ("--schedule constant" not in command)
    assert ("step = 0" in code) == ("--schedule constant" not in command)
    assert ("accuracy" in code) == ("table" not in command)
    if "idx" in command:
        assert ("held_out" in code) == ("--valid" in command)
        assert ("t10k" in code) == ("--valid" not in command)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_function_of_the_program_is_used_and_documented(ejected, name):
    tree = ast.parse(ejected[name].text)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            assert statement.name in used
            assert ast.get_docstring(statement)
    assert tree.body[-2].name == "main"


def test_a_program_says_what_it_needs_and_names_a_file_that_is_missing(ejected, tmp_path):
    program = ejected["mlp, adamw, decay, held out"].path
    asked, failed = run_programs([(program, "--help"), (program, "--data", tmp_path)], tmp_path)
    assert "folder with the IDX files train-*, gzipped or not" in " ".join(" ".join(asked).split())
    assert "train-images-idx3-ubyte.gz: no such file" in failed[-1]


def test_long_lines_are_broken_at_their_commas(ejected):
    lines = ejected["a model of many widths"].text.splitlines()
    assert "    model = mlp(" in lines
    assert lines[0].startswith('"""Trains mlp(784, 11, 11, ')
    assert " 11, 10): a plain PyTorch program, rung 7" in " ".join(lines[:3])
    assert max(map(len, lines)) <= WIDTH
    text = ejected["a long line of options"].text
    assert (
        "    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.0001)"
        in text
    )
    assert "        clip=0.1,\n    )\n" in text


def test_first_weights_that_no_seed_gives_go_into_a_file_beside_the_program(ejected, data, tmp_path):
    assert ejected["weights of its own"].path.with_suffix(".weights.npz").exists()
    assert not ejected["smoothed labels"].path.with_suffix(".weights.npz").exists()
    fitted(data, tmp_path / "run", **BUILT["weights of its own"])
    done = clearloop("eject", tmp_path / "run")
    assert (done.code, done.out) == (2, "")
    assert "use --out FILE.py" in done.err


def test_the_program_for_the_screen_is_the_one_that_is_written(ejected, data, tmp_path):
    run = tmp_path / "run"
    clearloop("train", data / "idx", "--model", "linear", "-n", "1", "-q", "-o", run)
    clearloop("eject", run, "-o", tmp_path / "program.py")
    done = clearloop("eject", run)
    assert done.code == 0
    assert done.out == (tmp_path / "program.py").read_text()


# -- what cannot be printed -------------------------------------------------------------------------------------------


class Own(nn.Module):
    """A model that a test file defines."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Quiet(cl.Callback):
    """A callback of one's own that does nothing; its name is not one that eject knows."""


class Progress(cl.Callback):
    """The same under the name of one that eject leaves out."""


def in_memory(data):
    x, y = torch.randn(60, 784), torch.arange(60) % 10
    return cl.DataLoaders(cl.DataLoader(cl.TensorDataset(x, y), 20), cl.DataLoader(cl.TensorDataset(x, y), 20))


def share(preds, targets):
    return (preds.argmax(1) == targets).double().mean()


def step_lr():
    return functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1)


REFUSED = {
    "averaged weights": ({"cbs": lambda: [cl.EMA(0.9)]}, "no callback that changes training, got EMA"),
    "a callback of one's own": ({"cbs": lambda: [Quiet()]}, "got Quiet"),
    "a callback with a known name": ({"cbs": lambda: [Progress()]}, "got Progress"),
    "half precision": ({"precision": "bf16"}, "float32, got precision='bf16'"),
    "a lambda for a loss": (
        {"loss_func": lambda preds, targets: F.cross_entropy(preds, targets)},
        "the loss (<lambda>) cannot be printed: it is defined in a script, a notebook cell or a lambda",
    ),
    "class weights": ({"loss_func": nn.CrossEntropyLoss(weight=torch.ones(10))}, "a loss without class weights"),
    "a model of a test file": ({"model": Own}, "the model (Own) cannot be printed: a model object does not remember"),
    "a model of torch's": (
        {"model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10))},
        "the model (Sequential) cannot be printed",
    ),
    "a lambda for a schedule": (
        {"schedule": lambda: lambda step: 0.1},
        "is defined in a script, a notebook cell or a lambda; expected a function of clearloop.schedules",
    ),
    "a lambda for an optimizer": (
        {"opt_func": lambda parameters, lr: torch.optim.SGD(parameters, lr)},
        "the optimizer (<lambda>) cannot be printed",
    ),
    "data in memory": ({"dls": in_memory}, "the data (DataLoaders) cannot be printed: data in memory"),
    "a metric with a known name": (
        {"metrics": Metric("accuracy", correct, lambda sums: 2 * ratio(sums))},
        "the metric accuracy cannot be printed",
    ),
    "a metric of one's own": ({"metrics": share}, "the metric share cannot be printed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_that_cannot_be_printed_is_refused_with_the_part_and_the_reason(data, tmp_path, name):
    options, reason = REFUSED[name]
    options = {key: value() if key in ("cbs", "schedule") else value for key, value in options.items()}
    fitted(data, tmp_path / "run", **options)
    with pytest.raises(EjectError) as caught:
        eject(tmp_path / "run")
    assert reason in str(caught.value).replace("test_eject:", "")
    for command in ("eject", "verify"):
        done = clearloop(command, tmp_path / "run", *(["-o", tmp_path / "program.py"] if command == "eject" else []))
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_without_validation_is_refused(data, tmp_path):
    dls = cl.DataLoaders.idx(data / "idx", 250, seed=7, valid=100)
    dls.valid = None
    fitted(data, tmp_path / "run", dls=lambda data: dls)
    with pytest.raises(EjectError, match="expected a validation set, got none"):
        eject(tmp_path / "run")


def test_several_fits_are_refused(data, tmp_path):
    fitted(data, tmp_path / "run").fit(1, 0.1, quiet=True)
    with pytest.raises(EjectError, match="expected a run of one fit, got 2, one after the other"):
        eject(tmp_path / "run")


def test_a_run_that_was_first_saved_after_training_remembers_its_first_weights(data, tmp_path):
    torch.manual_seed(1)
    dls = cl.DataLoaders.idx(data / "idx", 250, seed=7, valid=100)
    learn = cl.Learner(dls, models.linear(784, 10), F.cross_entropy, seed=0, device="cpu")
    learn.fit(1, 0.1, quiet=True)
    learn.save(tmp_path / "run")
    assert all(comparison.same for comparison in verify(tmp_path / "run", rung=1))
    again = cl.Learner.load(tmp_path / "run")
    assert all(comparison.same for comparison in again.verify(rung=1))


def test_other_rungs_and_other_folders_are_refused(data, tmp_path):
    fitted(data, tmp_path / "run")
    for rung in (0, 8):
        with pytest.raises(EjectError, match=rf"expected a rung from 1 \(all by hand\) to 7 .*, got {rung}"):
            eject(tmp_path / "run", rung=rung)
    with pytest.raises(RunError, match="expected a run at"):
        eject(tmp_path)


# -- recipes from anywhere --------------------------------------------------------------------------------------------

SPY = "__import__('pathlib').Path('{spy}').touch()"
ATTACKS = {
    "the name of a loss": ("loss_func", {"path": "torch.nn.functional:cross_entropy({code})"}),
    "the name of an optimizer": ("opt_func", {"path": "torch.optim.sgd:SGD({code})"}),
    "the name of an argument": ("opt_func", {"path": "torch.optim.sgd:SGD", "kwargs": {"x={code}, momentum": 0.9}}),
    "a model that is a function of Python's": ("model", {"path": "os:system", "args": ["touch {spy}"]}),
    "a model of a module that runs": ("model", {"path": "clearloop.__main__:main", "args": []}),
    "an augmentation": ("data", {"kwargs": {"seed": 7, "augment": {"path": "os:system", "args": ["{code}"]}}}),
    "the name of an augmentation": (
        "data",
        {"kwargs": {"seed": 7, "augment": {"path": "clearloop.data.augment:{code}"}}},
    ),
    "how many batches make a step": ("accumulate", "{code}"),
    "the first learning rate": ("fits", [{"lr": "{code}"}]),
    "the name of a scheduler": ("fits", [{"schedule": {"path": "torch.optim.lr_scheduler:{code}"}, "per": "epoch"}]),
    "a scheduler's argument": (
        "fits",
        [{"schedule": {"path": "torch.optim.lr_scheduler:StepLR", "kwargs": {"x={code}, y": 1}}, "per": "epoch"}],
    ),
    "a value": ("opt_func", {"path": "torch.optim.sgd:SGD", "kwargs": {"momentum": {"float": "{code}"}}}),
    "a batch size": ("data", {"kwargs": {"seed": 7, "batch_size": "{code}"}}),
    "the size of validation batches": ("data", {"kwargs": {"seed": 7, "valid_batch_size": "{code}"}}),
    "a version": ("versions", {"torch": '"""\n{code}\n"""'}),
    "the name of a metric": ("metrics", ["accuracy, {code}"]),
    "a text argument": ("loss_func", {"path": "torch.nn.modules.loss:L1Loss", "kwargs": {"reduction": '"+{code}+"'}}),
    "the clipping": ("clip", "{code}"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_in_a_recipe_becomes_code(data, tmp_path, name):
    fitted(data, tmp_path / "run")
    run, spy = RunDirectory.open(tmp_path / "run"), tmp_path / "spy"
    recipe = run.read_recipe()
    field, value = ATTACKS[name]
    code = SPY.format(spy=spy)
    value = json.loads(
        json.dumps(value).replace("{code}", json.dumps(code)[1:-1]).replace("{spy}", json.dumps(str(spy))[1:-1])
    )
    recipe[field] = {**recipe[field], **value} if field in ("data", "versions") else value
    if field == "fits":
        recipe[field] = [{**fit, **changed} for fit, changed in zip(run.read_recipe()["fits"], value, strict=True)]
    run.recipe.write_text(json.dumps(recipe))  # without a checksum, as after an edit on purpose
    for rung in (1, 4, 7):
        try:
            text = eject(tmp_path / "run", rung).text
        except (EjectError, RunError, ValueError, TypeError):
            text = ""
        calls = [ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        assert not any("__import__" in call.split("(")[0] or call.startswith("__import__") for call in calls)
    assert not spy.exists()


def test_values_are_written_as_python_reads_them():
    for value in (1, -2.5, 1e-07, True, None, 'it\'s "quoted"\n', "é", (1, 2), (1,), ((1, 2), 3.0), ()):
        assert ast.literal_eval(value_text(value)) == value
    assert value_text([16, 32]) == "(16, 32)"
    assert value_text({"float": float("inf").hex()}) == 'float("inf")'
    with pytest.raises(EjectError, match="cannot be printed"):
        value_text({"path": "clearloop.models.mlp:mlp"})
    with pytest.raises(ValueError, match="hexadecimal"):
        value_text({"float": "evil()"})


# -- the functions are the library's own ------------------------------------------------------------------------------


def test_an_edit_of_a_leaf_function_in_a_copy_of_the_package_changes_the_program(ejected, data, tmp_path):
    run = tmp_path / "run"
    clearloop("train", data / "idx", "--model", "mlp", "-n", "1", "-q", "-o", run)
    before = eject(run).text
    copy = tmp_path / "copy" / "clearloop"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("idx", "__pycache__"))
    (copy / "data" / "idx").symlink_to(PACKAGE / "data" / "idx")
    edits = {
        "step.py": ("loss.backward()", "(2 * loss).backward()  # twice as far"),
        "schedules.py": ("math.cos(math.pi * share)", "math.cos(3.0 * share)"),
        "rungs/fit.py": ('"""Train for some epochs', '"""Train for quite some epochs'),
    }
    edited = before
    for name, (old, new) in edits.items():
        source = (copy / name).read_text()
        assert old in source
        (copy / name).write_text(source.replace(old, new))
        assert old in before
        edited = edited.replace(old, new)
    done = process(
        "-c", "import sys, clearloop.eject as e; sys.stdout.write(e.eject(sys.argv[1]).text)", run,
        env={"PYTHONPATH": str(copy.parent)},
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.out == edited != before

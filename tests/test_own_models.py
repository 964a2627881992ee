"""Models of one's own on the command line, and recipe files: what they make, and what they refuse."""

import hashlib
import json
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch

from clearloop import Learner
from clearloop.commands import own_models
from clearloop.data.mnist import mnist
from clearloop.rundir import RunDirectory
from cli_tools import clearloop

NET = """import torch
from torch import nn

SLOPE = 0.1


class Net(nn.Module):
    def __init__(self, width: int, depth: int = 1, act="relu", rates: tuple[float, ...] = ()):
        super().__init__()
        sizes = [784] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.last = nn.Linear(width, 10)

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers:
            x = torch.nn.functional.leaky_relu(layer(x), SLOPE)
        return self.last(x)


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))


def number(x=1):
    return x


def broken():
    return nn.Linear(784, missing)
"""
OWN = ["--model", "my_net.py:Net", "--set", "width=8"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    digits = mnist()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_net.py").write_text(NET)
    np.savez("small.npz", x=digits.train_images[:400].numpy().astype("float32") / 255, y=digits.train_labels[:400])
    path = [*sys.path]
    yield tmp_path
    sys.path[:] = path


def train(*options, data="small.npz", out="run"):
    done = clearloop("train", data, *options, "-q", "-n", "1", "-o", out)
    assert done.code == 0, done.err
    return RunDirectory(out)


def refused(*arguments):
    """The one line with which a command refuses."""
    done = clearloop(*arguments)
    assert (done.code, done.out) == (2, ""), done
    assert done.err.count("\n") == 1, done.err
    return done.err.removeprefix("error: ").strip()


def weights(run):
    return hashlib.sha256((run.path / "predictor" / "model.safetensors").read_bytes()).hexdigest()


# -- models of one's own -----------------------------------------------------------------------------------------------


def test_a_net_of_a_file_is_trained_from_the_weights_of_the_seed_and_remembered(folder):
    run = train(*OWN)
    model = run.read_recipe()["model"]
    assert model["source"] == NET
    assert model["sha256"] == hashlib.sha256(NET.encode()).hexdigest()
    assert (model["file"], model["name"], model["kwargs"]) == (str(folder / "my_net.py"), "Net", {"width": 8})
    named = own_models.read("my_net.py:Net", ["width=8"])
    torch.manual_seed(0)
    first = own_models.make(named).state_dict()
    saved = Learner.load("run", model=own_models.make(named)).first_weights
    assert all(torch.equal(first[name], saved[name]) for name in first)


def test_a_run_of_ones_own_net_goes_on_to_the_same_bits_when_the_net_is_named(folder):
    train(*OWN, "--every", "1", "--keep", "9")
    shutil.copytree("run", "cut")
    newest = sorted((folder / "cut" / "checkpoints").iterdir())[-1]
    shutil.rmtree(newest)
    assert "has finished" in clearloop("resume", "run", *OWN).out
    done = clearloop("resume", "cut", *OWN)
    assert "going on at epoch 0" in done.out, done
    assert weights(RunDirectory("cut")) == weights(RunDirectory("run"))


def test_commands_on_a_run_take_the_net_that_is_named(folder):
    train(*OWN)
    assert clearloop("predict", "run", "small.npz", *OWN).out.count("\n") == 400
    assert clearloop("predict", "run/predictor", "small.npz", *OWN).code == 0
    assert "agree to the bit" in clearloop("verify", "run", "--rung", "5", *OWN).out
    report = clearloop("report", "run", *OWN)
    assert report.code == 0, report
    assert "not in the report" not in report.out
    done = clearloop("export", "run", "--format", "torch", *OWN)
    assert "every class the same" in done.out, done
    assert clearloop("eject", "run", "-o", "program.py", *OWN).code == 0
    assert "class Net(nn.Module)" in (folder / "program.py").read_text()


def test_a_function_without_arguments_makes_a_net_too_and_is_printed(folder):
    train("--model", "my_net.py:plain")
    assert "agree to the bit" in clearloop("verify", "run", "--model", "my_net.py:plain").out


def test_check_sweep_and_lr_find_take_it(folder):
    assert clearloop("check", "small.npz", *OWN).code == 0
    assert "suggested" in clearloop("lr-find", "small.npz", *OWN).out
    done = clearloop("sweep", "small.npz", *OWN, "--lr", "0.01,0.001", "--seeds", "2", "-n", "1")
    assert "the picture is in" in done.out, done


def test_an_installed_module_is_named_with_its_dots(folder):
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("")
    (folder / "pack" / "nets.py").write_text(NET)
    sys.path.append(str(folder))
    made = train("--model", "pack.nets:Net", "--set", "width=8")
    assert made.read_recipe()["model"]["module"] == "pack.nets"
    assert clearloop("predict", "run", "small.npz", "--model", "pack.nets:Net", "--set", "width=8").code == 0


def test_a_run_never_has_its_code_run_unless_it_is_named(folder):
    train(*OWN)
    witness = folder / "witness"
    evil = f"{NET}\nopen({str(witness)!r}, 'w').close()\n"
    recipe, predictor = folder / "run" / "recipe.json", folder / "run" / "predictor" / "predictor.json"
    (folder / "evil.py").write_text(evil)
    changed = json.loads(recipe.read_text())
    del changed["checksum"]
    digest = hashlib.sha256(evil.encode()).hexdigest()
    changed["model"] |= {"file": str(folder / "evil.py"), "source": evil, "sha256": digest}
    recipe.write_text(json.dumps(changed))
    assert predictor.exists()
    for command in ("resume", "eject", "verify", "export"):
        line = refused(command, "run")
        assert line.endswith(f"clearloop {command} run --model evil.py:Net --set width=8"), line
    assert "evil.py:Net" in refused("predict", "run", "small.npz")
    assert "evil.py:Net" in refused("report", "run")
    assert "has changed since" in refused("resume", "run", *OWN)
    assert not witness.exists()
    clearloop("resume", "run", "--model", "evil.py:Net", "--set", "width=8")  # now it was named
    assert witness.exists()


def test_the_command_that_is_shown_is_the_one_that_works(folder):
    train(*OWN, "--set", "rates=0.1,0.2", "--set", "act=a b")
    line = refused("predict", "run", "small.npz")
    words = shlex.split(line.partition("clearloop ")[2])
    assert words == ["predict", "run", *OWN, "--set", "rates=0.1,0.2", "--set", "act=a b"]
    assert clearloop(*words[:2], "small.npz", *words[2:]).code == 0


def test_a_changed_file_is_refused_before_any_of_it_runs_unless_told_so(folder):
    train(*OWN)
    (folder / "my_net.py").write_text(f"{NET}\nopen('ran', 'w').close()\n")
    line = refused("predict", "run", "small.npz", *OWN)
    assert line.startswith(f"{folder}/my_net.py has changed since run was trained with it; put it back, or say")
    assert not (folder / "ran").exists()
    assert clearloop("predict", "run", "small.npz", *OWN, "--changed").code == 0
    assert (folder / "ran").exists()


def test_another_net_or_other_arguments_are_refused_with_the_right_ones(folder):
    train(*OWN)
    right = "clearloop predict run --model my_net.py:Net --set width=8"
    assert refused("predict", "run", "small.npz", "--model", "my_net.py:plain").endswith(f"got plain: {right}")
    assert refused("predict", "run", "small.npz", *OWN[:3], "width=9").endswith(f"other arguments: {right}")
    assert refused("predict", "run", "small.npz", "--set", "width=8") == "--set goes with --model FILE.py:NAME"


def test_a_run_of_clearloops_own_nets_takes_no_model(folder):
    train("--model", "linear")
    line = refused("predict", "run", "small.npz", *OWN)
    assert line == "run was trained with a model of clearloop's own: leave out --model"


def test_a_run_of_python_with_ones_own_net_takes_the_file_that_has_its_class(folder):
    train(*OWN)
    recipe = json.loads((folder / "run" / "recipe.json").read_text())
    class_source = NET[NET.index("class Net") : NET.index("def plain")].rstrip() + "\n"
    del recipe["checksum"]
    recipe["model"] = {"name": "Net", "source": class_source, "sha256": "", "repr": "Net()"}
    (folder / "run" / "recipe.json").write_text(json.dumps(recipe))
    assert clearloop("predict", "run", "small.npz", *OWN).code == 0
    (folder / "my_net.py").write_text(NET.replace("self.last(x)", "self.last(-x)"))
    assert "has changed since" in refused("predict", "run", "small.npz", *OWN)


SIGNATURE = "Net(width: int, depth: int = 1, act='relu', rates: tuple[float, ...] = ())"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "my_net.py:Nett",
            "expected a class or function Nett in my_net.py, got none; it has Net, plain, number, broken",
        ),
        ("my_net.py:SLOPE", "expected a class or function SLOPE in my_net.py, got a float; it has Net, plain"),
        ("none.py:Net", "--model none.py:Net: there is no file none.py"),
        ("os:system", "--model takes a module that makes models, got os, which is Python's own"),
        ("no_such.module:Net", "no module no_such.module is installed; for a file write FILE.py:NAME"),
        ("my_net.py:a.b", "--model takes FILE.py:NAME or package.module:NAME, got my_net.py:a.b"),
        ("my_net.py:Net", f"missing a required argument: 'width' in {SIGNATURE}; give it with --set NAME=VALUE"),
        ("my_net.py:Net --set widht=8", f"--set widht=8: there is no argument widht in {SIGNATURE}"),
        ("my_net.py:Net --set width=x", f"--set width=x: expected a whole number, got 'x'; it is {SIGNATURE}"),
        ("my_net.py:Net --set rates=1,b", f"--set rates=1,b: expected a number, got '1,b'; it is {SIGNATURE}"),
        ("my_net.py:Net --set width", f"--set takes NAME=VALUE, got 'width'; it is {SIGNATURE}"),
        ("my_net.py:Net --set width=8 --set width=9", "--set takes each argument once, got width again"),
        ("my_net.py:Net --set width=-8", "Net(width=-8) failed: RuntimeError: Trying to create tensor with negative"),
        ("my_net.py:number", "expected an nn.Module from number(), got int"),
        ("my_net.py:broken", "broken() failed: NameError: name 'missing' is not defined (line 30)"),
        ("bad.py:Net", "the file fails: SyntaxError: invalid syntax (line 2)"),
        ("fails.py:Net", "the file fails: ModuleNotFoundError: No module named 'nowhere' (line 1)"),
        ("mlp --set width=8", "--set is for a model of your own, --model FILE.py:NAME, got --model mlp"),
        (
            "my_net.py:Net --set width=8 --hidden 3",
            "--hidden is for --model mlp and cnn, and autoencoders, got --model",
        ),
    ],
)
def test_what_makes_no_model_is_refused_in_a_line(folder, options, said):
    (folder / "bad.py").write_text("x = 1\nclass Net(:\n")
    (folder / "fails.py").write_text("import nowhere\n")
    assert said in refused("train", "small.npz", "--model", *options.split())
    assert not (folder / "runs").exists()


def test_a_net_that_does_not_fit_the_data_is_refused_in_a_line(folder):
    (folder / "my_net.py").write_text(NET.replace("784", "783"))
    assert "small.npz" not in refused("train", "small.npz", *OWN)
    assert not (folder / "runs").exists()


def test_an_unknown_model_is_still_refused_by_its_name(folder):
    done = clearloop("train", "small.npz", "--model", "foo")
    assert done.code == 2
    assert "'foo' is not one of 'auto', 'linear'" in done.err


def test_values_are_read_by_annotation_by_default_and_by_their_look(folder):
    (folder / "my_net.py").write_text(
        "from __future__ import annotations\nfrom typing import Literal\n"
        "def f(a: int, b: float, c: bool, d: str, e: int | None, g: list[int], h: Literal['x', 'y'], i=1, j='1',"
        " k=(1,), l=None, m=2, *, n, **rest): pass\n"
    )
    given = ["a=1", "b=2", "c=True", "d=3", "e=none", "g=4,5", "h=Y", "i=6", "j=7", "k=8,9", "l=0.5", "m=0.1"]
    named = own_models.read("my_net.py:f", [*given, "n=relu", "o=1,"])
    found = own_models.arguments_of(named, own_models.loaded(named))
    assert found == {
        "a": 1, "b": 2.0, "c": True, "d": "3", "e": None, "g": [4, 5], "h": "y", "i": 6, "j": "7", "k": (8, 9),
        "l": 0.5, "m": 0.1, "n": "relu", "o": [1],
    }  # fmt: skip
    assert type(found["b"]) is float


# -- recipe files ------------------------------------------------------------------------------------------------------


def printed(*options, data="small.npz"):
    done = clearloop("train", data, *options, "--print-recipe")
    assert (done.code, done.err) == (0, ""), done
    return json.loads(done.out)


def write(content, name="recipe.json"):
    with open(name, "w") as file:
        json.dump(content, file)
    return name


def test_a_recipe_file_trains_to_the_same_bits_as_the_command_that_printed_it(folder):
    options = [
        "--hidden",
        "8",
        "--seed",
        "3",
        "--opt",
        "momentum",
        "--batch-size",
        "50",
        "--ema",
        "0.9",
        "--clip",
        "0.1",
    ]
    recipe = printed(*options, "-n", "1")
    assert not (folder / "runs").exists()
    assert weights(train(*options)) == weights(train(data=write(recipe), out="other"))
    assert weights(RunDirectory("other")) != weights(train(data=write(recipe | {"seed": 4}), out="third"))


def test_what_was_left_out_is_filled_with_what_it_stands_for(folder):
    recipe = printed()
    assert (recipe["recipe"], recipe["version"]) == ("clearloop train", 1)
    wanted = {"data": "small.npz", "model": "mlp", "hidden": "64", "epochs": 4, "lr": 0.003, "opt": "adamw", "seed": 0}
    wanted |= {"schedule": "one-cycle", "batch-size": 128, "threads": 1, "device": "auto", "set": None, "grey": False}
    assert {name: recipe[name] for name in wanted} == wanted
    assert not {"out", "quiet", "one-cycle", "print-recipe"} & set(recipe)
    picture = printed("--model", "autoencoder", data="mnist")
    assert (picture["code"], picture["output"], picture["opt"], picture["epochs"]) == (32, "tanh", "adam", 20)
    assert printed("--one-cycle")["schedule"] == "one-cycle"


def test_options_overrule_the_file_and_another_model_drops_what_was_said_of_the_first(folder):
    name = write(printed("--hidden", "8", "--lr", "0.5", "-n", "7", "--dropout", "0.5"))
    again = printed("--lr", "0.25", data=name)
    assert (again["lr"], again["epochs"], again["hidden"]) == (0.25, 7, "8")
    other = printed("--model", "linear", data=name)
    assert (other["model"], other["hidden"], other["dropout"], other["lr"]) == ("linear", None, None, 0.5)
    constant = write(printed("--schedule", "constant"))
    assert printed("--one-cycle", data=constant)["schedule"] == "one-cycle"
    assert printed(data=constant)["schedule"] == "constant"


def test_a_recipe_of_ones_own_net_is_followed_when_the_net_is_named(folder):
    name = write(printed(*OWN))
    line = refused("train", name)
    assert line.endswith(f"run only where you name it: clearloop train recipe.json {shlex.join(OWN)}")
    assert refused("train", name, *OWN[:2]) == line
    assert weights(train(*OWN)) == weights(train(*OWN, data=name, out="other"))
    assert printed(*OWN[:3], "width=9", data=name)["set"] == ["width=9"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epoch": 3}, "recipe.json: unknown key 'epoch'; `clearloop train DATA --print-recipe` prints all there are"),
        ({"out": "x"}, "recipe.json: unknown key 'out'"),
        ({"epochs": "3"}, "recipe.json: epochs takes a whole number, got '3'"),
        ({"epochs": 2.5}, "recipe.json: epochs takes a whole number, got 2.5"),
        ({"lr": True}, "recipe.json: lr takes a number, got True"),
        ({"grey": "yes"}, "recipe.json: grey takes true or false, got 'yes'"),
        ({"augment": "flip"}, "recipe.json: augment takes a list, got 'flip'"),
        ({"log": [3]}, "recipe.json: log takes text, got 3"),
        ({"opt": "adamm"}, "'adamm' is not one of 'sgd'"),
        ({"seed": -1}, "recipe.json: Invalid value for 'seed': "),
        ({"model": "mlpp"}, "recipe.json: Invalid value for 'model': 'mlpp' is not one of 'auto'"),
        ({"hidden": "a"}, "--hidden takes whole numbers such as 64 or 16,32,64, got 'a'"),
        ({"version": 2}, "recipe.json: expected version 1, got 2; use a newer clearloop"),
        ({"version": True}, "recipe.json: expected version 1, got True; use a newer clearloop"),
        ({"recipe": "other"}, 'recipe.json: expected a recipe file, with "recipe": "clearloop train", got \'other\''),
        ({"data": None}, 'recipe.json: expected data, as in "data": "mnist", got None'),
        ({"data": "recipe.json"}, "recipe.json: expected data"),
        ({"data": "nowhere"}, "nowhere: no such file or folder; expected mnist"),
    ],
)
def test_what_is_wrong_with_a_recipe_file_is_said_in_a_line_with_its_key(folder, change, said):
    write({"recipe": "clearloop train", "version": 1, "data": "small.npz", **change})
    assert said in refused("train", "recipe.json")
    assert not (folder / "runs").exists()


def test_what_is_no_recipe_file_is_refused_in_a_line(folder):
    assert "there is no such recipe file; `clearloop train DATA --print-recipe`" in refused("train", "recipe.json")
    for text in ("{", "[" * 100_000, '{"lr": 1, "lr": 2}', "\x00", '{"recipe": "clearloop train", "version": NaN}'):
        (folder / "recipe.json").write_text(text)
        assert refused("train", "recipe.json").startswith("recipe.json: expected ")
    (folder / "recipe.json").write_bytes(b"\xff\xfe")
    assert "got what cannot be read" in refused("train", "recipe.json")
    (folder / "recipe.json").write_text("[1]")
    assert refused("train", "recipe.json").endswith("got 'list'")


def test_the_record_of_a_run_is_no_recipe_file(folder):
    train("--model", "linear")
    line = refused("train", "run/recipe.json")
    assert line == "run/recipe.json is the record of a run, not a recipe file; go on with it: clearloop resume run"


def test_options_that_cannot_be_are_refused_before_a_recipe_is_printed(folder):
    assert "--grey is for folders of pictures" in refused("train", "small.npz", "--grey", "--print-recipe")

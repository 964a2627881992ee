import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clearloop as cl
from clearloop import models
from clearloop.commands.parts import set_threads
from clearloop.rundir import RunDirectory
from cli_tools import clearloop, process, write_idx

COMMANDS = ("train", "resume", "predict", "runs", "lr-find", "eject", "verify")
TRAIN_OPTIONS = {
    *(
        "--model",
        "--hidden",
        "--epochs",
        "--lr",
        "--batch-size",
        "--opt",
        "--schedule",
        "--one-cycle",
        "--weight-decay",
    ),
    *(
        "--momentum",
        "--dropout",
        "--clip",
        "--accumulate",
        "--ema",
        "--patience",
        "--sync-batch-norm",
        "--precision",
        "--fast",
        "--seed",
        "--valid",
    ),
    *("--device", "--threads", "--out", "--every", "--keep", "--quiet", "--code", "--sparse", "--output"),
    *("--target", "--kind", "--ignore", "--categorical", "--class-weights", "--size", "--grey", "--skip-bad"),
    *("--augment", "--normalize", "--weights", "--reconstructions-every", "--log", "--set", "--print-recipe"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of IDX files."""
    return write_idx(tmp_path_factory.mktemp("cli") / "digits", 300, 60)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Runs go into a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture(scope="module")
def trained(data):
    """A finished run, made once; tests that change it take a copy."""
    run = data.parent / "trained"
    assert clearloop("train", data, "--model", "mlp", "-n", "2", "-b", "50", "-q", "-o", run).code == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, runs/kept."""
    shutil.copytree(trained, tmp_path / "runs" / "kept")
    return tmp_path / "runs" / "kept"


def recipe_of(run):
    return RunDirectory.open(run).read_recipe()


def without_escapes(text):
    return not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


# -- starting up ------------------------------------------------------------------------------------------------------


def test_help_and_a_list_of_runs_import_no_torch():
    script = """
        import sys
        import clearloop.cli
        for arguments in (["--help"], ["train", "--help"], ["runs", "nowhere"]):
            sys.argv = ["clearloop", *arguments]
            try:
                clearloop.cli.main()
            except SystemExit:
                pass
        print(sorted({"torch", "numpy", "matplotlib", "PIL"} & set(sys.modules)))
    """
    done = process("-c", "\n".join(line[8:] for line in script.splitlines()))
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "[]"
    assert "Train a model and save the run" in done.out


def test_the_package_runs_as_a_module():
    done = process("-m", "clearloop", "--help")
    assert (done.code, done.err) == (0, "")
    assert all(command in done.out for command in COMMANDS)


def test_without_a_command_the_help_is_shown():
    done = clearloop()
    assert done.code == 2
    assert "Commands:" in done.out + done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = clearloop(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert without_escapes(done.out)
    summary = next(line for line in clearloop("--help").out.splitlines() if line.split()[:1] == [command])
    assert len(summary.split()) > 4


def test_every_option_of_train_has_a_word_of_explanation():
    rows = re.split(r"\n  (?=-)", clearloop("train", "--help").out.partition("Options:")[2])
    described = {row.split()[0].split(",")[0]: re.split(r"\s{2,}", row, maxsplit=1)[1:] for row in rows if row.strip()}
    found = {name for row in rows for name in re.findall(r"--[a-z-]+", re.split(r"\s{2,}", row.strip())[0])}
    assert found == {*TRAIN_OPTIONS, "--help"}
    assert all(words and len(words[0].split()) > 1 for words in described.values()), described


# -- train ------------------------------------------------------------------------------------------------------------


def test_train_prints_a_table_and_saves_a_whole_run(data, tmp_path):
    done = clearloop("train", data, "--model", "mlp", "-n", "2")
    assert (done.code, done.err) == (0, "")
    header, first, second, numbers, times, saved = done.out.splitlines()
    assert header.split() == ["epoch", "train_loss", "valid_loss", "accuracy", "time"]
    assert [first.split()[0], second.split()[0]] == ["0", "1"]
    assert re.fullmatch(r"train_loss \d\.\d{4}  valid_loss \d\.\d{4}  accuracy 0\.\d{4}", numbers)
    assert re.fullmatch(
        r"time of an epoch: data \d+ %, compute \d+ %, validation \d+ %, callbacks \d+ % of .* s; .*", times
    )
    assert saved == "saved in runs/digits-1; next: clearloop predict runs/digits-1 PICTURE.png"
    assert without_escapes(done.out.replace("\n", ""))
    run = tmp_path / "runs" / "digits-1"
    names = {path.name for path in run.iterdir() if path.name != ".lock"}
    assert names == {"recipe.json", "history.jsonl", "checkpoints", "predictor", "plots", "log.txt", "times.jsonl"}
    lines = (run / "log.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("time: ")] == [header, first, second]
    assert [line[:13] for line in lines if line.startswith("time: ")] == ["time: epoch 0", "time: epoch 1"]
    with Image.open(run / "plots" / "loss.png") as picture:
        assert min(picture.size) > 300


def test_each_run_gets_the_next_number(data, tmp_path):
    for _ in range(3):
        assert clearloop("train", data, "--model", "linear", "-n", "1", "-q").code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits-1", "digits-2", "digits-3"]
    shutil.rmtree(tmp_path / "runs" / "digits-2")
    done = clearloop("train", data, "--model", "linear", "-n", "1")
    assert "saved in runs/digits-4;" in done.out


@pytest.mark.parametrize(("folder", "name"), [("my digits (2)", "my-digits-2"), ("żółw", "żółw"), ("  ", "run")])
def test_a_run_is_named_after_its_data_whatever_they_are_called(data, tmp_path, folder, name):
    (tmp_path / folder).symlink_to(data)
    shutil.copytree(data, tmp_path / "x" / folder)
    assert clearloop("train", f"x/{folder}", "--model", "linear", "-n", "1", "-q").code == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"{name}-1"]


def test_quiet_prints_the_result_alone_and_keeps_the_log(data, tmp_path):
    done = clearloop("train", data, "--model", "linear", "-n", "2", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"train_loss [\d.]+  valid_loss [\d.]+  accuracy [\d.]+\n", done.out)
    lines = (tmp_path / "runs" / "digits-1" / "log.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["epoch", "0", "time:", "1", "time:"]


def test_two_runs_of_one_seed_are_the_same_and_another_seed_is_another_run(data):
    results = [
        clearloop("train", data, "--model", "mlp", "-n", "1", "-q", "--seed", seed).out for seed in ("1", "1", "2")
    ]
    assert results[0] == results[1] != results[2]


def test_options_come_into_the_recipe(data, tmp_path):
    done = clearloop(
        "train", data, "--model", "mlp", "--hidden", "12,9", "--epochs", "2", "--lr", "0.02", "--batch-size", "40",
        "--opt", "sgd", "--momentum", "0.7", "--weight-decay", "0.001", "--schedule", "cosine", "--dropout", "0.25",
        "--clip", "0.5", "--accumulate", "2", "--ema", "0.9", "--patience", "5", "--precision", "bf16", "--seed", "17",
        "--valid", "0.25", "--device", "cpu", "--threads", "2", "--out", "here/it is", "--every", "3",
        "--keep", "4", "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err
    recipe = recipe_of(tmp_path / "here" / "it is")
    assert recipe["model"]["args"] == [784, 12, 9, 10]
    assert recipe["model"]["kwargs"] == {"dropout": 0.25}
    assert recipe["data"]["kwargs"] == {"seed": 17, "valid": 0.25}
    assert recipe["data"]["args"][1] == 40
    assert recipe["opt_func"] == {"path": "torch.optim.sgd:SGD", "kwargs": {"weight_decay": 0.001, "momentum": 0.7}}
    assert recipe["fits"][0]["last_epoch"] == 2
    assert recipe["fits"][0]["lr"] == 0.02
    assert recipe["fits"][0]["schedule"] == {
        "path": "clearloop.schedules:cosine",
        "args": [0.02, 6],
    }  # 225 / 40 / 2 a step
    assert (recipe["clip"], recipe["accumulate"], recipe["precision"]) == (0.5, 2, "bf16")
    assert (recipe["seed"], recipe["threads"], recipe["device"]) == (17, 2, "cpu")
    callbacks = {callback["path"].split(":")[1]: callback.get("kwargs", {}) for callback in recipe["callbacks"]}
    assert callbacks["EMA"] == {"decay": 0.9}
    assert callbacks["EarlyStopping"] == {"patience": 5}
    assert callbacks["Checkpoints"]["every"] == "3"
    assert callbacks["Checkpoints"]["keep"] == 4


@pytest.mark.filterwarnings("default:compiled steps were asked for")
def test_without_a_compiler_a_line_says_so_and_the_run_takes_eager_steps(data, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    plain = clearloop("train", data, "--model", "mlp", "--epochs", "1", "--seed", "1", "--out", "plain")
    done = clearloop(
        "train", data, "--model", "mlp", "--epochs", "1", "--seed", "1", "--fast", "compile", "--out", "fast"
    )
    assert (plain.code, done.code) == (0, 0), done.err
    said = [line for line in done.err.splitlines() if line.startswith("note: ")]
    assert len(said) == 1
    assert "no C++ compiler 'no-such-compiler': install one" in said[0]
    assert recipe_of(tmp_path / "fast")["fast"] == "compile"
    weights = [(tmp_path / run / "predictor" / "model.safetensors").read_bytes() for run in ("plain", "fast")]
    assert weights[0] == weights[1]
    refused = clearloop("eject", "fast")
    assert refused.code != 0
    assert "the eager engine, got fast='compile'" in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("options", "optimizer", "kwargs", "lr"),
    [
        ("--opt sgd", "torch.optim.sgd:SGD", None, 0.1),
        ("--opt momentum", "torch.optim.sgd:SGD", {"momentum": 0.9}, 0.1),
        ("--opt adam", "torch.optim.adam:Adam", None, 0.003),
        ("", "torch.optim.adamw:AdamW", None, 0.003),
        ("--model cnn --hidden 2", "torch.optim.adamw:AdamW", None, 0.01),
    ],
)
def test_every_optimizer_has_a_learning_rate_to_begin_with(data, tmp_path, options, optimizer, kwargs, lr):
    model = [] if "--model" in options else ["--model", "linear"]
    clearloop("train", data, *model, *options.split(), "-n", "1", "-q", "--schedule", "constant")
    recipe = recipe_of(tmp_path / "runs" / "digits-1")
    assert recipe["opt_func"] == {"path": optimizer, **({} if kwargs is None else {"kwargs": kwargs})}
    assert recipe["fits"][0]["lr"] == lr
    assert recipe["fits"][0]["schedule"] is None


@pytest.mark.parametrize("options", ["", "--schedule one-cycle", "--one-cycle"])
def test_one_cycle_is_the_schedule_unless_another_is_asked_for(data, tmp_path, options):
    clearloop("train", data, "--model", "linear", "-n", "1", "-q", *options.split())
    schedule = recipe_of(tmp_path / "runs" / "digits-1")["fits"][0]["schedule"]
    assert schedule == {"path": "clearloop.schedules:one_cycle", "args": [0.003, 3]}


def test_pictures_get_a_cnn_and_vectors_an_mlp(data, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    np.savez("table.npz", x=x, y=x[:, 0] * 2)
    assert clearloop("train", "table.npz", "-n", "1", "-q", "-b", "8").out.startswith("train_loss ")
    assert clearloop("train", data, "-n", "1", "-q", "--hidden", "2,2", "-b", "300").code == 0
    assert recipe_of("runs/table-1")["model"] == {"path": "clearloop.models.mlp:mlp", "args": [3, 64, 1]}
    assert recipe_of("runs/table-1")["loss_func"]["path"] == "torch.nn.functional:mse_loss"
    assert recipe_of("runs/digits-1")["model"] == {"path": "clearloop.models.cnn:cnn", "args": [10, 1, [2, 2], 28]}


@pytest.mark.parametrize(
    ("options", "model", "loss"),
    [
        ("--model autoencoder --hidden 12 --code 3", {"args": [784, 12, 3], "kwargs": {"output": "tanh"}}, "mse_loss"),
        (
            "--model autoencoder --sparse 0.01 --output sigmoid",
            {"args": [784, 128, 64, 32], "kwargs": {"output": "sigmoid", "with_code": True}},
            "sparse_mse",
        ),
        ("--model conv-autoencoder --hidden 2", {"args": [32, 1, [2], 28], "kwargs": {"output": "tanh"}}, "mse_loss"),
    ],
)
def test_an_autoencoder_learns_to_give_back_what_it_is_given(data, tmp_path, options, model, loss):
    done = clearloop("train", data, *options.split(), "-n", 1, "-o", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    recipe = recipe_of(tmp_path / "run")
    assert {key: value for key, value in recipe["model"].items() if key != "path"} == model
    assert recipe["loss_func"]["path"].endswith(loss)
    assert recipe["opt_func"] == {"path": "torch.optim.adam:Adam"}
    assert recipe["data"]["kwargs"]["targets"] == "inputs"
    assert (recipe["fits"][0]["lr"], recipe["fits"][0]["schedule"]) == (0.001, None)
    assert clearloop("verify", tmp_path / "run", "--rung", 2).code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--sparse 0.1", "--sparse is for autoencoders, got --model cnn"),
        ("--model autoencoder --sparse -1", "--sparse must be a positive number, got -1.0"),
        ("--model conv-autoencoder --hidden 2,3,4", "halves the side of the images once for each of 3 widths"),
        ("--model autoencoder --dropout 0.1", "--dropout is for --model mlp, got --model autoencoder"),
    ],
)
def test_options_that_do_not_belong_to_an_autoencoder_are_refused(data, tmp_path, options, said):
    done = clearloop("train", data, *options.split(), "-o", tmp_path / "run")
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_of_a_table_needs_targets_like_its_inputs(tmp_path):
    np.savez(tmp_path / "table.npz", x=np.zeros((40, 5)), y=np.zeros(40))
    done = clearloop("train", tmp_path / "table.npz", "--model", "autoencoder", "-o", tmp_path / "run")
    assert done.code == 2
    assert "gives back what goes in, 5 values, and the targets have 1; it takes mnist, a folder" in done.err


def test_threads_come_from_the_option_or_the_environment(data, monkeypatch):
    clearloop("train", data, "--model", "linear", "-n", "1", "-q", "--threads", "2")
    assert recipe_of("runs/digits-1")["threads"] == 2
    clearloop("train", data, "--model", "linear", "-n", "1", "-q")  # OMP_NUM_THREADS=1 in these tests
    assert recipe_of("runs/digits-2")["threads"] == 1
    for given, expected in (("", 1), ("nonsense", 1), ("0", 1), ("3", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        set_threads(None, default=1)
        assert torch.get_num_threads() == expected


def test_early_stopping_ends_the_run_and_says_why(data):
    done = clearloop("train", data, "--model", "linear", "--lr", "0", "-n", "9", "--patience", "2", "-q")
    assert done.code == 0
    assert done.out.startswith("stopped early: valid_loss has not improved on ")
    assert "stopped early" in Path("runs/digits-1/log.txt").read_text()
    assert recipe_of("runs/digits-1")["fits"][0]["last_epoch"] == 3
    assert clearloop("resume", "runs/digits-1").out == "runs/digits-1 has finished: 3 epochs, 9 steps; nothing to do\n"
    assert re.search(r" 3/3 .* finished", clearloop("runs").out)


def test_a_table_tells_how_to_predict_rows(tmp_path):
    np.savez("table.npz", x=np.eye(20, 3), y=np.arange(20.0))
    assert clearloop("train", "table.npz", "-n", "1").out.endswith("clearloop predict runs/table-1 ITEMS.npy\n")


def test_an_interrupted_run_ends_with_130_and_can_be_resumed(data, monkeypatch):
    from clearloop.callbacks.checkpoints import Checkpoints

    former = Checkpoints.after_epoch

    def interrupt(self, learn):
        former(self, learn)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "after_epoch", interrupt)
    done = clearloop("train", data, "--model", "linear", "-n", "3")
    assert done.code == 130
    assert "Traceback" not in done.err
    assert "clearloop resume runs/digits-1" in done.out
    assert Path("runs/digits-1/plots/loss.png").exists()
    assert re.search(r" 1/3 .* interrupted", clearloop("runs").out)
    monkeypatch.setattr(Checkpoints, "after_epoch", former)
    done = clearloop("resume", "runs/digits-1")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == "runs/digits-1: going on at epoch 1, step 0 of 3"
    assert [line.split()[0] for line in done.out.splitlines()[2:4]] == ["1", "2"]
    assert re.search(r" 3/3 .* finished", clearloop("runs").out)
    clearloop("train", data, "--model", "linear", "-n", "3", "-o", "whole", "-q")
    weights = [
        next(Path(run).glob("checkpoints/step-00000009/model.safetensors")) for run in ("runs/digits-1", "whole")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


# -- resume -----------------------------------------------------------------------------------------------------------


def test_a_finished_run_has_nothing_to_resume(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = clearloop("resume", run)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{run} has finished: 2 epochs, 12 steps; nothing to do\n"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_resume_takes_over_what_it_is_told(run):
    directory = RunDirectory.open(run)
    recipe = directory.read_recipe()
    newest = max(run.glob("checkpoints/step-*"))
    shutil.rmtree(newest)  # as if it had stopped after the first epoch
    done = clearloop("resume", run, "--every", "2", "--threads", "1", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("train_loss ")
    assert recipe_of(run)["fits"] == recipe["fits"]
    assert {path.name for path in run.glob("checkpoints/*")} >= {"step-00000010", "step-00000012"}


# -- predict ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """One digit as files of several kinds, as it is and as ink on paper."""
    digit = cl.mnist().test_images[0].numpy()
    Image.fromarray(digit).save("digit.png")
    Image.fromarray(digit).save("digit.jpg", quality=95)
    Image.fromarray(255 - digit).save("paper.png")
    np.save("digit.npy", digit)
    np.save("float.npy", digit.astype(np.float32) / 255)
    np.save("flat.npy", digit.reshape(1, -1))
    np.save("two.npy", cl.mnist().test_images[:2].numpy())
    np.savez("two.npz", x=cl.mnist().test_images[:2].numpy())
    return digit


def test_predict_names_class_and_probabilities_for_any_kind_of_picture(run, pictures):
    done = clearloop("predict", run, "digit.png", "digit.npy", "float.npy", "flat.npy", "digit.jpg")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert re.fullmatch(r"digit\.png: \d  0\.\d{3}  \(then \d 0\.\d{3}, \d 0\.\d{3}\)", lines[0])
    answers = [line.split(": ")[1] for line in lines]
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert lines[3].startswith("flat.npy[0]: ")
    assert answers[4].split()[0] == answers[0].split()[0]


def test_predict_goes_through_all_rows_of_an_array(run, pictures):
    one = clearloop("predict", run, "digit.npy").out.split(": ")[1]
    done = clearloop("predict", run, "two.npy", "two.npz")
    assert [line.split(": ")[0] for line in done.out.splitlines()] == [
        "two.npy[0]",
        "two.npy[1]",
        "two.npz[0]",
        "two.npz[1]",
    ]
    assert done.out.splitlines()[0].split(": ")[1] == one.strip()


def test_predict_inverts_ink_on_paper_and_crops(run, pictures):
    plain = clearloop("predict", run, "digit.png").out.split(": ")[1]
    assert clearloop("predict", run, "paper.png").out.split(": ")[1] != plain
    assert clearloop("predict", run, "paper.png", "--dark-on-light").out.split(": ")[1] == plain
    large = np.zeros((90, 120), np.uint8)
    large[10:38, 70:98] = pictures
    Image.fromarray(large).save("large.png")
    cropped = clearloop("predict", run, "large.png", "--crop").out.split(": ")[1]
    assert cropped != clearloop("predict", run, "large.png").out.split(": ")[1]


def test_predict_writes_json_a_line_an_item(run, pictures):
    done = clearloop("predict", run, "digit.png", "two.npy", "--json")
    assert done.code == 0
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [each["item"] for each in found] == ["digit.png", "two.npy[0]", "two.npy[1]"]
    for each in found:
        assert each["label"] == str(int(np.argmax(each["probabilities"]))) == str(int(np.argmax(each["values"])))
        assert sum(each["probabilities"]) == pytest.approx(1)


def test_predict_gives_values_for_a_table():
    x = np.random.default_rng(0).normal(size=(40, 3))
    np.savez("table.npz", x=x, y=np.stack([x[:, 0], x[:, 1]], 1))
    np.save("one.npy", x[0])
    np.save("many.npy", x[:3])
    assert clearloop("train", "table.npz", "-n", "1", "-q", "-b", "8").code == 0
    done = clearloop("predict", "runs/table-1", "one.npy", "many.npy", "table.npz")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split(": ")[0] for line in lines[:4]] == ["one.npy", "many.npy[0]", "many.npy[1]", "many.npy[2]"]
    assert len(lines) == 44
    assert len(lines[0].split(": ")[1].split(", ")) == 2
    assert lines[0].split(": ")[1] == lines[1].split(": ")[1] == lines[4].split(": ")[1]
    found = json.loads(clearloop("predict", "runs/table-1", "one.npy", "--json").out)
    assert (found["label"], found["probabilities"], len(found["values"])) == (None, None, 2)


# -- runs -------------------------------------------------------------------------------------------------------------


def states():
    """Run -> (epochs, state), as the table shows them."""
    header, *lines = clearloop("runs").out.splitlines()
    where = {name: header.index(name) for name in ("model", "data", "epochs", "valid_loss", "state")}
    return {
        line.split("  ")[0]: (line[where["epochs"] : where["valid_loss"]].strip(), line[where["state"] :].strip())
        for line in lines
    }


def test_runs_shows_a_line_a_run_with_what_it_came_to(run):
    done = clearloop("runs")
    assert (done.code, done.err) == (0, "")
    header, line = done.out.splitlines()
    assert header.split() == ["run", "model", "data", "epochs", "valid_loss", "metrics", "changed", "state"]
    record = cl.Learner.load(run).history.epochs[-1]
    assert line.split()[:2] == ["kept", "mlp(784,"]
    assert f"{record.valid_loss:.4f}" in line
    assert f"accuracy {record.metrics['accuracy']:.4f}" in line
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", line)
    assert without_escapes(line)


def test_runs_tells_finished_interrupted_running_and_damaged_ones_apart(run, tmp_path):
    for name in ("stopped", "running", "recipe", "history", "fresh"):
        shutil.copytree(run, run.with_name(name))
    for name in ("stopped", "fresh"):
        directory = RunDirectory.open(run.with_name(name))
        recipe = directory.read_recipe()
        recipe["fits"][0]["last_epoch"] = 7
        directory.write_recipe(recipe)
    (run.with_name("fresh") / "history.jsonl").unlink()
    (run.with_name("recipe") / "recipe.json").write_text("{")
    (run.with_name("history") / "history.jsonl").write_text("[/red] nonsense\n")
    with RunDirectory.open(run.with_name("running")).lock():
        found = states()
    assert found["kept"] == ("2/2", "finished")
    assert found["stopped"] == ("2/7", "interrupted")
    assert found["fresh"] == ("0/7", "interrupted")
    assert found["running"] == ("2/2", "running")
    assert found["recipe"][1].startswith("damaged: ")
    assert found["history"][1].startswith("damaged: ")


def test_runs_shows_names_as_they_are_without_markup_or_control_codes(run):
    run.rename(run.with_name("[red]odd[bold]\x1b[31m"))
    done = clearloop("runs")
    assert done.code == 0
    assert "[red]odd[bold]?[31m" in done.out
    assert "\x1b" not in done.out


def test_runs_shows_a_run_that_was_saved_without_a_fit():
    learn = cl.Learner(cl.DataLoaders.arrays(torch.randn(20, 3), torch.randn(20, 1), seed=0), models.mlp(3, 1), seed=0)
    learn.save("runs/saved")
    assert states() == {"saved": ("0", "stopped")}


def test_runs_of_another_folder_are_listed_when_it_is_named(run, tmp_path):
    run.parent.rename(tmp_path / "elsewhere")
    assert "kept" in clearloop("runs", "elsewhere").out
    done = clearloop("runs")
    assert (done.code, done.out, done.err) == (2, "", "error: no runs in runs; `clearloop train mnist` makes one\n")


# -- lr-find ----------------------------------------------------------------------------------------------------------


def test_lr_find_suggests_a_learning_rate_and_draws_the_curve(data, tmp_path):
    done = clearloop(
        "lr-find", data, "--model", "mlp", "--hidden", "16", "--steps", "40", "-b", "50", "--out", "a/b.png"
    )
    assert (done.code, done.err) == (0, "")
    suggestion, drawn = done.out.splitlines()
    assert drawn == "the curve is in a/b.png"
    found = re.fullmatch(r"suggested learning rate: (\S+)", suggestion)
    assert 1e-6 <= float(found[1]) <= 10
    with Image.open("a/b.png") as picture:
        assert picture.format == "PNG"
    assert {path.name for path in tmp_path.iterdir()} == {"a"}


def test_lr_find_tells_its_suggestion_though_the_picture_has_no_known_format(data):
    done = clearloop("lr-find", data, "--model", "linear", "--steps", "10", "--out", "curve.nonsense")
    assert done.code == 2
    assert done.out.startswith("suggested learning rate: ")
    assert done.err.startswith("error: the curve cannot be written to curve.nonsense: ")
    assert done.err.count("\n") == 1


# -- the real thing ---------------------------------------------------------------------------------------------------


def test_the_installed_command_trains_and_ejects_in_processes_of_their_own(data, tmp_path):
    command = Path(sys.executable).with_name("clearloop")
    script = f"import runpy, sys; sys.argv[0] = {str(command)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = process("-c", script, "train", data, "--model", "linear", "-n", "1")
    assert (done.code, done.err) == (0, "")
    assert without_escapes(done.out.replace("\n", ""))
    run = next((tmp_path / "runs").iterdir())
    assert run.name == "digits-1"
    done = process("-m", "clearloop", "eject", run)
    assert done.code == 0
    compile(done.out, "<ejected>", "exec")
    assert os.listdir(tmp_path) == ["runs"]

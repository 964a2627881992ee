"""Input that cannot work gets one clear line before training starts, and leaves nothing behind."""

import gzip
import json
import os
import re
import resource
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import clearloop as cl
from clearloop import durable, models
from clearloop.rundir import RunDirectory
from cli_tools import clearloop, idx_bytes, process, write_idx

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A good folder of IDX files."""
    return write_idx(tmp_path_factory.mktemp("bad") / "digits", 120, 40)


@pytest.fixture
def data(digits, tmp_path, monkeypatch):
    """A copy of it that a test may spoil; runs go into the test's own folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits, tmp_path / "digits")
    return tmp_path / "digits"


@pytest.fixture(scope="module")
def trained(digits):
    """A finished run."""
    run = digits.parent / "trained"
    assert clearloop("train", digits, "--model", "linear", "-n", "1", "-b", "60", "-q", "-o", run).code == 0
    return run


@pytest.fixture
def run(trained, data):
    """A copy of the run, beside the data."""
    shutil.copytree(trained, "run")
    return Path("run")


def refused(*arguments, header=False):
    """The one line that a command says before it ends with code 2; no file may come or go.

    Only an error at the first save comes after the header of the table.
    """
    before = {path for path in Path(".").rglob("*") if "runs" not in path.parts}
    done = clearloop(*arguments)
    assert done.code == 2, done
    assert bool(done.out) == header
    assert done.out.count("\n") == header
    assert "Traceback" not in done.err
    if done.err.startswith("Usage: "):  # what Typer says of options
        (line,) = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    else:
        assert done.err.startswith("error: ")
        assert done.err.endswith("\n")
        (line,) = done.err.splitlines()
    assert {path for path in Path(".").rglob("*") if "runs" not in path.parts} == before
    assert not [*Path("runs").glob("*")]
    return line


def train_refused(data, *options, header=False):
    """The same of `clearloop train` with the quickest model."""
    model = [] if "--model" in options else ["--model", "linear"]
    return refused("train", data, *model, *options, header=header)


# -- options ----------------------------------------------------------------------------------------------------------

OPTIONS = {
    "-b 0": "batch_size must be a whole number of at least 1, got 0",
    "-b -8": "batch_size must be a whole number of at least 1, got -8",
    "-b many": "Invalid value for '--batch-size' / '-b'",
    "-n 0": "epochs must be a whole number of at least 1, got 0",
    "-n -1": "epochs must be a whole number of at least 1, got -1",
    "--lr -0.1": "lr must be a finite number of 0 or more, got -0.1",
    "--lr nan": "lr must be a finite number of 0 or more, got nan",
    "--lr inf --schedule constant": "lr must be a finite number of 0 or more, got inf",
    "--model transformer": "Invalid value for '--model'",
    "--opt lion": "Invalid value for '--opt'",
    "--schedule sawtooth": "Invalid value for '--schedule'",
    "--nonsense 1": "No such option: --nonsense",
    "--model mlp --hidden a,b": "--hidden takes whole numbers such as 64 or 16,32,64, got 'a,b'",
    "--model mlp --hidden 64,": "--hidden takes whole numbers",
    "--model mlp --hidden 64,0": "mlp widths must be positive ints, got 0",
    "--model cnn --hidden -3": "cnn widths must be positive ints, got -3",
    "--model linear --hidden 64": "--hidden is for --model mlp and cnn",
    "--model mlp --dropout 1": "dropout must be a probability in [0, 1), got 1.0",
    "--model mlp --dropout nan": "dropout must be a probability in [0, 1), got nan",
    "--model cnn --dropout 0.1": "--dropout is for --model mlp, got --model cnn",
    "--weight-decay -1": "--weight-decay must be a finite number of 0 or more, got -1.0",
    "--weight-decay inf": "--weight-decay must be a finite number of 0 or more, got inf",
    "--opt sgd --momentum nan": "--momentum must be a finite number of 0 or more, got nan",
    "--opt adam --momentum 0.9": "--momentum is for sgd, got --opt adam",
    "--clip 0": "clip must be above 0, or None for no clipping; got 0.0",
    "--clip nan": "clip must be above 0, or None for no clipping; got nan",
    "--accumulate 0": "accumulate must be a whole number of at least 1, got 0",
    "--ema 1": "decay must lie between 0 and 1, got 1.0",
    "--patience 0": "patience must be 1 or more",
    "--precision fp16 --device cpu": 'precision="fp16" needs a CUDA GPU, the device is cpu',
    "--precision fp8": "Invalid value for '--precision'",
    "--seed -1": "Invalid value for '--seed'",
    "--seed 9223372036854775808": "--seed must be below 2**63, got 9223372036854775808",
    "--valid 0": "--valid takes a share between 0 and 1 or a number of samples, got 0",
    "--valid nan": "--valid takes a share between 0 and 1 or a number of samples, got nan",
    "--valid inf": "--valid takes a share between 0 and 1 or a number of samples, got inf",
    "--valid -0.5": "--valid takes a share between 0 and 1 or a number of samples, got -0.5",
    "--valid 7.5": "--valid takes a share between 0 and 1 or a number of samples, got 7.5",
    "--valid 120": "valid must be a share in (0, 1) or a count below 120, got 120",
    "--device gpu": "device 'gpu' cannot be used here",
    "--device meta": "device 'meta' cannot be used here",
    "--threads 0": "Invalid value for '--threads'",
    "--every nonsense": 'every must be seconds ("60s") or a number of steps ("100"), got \'nonsense\'',
    "--every 0": "every must be seconds",
    "--every 0s": "every must be seconds",
    "--every 1.5": "every must be seconds",
    "--every -5": "every must be seconds",
    "--keep 1": "keep at least 2, got every='60s', keep=1",
}


@pytest.mark.parametrize("options", OPTIONS)
def test_an_option_that_cannot_work_is_named_with_its_value(data, options):
    assert OPTIONS[options] in train_refused(data, *options.split())


def test_bad_options_make_no_folder_on_the_way_to_the_run(data):
    assert "epochs must be" in train_refused(data, "-n", "0", "-o", "on/the/way")
    assert "lr must be" in train_refused(data, "--lr", "nan", "-o", "on/the/way")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(data):
    assert "device 'cuda' cannot be used here" in train_refused(data, "--device", "cuda")


@pytest.mark.parametrize("options", ["--steps 9", "--batch-size 0", "--hidden x", "--device nowhere", "--threads -1"])
def test_lr_find_refuses_the_same(data, options):
    line = refused("lr-find", data, "--model", "mlp", *options.split())
    assert options.split()[1] in line or "--" in line


def test_mnist_has_its_own_validation_set(data):
    assert "leave out --valid" in refused("train", "mnist", "--valid", "0.1")


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_path_that_is_not_there_is_named(data):
    assert refused("train", "nowhere.npz").startswith("error: nowhere.npz: no such file or folder; expected mnist, ")
    Path("notes.txt").write_text("x")
    known = "mnist, a folder of IDX files, of pictures or of x.npy and y.npy, a .csv or .parquet table, or an .npz file"
    assert refused("train", "notes.txt") == f"error: notes.txt: expected {known}"


@pytest.mark.parametrize("missing", [IMAGES, LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_missing_idx_file_is_named(data, missing):
    (data / missing).unlink()
    assert f"{missing}.gz: no such file" in train_refused(data)


def spoil(path, change):
    path.write_bytes(change(path.read_bytes()))


IDX_DAMAGE = {
    "empty": (lambda raw: b"", "not an IDX file: its first four bytes are missing"),
    "another format": (lambda raw: b"\x89PNG" + raw[4:], "not an IDX file: its first four bytes are 89 50 4e 47"),
    "a type that is not there": (lambda raw: b"\0\0\x07\x03" + raw[4:], "its first four bytes are 00 00 07 03"),
    "no dimensions": (lambda raw: b"\0\0\x08\0" + raw[4:], "its first four bytes are 00 00 08 00"),
    "cut in the header": (lambda raw: raw[:9], "cut short: 3 dimensions announced, the file ends at 9"),
    "cut in the values": (lambda raw: raw[:-1], "94,080 bytes of values expected after byte 16, only 94,079 came"),
    "something after the values": (lambda raw: raw + b"x", "94,080 bytes of values expected after byte 16, more came"),
    "dimensions that overflow": (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "more than the file can hold"),
    "no images": (lambda raw: raw[:4] + struct.pack(">III", 0, 28, 28), "0 train images"),
    "no pixels": (lambda raw: raw[:4] + struct.pack(">III", 120, 0, 28), "images must"),
    "two dimensions": (lambda raw: idx_bytes(np.zeros((120, 784))), "images must be bytes of shape (n, height, width)"),
    "numbers that are no bytes": (
        lambda raw: idx_bytes(np.zeros((120, 28, 28)), 0x0D, ">f4"),
        "images must be bytes of shape (n, height, width), got torch.float32",
    ),
    "a gzip stream that is cut short": (lambda raw: gzip.compress(raw)[:-9], "the gzip stream is cut short or damaged"),
    "a gzip stream that is damaged": (
        lambda raw: gzip.compress(raw)[:20] + b"\xff\xff\xff\xff" + gzip.compress(raw)[24:],
        "the gzip stream is cut short or damaged",
    ),
}


@pytest.mark.parametrize("damage", IDX_DAMAGE)
def test_a_damaged_idx_file_is_named_with_what_is_wrong(data, damage):
    change, expected = IDX_DAMAGE[damage]
    spoil(data / IMAGES, change)
    line = train_refused(data)
    assert expected in line
    assert str(data) in line


def test_images_and_labels_must_be_as_many(data):
    spoil(data / LABELS, lambda raw: idx_bytes(np.zeros(119)))
    assert "120 train images need as many labels, got 119" in train_refused(data)
    spoil(data / LABELS, lambda raw: idx_bytes(np.zeros((120, 1))))
    assert "120 train images need as many labels" in train_refused(data)


def test_labels_out_of_range_are_named_with_their_row(data):
    labels = np.arange(40) % 10
    labels[17] = 12
    spoil(data / "t10k-labels-idx1-ubyte", lambda raw: idx_bytes(labels))
    line = train_refused(data)
    assert (
        "targets must lie in [0, 10), the model has 10 outputs; the validation data hold 0..12, first at row 17" in line
    )
    labels = np.arange(120) % 10
    labels[5] = -2
    spoil(data / LABELS, lambda raw: idx_bytes(labels, 0x09, ">i1"))
    assert "the training data hold -2..9, first at row 5" in train_refused(data)


def test_both_sets_must_have_images_of_one_size(data):
    spoil(data / "t10k-images-idx3-ubyte", lambda raw: idx_bytes(np.zeros((40, 14, 28))))
    assert "training and t10k images must have one size, got (28, 28) and (14, 28)" in train_refused(data)


def test_a_cnn_needs_square_images(data):
    for part, count in (("train", 120), ("t10k", 40)):
        spoil(data / f"{part}-images-idx3-ubyte", lambda raw, count=count: idx_bytes(np.ones((count, 14, 28))))
    line = train_refused(data, "--model", "cnn")
    assert "--model cnn needs square images, got inputs of shape (1, 14, 28); use --model mlp" in line
    np.savez("table.npz", x=np.ones((20, 3)), y=np.ones(20))
    assert "got inputs of shape (3,); use --model mlp" in train_refused("table.npz", "--model", "cnn")


# -- archives ---------------------------------------------------------------------------------------------------------


def arrays(**changes):
    """An archive of 20 rows, with changes."""
    generator = np.random.default_rng(0)
    content = {"x": generator.normal(size=(20, 3)), "y": np.arange(20) % 3, **changes}
    np.savez("data.npz", **{name: array for name, array in content.items() if array is not None})
    return "data.npz"


def with_value(value, row):
    x = np.ones((20, 3))
    x[row, 1] = value
    return x


NPZ = {
    "NaN in the inputs": (
        lambda: {"x": with_value(np.nan, 7)},
        "x_train: row 7 holds NaN or infinity (1 such rows of 20)",
    ),
    "infinity in the inputs": (lambda: {"x": with_value(-np.inf, 0)}, "x_train: row 0 holds NaN or infinity"),
    "NaN in the targets": (lambda: {"y": with_value(np.nan, 19)[:, 1]}, "y_train: row 19 holds NaN or infinity"),
    "text": (lambda: {"x": np.array([["a", "b"]] * 20)}, "data.npz:x: expected numbers, got an array of <U1"),
    "objects": (lambda: {"y": np.array([None, {}] * 10)}, "not a readable .npz archive of plain arrays"),
    "complex numbers": (lambda: {"x": np.ones((20, 3), complex)}, "x: expected numbers, got an array of complex128"),
    "dates": (lambda: {"y": np.zeros(20, "datetime64[s]")}, "y: expected numbers"),
    "records": (lambda: {"x": np.zeros(20, [("a", "f4")])}, "x: expected numbers"),
    "fewer targets": (lambda: {"y": np.zeros(19)}, "inputs of (20, 3) need as many targets, got (19,)"),
    "one number": (lambda: {"x": np.float64(1.0)}, "inputs of () need as many targets"),
    "other names": (
        lambda: {"x": None, "y": None, "images": np.ones(3)},
        "expected arrays x_train, y_train, x_valid, y_valid, or x and y; got ['images']",
    ),
    "no targets": (lambda: {"y": None}, "or x and y; got ['x']"),
    "no rows": (lambda: {"x": np.zeros((0, 3)), "y": np.zeros(0)}, "at least 1; got [0, 0]"),
    "one row": (lambda: {"x": np.zeros((1, 3)), "y": np.zeros(1)}, "a count below 1, got 0.2"),
    "negative labels": (lambda: {"y": np.arange(20) % 3 - 1}, "hold -1..1"),
    "integers beyond 64 bits": (lambda: {"y": np.full(20, 2**64 - 1, np.uint64)}, "expected integers below 2**63"),
}


@pytest.mark.parametrize("what", NPZ)
def test_arrays_that_cannot_be_trained_on_are_named(data, what):
    changes, expected = NPZ[what]
    assert expected in refused("train", arrays(**changes()))


def test_bad_validation_arrays_are_named_too(data):
    good = np.ones((20, 3))
    np.savez("data.npz", x_train=good, y_train=good[:, 0], x_valid=with_value(np.inf, 3), y_valid=good[:, 0])
    assert "x_valid: row 3 holds NaN or infinity" in refused("train", "data.npz")
    np.savez("data.npz", x_train=good, y_train=good[:, 0], x_valid=good, y_valid=good[:7, 0])
    assert "valid: inputs of (20, 3) need as many targets, got (7,)" in refused("train", "data.npz")


def test_numbers_that_do_not_fit_into_32_bits_are_refused(data):
    assert "x_train: row 4 holds NaN or infinity" in refused("train", arrays(x=with_value(1e300, 4)))


ARCHIVE_DAMAGE = {
    "empty": lambda raw: b"",
    "garbage": lambda raw: b"\0garbage" * 100,
    "a single array": lambda raw: b"\x93NUMPY\x01\0",
    "a pickle": lambda raw: b"\x80\x04N.",
    "cut in half": lambda raw: raw[: len(raw) // 2],
    "without its directory": lambda raw: raw[:-30],
    "other values": lambda raw: raw[:200] + bytes(200) + raw[400:],
}


@pytest.mark.parametrize("damage", ARCHIVE_DAMAGE)
def test_a_damaged_archive_is_named(data, damage):
    path = Path(arrays())
    spoil(path, ARCHIVE_DAMAGE[damage])
    assert refused("train", path).startswith(f"error: {path.resolve()}: not a readable .npz archive of plain arrays")


def test_a_damaged_archive_is_named_wherever_the_damage_is(data):
    np.savez_compressed("data.npz", x=np.arange(60.0).reshape(20, 3), y=np.arange(20.0))
    whole = Path("data.npz").read_bytes()
    generator = np.random.default_rng(1)
    refusals = 0
    for _ in range(150):
        raw = bytearray(whole)
        for place in generator.integers(0, len(raw), 3):
            raw[place] = generator.integers(256)
        Path("data.npz").write_bytes(raw)
        try:
            cl.DataLoaders.npz("data.npz", seed=0)
        except cl.DataError:
            refusals += 1
    assert refusals > 50


def test_an_array_whose_header_promises_too_much_is_refused(data):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 999), }"
    header += b" " * (118 - len(header)) + b"\n"
    with zipfile.ZipFile("data.npz", "w") as archive:
        for name in ("x", "y"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header)
    assert "not a readable .npz archive of plain arrays" in refused("train", "data.npz")


# -- folders of runs --------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_not_trained_into(data, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert "expected no run at run, got one; resume it, or choose another folder" in train_refused(data, "-o", run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_things_is_not_trained_into(data):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("all of it")
    assert "got mine with other things in it" in train_refused(data, "-o", "mine")
    assert Path("mine/thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize("out", ["digits/train-images-idx3-ubyte/run", "/proc/run", "digits/train-images-idx3-ubyte"])
def test_a_folder_that_cannot_be_made_is_named(data, out):
    assert out.split("/run")[0] in train_refused(data, "-o", out)


def test_runs_that_is_a_file_is_named(data):
    Path("runs").write_text("not a folder")
    done = clearloop("train", data, "--model", "linear")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert Path("runs").read_text() == "not a folder"


@pytest.mark.parametrize("command", ["resume", "predict", "eject", "verify"])
def test_a_folder_that_is_no_run_is_named(data, command):
    items = ["x.png"] if command == "predict" else []
    assert refused(command, data, *items).startswith("error: ")
    assert str(data) in refused(command, data, *items)
    assert "nowhere" in refused(command, "nowhere", *items)


def test_a_damaged_recipe_is_named(data, run):
    (run / "recipe.json").write_text("{")
    for command in ("resume", "eject", "verify"):
        assert "recipe.json" in refused(command, run)


def test_a_recipe_that_was_changed_is_noticed(data, run):
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps({**recipe, "lr": 3.0}))
    assert "its checksum differs" in refused("resume", run)


def test_a_run_whose_data_have_changed_is_not_resumed(data, run):
    directory = RunDirectory.open(run)
    recipe = directory.read_recipe()
    recipe["data"]["args"][0] = str(data)
    directory.write_recipe(recipe)
    spoil(data / LABELS, lambda raw: raw[:-1] + bytes([(raw[-1] + 1) % 10]))
    assert "the train data are not those that the run was started on" in refused("resume", run)


@pytest.mark.parametrize("every", ["nonsense", "0", "1.5"])
def test_resume_refuses_bad_options(data, run, every):
    assert "every must be seconds" in refused("resume", run, "--every", every)


def test_a_run_that_is_being_written_is_not_resumed(data, run):
    directory = RunDirectory.open(run)
    shutil.rmtree(max(run.glob("checkpoints/step-*")))
    with directory.lock():
        done = clearloop("resume", run)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "another process is writing this run" in done.err or "writing" in done.err


# -- a disk without room ----------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_full_for_the_checkpoints_is_refused(data, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    line = train_refused(data, header=True)
    assert "bytes free on the disk" in line
    assert "got 1000; free space or choose a folder on another disk" in line
    assert "got 1000" in train_refused(data, "-o", "own", header=True)


def test_an_empty_folder_that_was_there_stays_there_and_empty(data, monkeypatch):
    Path("empty").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    train_refused(data, "-o", "empty", header=True)
    assert os.listdir("empty") == []


def test_a_run_that_another_process_has_begun_in_the_same_folder_is_left_alone(data, run, monkeypatch):
    created = RunDirectory.create
    other = RunDirectory.open(run)

    def late(path):
        """Another process begins, and writes its first checkpoint, after this one has looked."""
        if Path(path).exists():
            return created(path)
        directory = created(path)
        shutil.copytree(run, path, dirs_exist_ok=True)
        return directory

    monkeypatch.setattr(RunDirectory, "create", late)
    done = clearloop("train", data, "--model", "linear", "-o", "shared")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert RunDirectory.open("shared").checkpoints()[0][0] == other.checkpoints()[0][0]
    assert (Path("shared") / "recipe.json").read_bytes() == (run / "recipe.json").read_bytes()


class Full(durable.FileSystem):
    """A disk on which no large file can be written."""

    def write(self, path, data):
        if len(data) > 20_000:
            raise OSError(28, "No space left on device")
        super().write(path, data)


def test_a_disk_that_fills_up_at_the_first_checkpoint_leaves_no_run(data):
    with durable.using(Full()):
        assert "No space left on device" in train_refused(data, header=True)
        assert "No space left on device" in train_refused(data, "-o", "own", header=True)


def test_a_limit_on_the_size_of_files_is_an_error_in_one_line(data):
    script = f"""if True:
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, {resource.RLIM_INFINITY}))
        sys.argv = ["clearloop", "train", "digits", "--model", "linear", "--threads", "1"]
        from clearloop.cli import main
        main()
    """
    done = process("-c", script)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "File too large" in done.err
    assert done.err.count("\n") == 1
    assert not [*Path("runs").glob("*")]


# -- items to predict -------------------------------------------------------------------------------------------------

ITEMS = {
    "garbage.png": b"\x89PNG\r\n\x1a\nnonsense",
    "text.png": b"hello",
    "empty.jpg": b"",
    "garbage.npy": b"\x93NUMPY\x01\0garbage",
    "empty.npy": b"",
    "pickle.npy": b"\x80\x04N.",
    "garbage.npz": b"PK\x03\x04garbage",
}


@pytest.mark.parametrize("name", ITEMS)
def test_garbage_is_not_predicted(data, run, name):
    Path(name).write_bytes(ITEMS[name])
    assert name in refused("predict", run, name)


def test_arrays_that_do_not_fit_are_not_predicted(data, run):
    np.save("nan.npy", np.full((28, 28), np.nan, np.float32))
    assert "NaN or infinity" in refused("predict", run, "nan.npy")
    np.save("large.npy", np.full((28, 28), 7.5, np.float32))
    assert "expected floats in [0, 1], got 7.5..7.5" in refused("predict", run, "large.npy")
    np.save("long.npy", np.zeros(11, np.float32))
    assert "got floats of shape (11,)" in refused("predict", run, "long.npy")
    np.save("text.npy", np.array(["a"]))
    assert "expected numbers, got an array of <U1" in refused("predict", run, "text.npy")
    np.savez("named.npz", images=np.zeros((2, 28, 28), np.uint8))
    assert "expected an array named x, got ['images']" in refused("predict", run, "named.npz")
    np.save("number.npy", np.float32(0.5))
    refused("predict", run, "number.npy")


def test_a_missing_item_and_a_folder_are_named(data, run):
    assert "nowhere.png" in refused("predict", run, "nowhere.png")
    assert "nowhere.npy" in refused("predict", run, "nowhere.npy")
    assert "digits" in refused("predict", run, "digits")


def test_options_for_pictures_are_refused_for_tables(data):
    assert clearloop("train", arrays(), "-n", "1", "-q", "-o", "table").code == 0
    np.save("one.npy", np.zeros(3))
    assert "are for models of images" in refused("predict", "table", "one.npy", "--crop")
    np.save("four.npy", np.zeros(4))
    assert "expected a float32 array of shape (3,), got shape (4,)" in refused("predict", "table", "four.npy")
    Image.new("L", (3, 3)).save("picture.png")
    assert "expected a float32 array of shape (3,), got the path picture.png" in refused(
        "predict", "table", "picture.png"
    )


def test_a_damaged_predictor_is_named(data, run):
    spoil(run / "predictor" / "model.safetensors", lambda raw: raw[:-1] + b"x")
    Image.new("L", (28, 28)).save("digit.png")
    assert "model.safetensors" in refused("predict", run, "digit.png")


# -- what is written elsewhere ----------------------------------------------------------------------------------------


def test_a_program_that_cannot_be_written_leaves_nothing(data, run):
    for out in ("nowhere/program.py", "digits", "digits/train-images-idx3-ubyte/program.py"):
        refused("eject", run, "--out", out)


def test_a_picture_that_cannot_be_written_is_an_error_in_one_line(data):
    done = clearloop("lr-find", data, "--model", "linear", "--steps", "10", "--out", f"digits/{IMAGES}/curve.png")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: ")


def test_curves_that_cannot_be_drawn_do_not_end_a_run(data, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cl.Learner, "plot_loss", full)
    done = clearloop("train", data, "--model", "linear", "-n", "1", "-q", "-o", "run")
    assert done.code == 0
    assert done.err == "note: the curves are not drawn ([Errno 28] No space left on device)\n"


# -- a loss that is lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_a_loss_that_is_lost_stops_the_run_and_keeps_the_last_good_checkpoint(data, quiet):
    options = ["--model", "mlp", "--hidden", "16,16", "--opt", "sgd", "--lr", "1e12", "--schedule", "constant"]
    options += ["-n", "5", "-b", "20", "--every", "1", "--device", "cpu"]
    done = clearloop("train", data, *options, *quiet)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "(learning rate 1e+12); nothing was saved after it. " in line
    found = re.match(r"error: the loss is (nan|inf|-inf) at step (\d+) ", line)
    assert "Try a learning rate ten times smaller" in line
    (run,) = Path("runs").iterdir()
    step = int(found[2])
    saved = [number for number, _ in RunDirectory.open(run).checkpoints()]
    assert 0 < max(saved) <= step
    losses = [json.loads(row)["loss"] for row in (run / "history.jsonl").read_text().splitlines()]
    assert np.isfinite(losses).all()
    learn = cl.Learner.load(run)
    assert learn.history.steps == max(saved)
    assert all(torch.isfinite(parameter).all() for parameter in learn.model.parameters())
    assert line in (run / "log.txt").read_text()
    again = clearloop("resume", run)  # the same loss is lost in the same step
    assert (again.code, again.err.splitlines()) == (1, [line])


def test_weights_that_are_lost_before_the_first_step_are_not_saved(data):
    model = models.linear(784, 10)
    with torch.no_grad():
        model[1].weight[3, 3] = float("nan")
    dls = cl.DataLoaders.idx(data, 60, seed=0)
    learn = cl.Learner(dls, model, F.cross_entropy, cbs=cl.Checkpoints("run"), device="cpu")
    with pytest.raises(cl.NonFiniteError, match=r"1\.weight holds NaN or infinity"):
        learn.fit(1, 0.1, quiet=True)
    assert not RunDirectory("run").checkpoints()


# -- what only Python can get wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "loss_func", "error", "message"),
    [
        (lambda: models.linear(784, 9), F.cross_entropy, cl.DataError, r"targets must lie in \[0, 9\)"),
        (lambda: models.linear(784, 12), F.cross_entropy, cl.ModelError, "the model has 12 outputs for 10 classes"),
        (lambda: models.linear(783, 10), F.cross_entropy, cl.ModelError, "the model does not take inputs of"),
        (
            lambda: nn.Linear(28, 10),
            F.cross_entropy,
            cl.ModelError,
            "cross_entropy does not fit|outputs for 10 classes",
        ),
        (lambda: models.linear(784, 10), F.mse_loss, cl.ModelError, "mse_loss does not fit predictions of"),
        (lambda: models.linear(784, 10), F.l1_loss, cl.ModelError, "l1_loss does not fit predictions of"),
        (nn.Flatten, F.cross_entropy, cl.ModelError, "the model has no parameters"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_a_run_is_made(data, model, loss_func, error, message):
    with pytest.raises(error, match=message):
        cl.Learner(
            cl.DataLoaders.idx(data, 60, seed=0), model(), loss_func, cbs=cl.Checkpoints("run"), device="cpu"
        ).fit(1, 0.1, quiet=True)
    assert not Path("run").exists()


@pytest.mark.parametrize("width", [16, 64])
def test_a_run_of_another_model_is_not_loaded(data, run, width):
    shapes = rf"another.* 1\.weight: saved \(10, 784\) float32, model.* \({width}, 784\) float32"
    with pytest.raises(cl.CheckpointError, match=shapes):
        cl.Learner.load(run, model=models.mlp(784, width, 10))

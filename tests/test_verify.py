import shutil

import pytest

import clearloop as cl
from clearloop import verify as verifying
from clearloop.eject import Program, eject
from clearloop.errors import CheckpointError, EjectError
from clearloop.rundir import RunDirectory
from clearloop.verify import Comparison, execute, parse, verify
from cli_tools import clearloop, write_idx


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data and a finished run of two epochs on them, made once: tests that change a run take a copy."""
    folder = tmp_path_factory.mktemp("verify")
    data = write_idx(folder / "data", 300, 60)
    options = ["--model", "mlp", "--hidden", "8", "--dropout", "0.2", "--clip", "1", "-n", "2", "-b", "50"]
    assert clearloop("train", data, *options, "-q", "--device", "cpu", "-o", folder / "run").code == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def edited(monkeypatch, old, new):
    """Let verify run a program that is not quite the run's."""

    def ejected(run, rung):
        program = eject(run, rung)
        assert old in program.text
        return Program(program.text.replace(old, new), program.weights)

    monkeypatch.setattr(verifying, "eject", ejected)


def test_verify_compares_every_number_of_a_run_and_finds_them_the_same(run):
    comparisons = verify(run)
    names = ("train_loss", "valid_loss", "accuracy")
    assert [each.what for each in comparisons] == [*(f"epoch {n} {name}" for n in (0, 1) for name in names), "sha256"]
    assert all(comparison.same for comparison in comparisons)
    assert len(comparisons[-1].run) == 64


def test_the_command_says_that_all_is_the_same(run):
    done = clearloop("verify", run)
    assert (done.code, done.err) == (0, "")
    *lines, last = done.out.splitlines()
    assert last == "the program and the run agree to the bit"
    assert len(lines) == 7
    assert all(line.endswith(" same") for line in lines)


def test_a_program_that_computes_something_else_is_noticed(run, monkeypatch):
    edited(monkeypatch, "seed=SEED)", "seed=SEED + 1)")  # another order of the batches
    done = clearloop("verify", run)
    assert done.code == 1
    assert "agree to the bit" not in done.out
    assert "DIFFERS: the program has " in done.out.splitlines()[0]
    assert "DIFFERS" in done.out.splitlines()[-1]


def test_a_difference_in_the_last_bit_of_one_weight_is_noticed(run, monkeypatch):
    weight = "model[1].weight[0, 0]"
    edit = f"torch.no_grad().__enter__()\n    {weight} = torch.nextafter({weight}, torch.tensor(9.0))\n    "
    edited(monkeypatch, 'print("sha256"', f'{edit}print("sha256"')
    assert [comparison.same for comparison in verify(run)] == [True] * 6 + [False]


def test_a_number_that_the_program_does_not_print_is_a_difference(run, monkeypatch):
    monkeypatch.setattr(verifying, "execute", lambda program, data: "epoch 0  train_loss 0.5\n")
    assert [comparison.program for comparison in verify(run)] == ["0.5", *["nothing"] * 6]


@pytest.mark.parametrize(
    ("program", "last_words"),
    [
        ("import clearloop", "ImportError: the ejected program must not need clearloop"),
        ("import sys; print(1, file=sys.stderr); sys.exit('no more')", "no more"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_a_program_that_fails_is_reported_with_its_last_words(tmp_path, program, last_words):
    (tmp_path / "program.py").write_text(program)
    with pytest.raises(EjectError) as caught:
        execute(tmp_path / "program.py", tmp_path)
    assert str(caught.value) == f"the ejected program failed: {last_words}"


def test_a_program_is_told_where_the_data_are(tmp_path):
    (tmp_path / "program.py").write_text("import sys; print(sys.argv[1:])")
    assert execute(tmp_path / "program.py", tmp_path) == f"['--data', '{tmp_path}']\n"


def test_an_unfinished_run_is_refused(run):
    directory = RunDirectory.open(run)
    recipe = directory.read_recipe()
    recipe["fits"][0]["last_epoch"] = 5
    directory.write_recipe(recipe)
    done = clearloop("verify", run)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: {run}: the run has not finished; `clearloop resume {run}` finishes it\n"


def test_a_run_whose_checkpoints_are_gone_is_refused_but_can_be_ejected(run):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(EjectError, match="there is no checkpoint to compare with"):
        verify(run)
    assert "def main()" in eject(run).text


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(run):
    for path in run.glob("checkpoints/*/model.safetensors"):
        path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="expected a checkpoint that verifies"):
        verify(run)


def test_data_that_are_gone_are_named(trained, run):
    moved = trained / "moved"
    (trained / "data").rename(moved)
    try:
        with pytest.raises(EjectError, match=f"no longer at {trained / 'data'}"):
            verify(run)
    finally:
        moved.rename(trained / "data")


def test_data_are_found_wherever_the_recipe_names_them(trained):
    def path(**data):
        return verifying.data_path(data)

    place = str(trained / "data")
    assert path(path="clearloop.data.loaders:DataLoaders.idx", args=[place, 32]) == trained / "data"
    assert path(path="clearloop.data.loaders:DataLoaders.idx", kwargs={"folder": place}) == trained / "data"
    assert path(path="clearloop.data.loaders:DataLoaders.npz", kwargs={"path": place}) == trained / "data"
    embedded = path(path="clearloop.data.loaders:DataLoaders.mnist", args=[64])
    assert (embedded / "train-images-idx3-ubyte.gz").exists()


def test_numbers_are_parsed_from_what_programs_print():
    text = "epoch 0  train_loss 0.5  accuracy 1.0\nsomething else\n\nepoch 10  train_loss nan\nsha256 00ff\n"
    assert parse(text) == {
        "epoch 0 train_loss": "0.5",
        "epoch 0 accuracy": "1.0",
        "epoch 10 train_loss": "nan",
        "sha256": "00ff",
    }


def test_texts_are_the_same_to_the_last_digit_or_not_at_all():
    assert Comparison("x", "0.1", "0.1").same
    assert not Comparison("x", "0.1", "0.10000000000000002").same


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--model mlp --dropout 0.1", "--model cnn --hidden 4 --threads 2"])
def test_runs_on_the_whole_of_mnist_agree(tmp_path, options):
    run = tmp_path / "run"
    assert clearloop("train", "mnist", *options.split(), "-n", "1", "-q", "--device", "cpu", "-o", run).code == 0
    assert cl.Learner.load(run).history.epochs[0].metrics["accuracy"] > 0.9
    assert all(comparison.same for comparison in verify(run))

"""Searches without Ax: the space, the book of trials, how trials are run, resumed and drawn, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import search_objectives
from clearloop.errors import ConfigError, RunError
from clearloop.rundir import RunDirectory
from clearloop.searching.jobs import InProcesses, InThisProcess
from clearloop.searching.loop import proposals, repetitions, work_off
from clearloop.searching.plots import plot_search
from clearloop.searching.search import open_book, search
from clearloop.searching.space import Choice, Integer, Range, Space, parse_space
from clearloop.searching.trials import Book, Plan, Trial, aligned, best_of, table
from cli_tools import clearloop, process, write_idx
from search_objectives import booth, curve, endless, grumpy, slow_curve, without_ax

UNIT = {"x": Range(0, 1)}
# Enough for a trial of the command line: a few hundred digits, one epoch.
QUICK = ("--model", "linear", "--epochs", "2", "--opt", "sgd", "--schedule", "constant", "--batch-size", "100")


def a_plan(space=UNIT, minimize=True, seed=0):
    return Plan(Space.of(space), "value", minimize, seed, noisy=False)


def run(book, runner, points, parallel=1, trails=lambda trial: False, wanted=None):
    """Work off the trials at `points`; what was reported, in its order."""
    waiting, reported = list(points), []
    propose = proposals(
        book, len(points) if wanted is None else wanted, lambda trials: waiting.pop(0) if waiting else None, print
    )
    work_off(book, runner, parallel, propose, trails, reported.append)
    return reported


def no_folder(trial):
    return None


# -- the space


def test_options_of_the_command_line_say_ranges_whole_numbers_and_choices():
    space = parse_space(
        ["lr=log:1e-4:1", "m=0.5:0.99", "width=int:16:256", "n=log-int:1:8", "opt=sgd,adam", "epochs=2,4", "b=-2:-1"]
    )
    assert space.parameters == {
        "lr": Range(1e-4, 1.0, log=True),
        "m": Range(0.5, 0.99),
        "width": Integer(16, 256),
        "n": Integer(1, 8, log=True),
        "opt": Choice("sgd", "adam"),
        "epochs": Choice(2, 4),
        "b": Range(-2.0, -1.0),
    }


@pytest.mark.parametrize(
    ("texts", "constraints", "said"),
    [
        (["lr=1:1"], [], "lr: the range from 1 to 1 is empty"),
        (["lr=2:1"], [], "lr: the range from 2 to 1 is empty"),
        (["lr=log:0:1"], [], "a log scale has no place for 0"),
        (["lr=log:-1:1"], [], "a log scale has no place for -1"),
        (["n=log-int:0:8"], [], "a log scale has no place for 0"),
        (["lr=0:inf"], [], "finite"),
        (["lr=nan:1"], [], "finite"),
        (["n=int:1.5:3"], [], "two whole numbers"),
        (["lr=a:b"], [], "two numbers"),
        (["lr=linear:0:1"], [], "expected LOW:HIGH"),
        (["lr=log:0.1"], [], "two numbers"),
        (["opt=sgd"], [], "two values or more"),
        (["opt=sgd,sgd"], [], "all different"),
        (["lr"], [], "NAME=LOW:HIGH"),
        (["lr="], [], "NAME=LOW:HIGH"),
        (["=1:2"], [], "NAME=LOW:HIGH"),
        (["lr=0:1", "lr=0:2"], [], "lr comes twice"),
        ([], [], "at least one parameter"),
        (["x=0:1"], ["y <= 1"], "y is no parameter"),
        (["x=0:1"], ["x < 1"], "expected a constraint"),
        (["x=0:1"], ["x * x <= 1"], "not linear"),
        (["x=0:1"], ["__import__('os') <= 1"], "not linear"),
        (["x=0:1"], ["1 <= 2"], "constrains no parameter"),
        (["x=0:1"], ["x <= -1"], "leaves nothing"),
        (["x=log:0.1:1"], ["x <= 0.5"], "log scale"),
        (["x=a,b"], ["x <= 0.5"], "x is a choice"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_one_line(texts, constraints, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")) as caught:
        parse_space(texts, constraints)
    assert "\n" not in str(caught.value)


def test_choices_are_of_one_kind():
    assert Choice(1, 2.5).values == (1.0, 2.5)
    with pytest.raises(ConfigError, match="strings"):
        Choice("a", 1)
    with pytest.raises(ConfigError, match="whole numbers"):
        Integer(1.0, 2)
    with pytest.raises(ConfigError, match="expected a Range"):
        Space.of({"x": (0, 1)})


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("x + 2 * y <= 1", (0.2, 0.4), (0.2, 0.5)),
        ("x >= 0.5 * y", (0.3, 0.6), (0.2, 0.6)),
        ("2 * (x - y) <= 0.1 - 0.3", (0.1, 0.2), (0.2, 0.2)),
        ("-x <= -0.5", (0.5, 0.0), (0.49, 0.0)),
    ],
)
def test_constraints_hold_on_their_boundary_and_nowhere_beyond(text, inside, outside):
    space = Space.of({"x": Range(0, 1), "y": Range(0, 1)}, [text])
    assert space.has(dict(zip("xy", inside, strict=True)))
    assert not space.has(dict(zip("xy", outside, strict=True)))


def test_points_of_a_small_space_can_be_walked_through():
    space = Space.of({"n": Integer(1, 3), "opt": Choice("a", "b")}, ["n <= 2"])
    assert list(space.points()) == [{"n": n, "opt": opt} for n in (1, 2) for opt in "ab"]
    assert Space.of(UNIT).points() is None
    assert Space.of({"n": Integer(1, 10**6)}).points() is None


# -- the book


def test_a_book_comes_back_from_the_disk_as_it_was(tmp_path):
    space = Space.of({"x": Range(0, 1), "n": Integer(1, 8, log=True), "o": Choice(True, False)}, ["x <= 0.7"])
    book = Book(Plan(space, "accuracy", False, 3, True, {"data": "mnist"}), tmp_path)
    book.trials = [Trial(1, {"x": 0.1, "n": 2, "o": True}, "done", [0.1 + 0.2], 1.5)]
    book.repeats = [Trial(1, {"x": 0.1, "n": 2, "o": True}, "failed", [], 0.5, "no", seed=4)]
    book.write()
    again = Book.read(tmp_path)
    assert (again.plan, again.trials, again.repeats) == (book.plan, book.trials, book.repeats)


@pytest.mark.parametrize("change", [{"format": 9}, {"trials": [{"number": "1"}]}, {"plan": {}}, {"trials": 3}])
def test_a_damaged_book_is_refused_and_named(tmp_path, change):
    book = Book(a_plan(), tmp_path)
    book.write()
    path = tmp_path / "search.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=r"search\.json is no search that can be read"):
        Book.read(tmp_path)


def test_the_best_is_the_best_observed_and_one_that_ran_to_its_end_if_there_is_one():
    done, better = Trial(1, {}, "done", [3.0, 2.0]), Trial(2, {}, "done", [1.5, 1.0])
    stopped, failed = Trial(3, {}, "stopped early", [0.5]), Trial(4, {}, "failed", [0.1])
    assert best_of([done, better, stopped, failed], minimize=True) is better
    assert best_of([done, better, stopped, failed], minimize=False) is done
    assert best_of([stopped, failed], minimize=True) is stopped
    assert best_of([failed], minimize=True) is None


def test_the_table_marks_the_best_and_shows_why_trials_failed():
    trials = [
        Trial(1, {"x": 0.123456789}, "done", [0.5], 1.25),
        Trial(2, {"x": 0.2}, "failed", [], 0.1, "the loss is nan"),
        Trial(3, {"x": 0.3}, "done", [0.4], 2.0),
    ]
    lines = aligned(table(trials, a_plan())).splitlines()
    assert lines[0].split() == ["trial", "x", "value", "epochs", "seconds", "state"]
    assert lines[1].split() == ["1", "0.1235", "0.5", "1", "1.2", "done"]
    assert lines[2].endswith("failed: the loss is nan")
    assert lines[3].startswith("3 *")


# -- running trials


@pytest.mark.parametrize("runner", [InThisProcess, InProcesses])
def test_trials_are_run_here_or_in_processes_with_the_same_values(runner):
    book = Book(a_plan(), None)
    run(book, runner(curve, 0, no_folder), [{"x": 0.5}, {"x": 0.25}], parallel=2)
    assert [trial.values for trial in book.trials] == [[1.5, 1.0, 0.5], [0.75, 0.5, 0.25]]
    assert {trial.state for trial in book.trials} == {"done"}
    assert book.best is book.trials[1]


@pytest.mark.parametrize("runner", [InThisProcess, InProcesses])
def test_a_trial_that_fails_is_kept_with_its_error_and_the_search_goes_on(runner):
    book = Book(a_plan(), None)
    run(book, runner(grumpy, 7, no_folder), [{"x": 0.9}, {"x": 0.25}])
    assert [(trial.state, trial.value) for trial in book.trials] == [("failed", None), ("done", 7.25)]
    assert book.trials[0].error == "ValueError: x is 0.9"


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "objective is nan"), ("much", "expected a number")])
def test_an_objective_that_gives_no_finite_number_fails(value, said):
    book = Book(a_plan(), None)
    run(book, InThisProcess(lambda params: value, 0, no_folder), [{"x": 0.5}])
    assert book.trials[0].state == "failed"
    assert said in book.trials[0].error


def test_a_process_must_find_the_function():
    with pytest.raises(ConfigError, match="cannot be sent to another process"):
        InProcesses(lambda params: 0.0, 0, no_folder)


def test_a_search_whose_first_trials_all_fail_ends():
    book = Book(a_plan(), None)
    with pytest.raises(ConfigError, match="all of the first 5 trials failed, the last with: ValueError"):
        run(book, InThisProcess(grumpy, 0, no_folder), [{"x": 0.9}] * 9)
    assert len(book.trials) == 5


@pytest.mark.parametrize("runner", [InThisProcess, InProcesses])
def test_a_trial_that_trails_is_stopped_and_keeps_what_it_had(runner):
    book = Book(a_plan(), None)
    run(book, runner(endless, 0, no_folder), [{"x": 0.1}], trails=lambda trial: len(trial.values) >= 2)
    (trial,) = book.trials
    assert trial.state == "stopped early"
    assert trial.value == 0.1
    assert len(trial.values) >= 2


@pytest.mark.parametrize("runner", [InThisProcess, InProcesses])
def test_an_interrupted_search_notes_what_was_cut_and_goes_on_with_it(tmp_path, runner):
    book = Book(a_plan(), tmp_path)
    points = [{"x": 0.1}, {"x": 0.2}, {"x": 0.3}]

    def interrupted(trial):
        if trial.number == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run(book, runner(slow_curve, 0, no_folder), points, trails=interrupted)
    again = Book.read(tmp_path)
    assert [trial.state for trial in again.trials] == ["done", "cut"]
    reported = run(again, runner(curve, 0, no_folder), points[2:], wanted=3)
    assert [trial.number for trial in reported] == [2, 3]  # the first is not run again
    assert [trial.value for trial in again.trials] == [0.1, 0.2, 0.3]


def test_what_runs_is_on_the_disk_before_it_begins(tmp_path):
    def objective(params):
        return float(json.loads((tmp_path / "search.json").read_text())["trials"][-1]["state"] == "running")

    book = Book(a_plan(), tmp_path)
    run(book, InThisProcess(objective, 0, no_folder), [{"x": 0.1}])
    assert book.trials[0].value == 1.0


def test_the_best_trial_is_repeated_with_seeds_that_no_trial_had():
    book = Book(a_plan(seed=5), None)
    runner = InThisProcess(grumpy, 5, no_folder)
    run(book, runner, [{"x": 0.5}, {"x": 0.25}])
    work_off(book, runner, 1, repetitions(book, 3), lambda trial: False, lambda trial: None)
    assert [(trial.number, trial.seed, trial.value) for trial in book.repeats] == [
        (2, seed, seed + 0.25) for seed in (6, 7, 8)
    ]
    work_off(book, runner, 1, repetitions(book, 4), lambda trial: False, lambda trial: None)
    assert [trial.seed for trial in book.repeats] == [6, 7, 8, 9]  # only what was missing
    assert [trial.name for trial in book.repeats][-1] == "best-0002-seed-9"


def test_a_search_in_python_goes_on_in_its_folder_and_refuses_another_plan(tmp_path):
    folder, calls = tmp_path / "found", []

    def objective(params, folder):
        calls.append(folder.name)
        return params["lr"]

    space = {"lr": Range(0.01, 1, log=True)}
    with without_ax():
        first = search(objective, space, trials=2, folder=folder, quiet=True)
        again = search(objective, space, trials=3, folder=folder, quiet=True)
    assert calls == ["trial-0001", "trial-0002", "trial-0003"]
    assert first.trials == again.trials[:2]
    assert again.params == {"lr": 0.05}
    assert (folder / "plots" / "search.png").stat().st_size > 1000
    assert (folder / "table.txt").read_text().startswith("trial")
    with pytest.raises(ConfigError, match="another minimize"), without_ax():
        search(objective, space, trials=3, folder=folder, minimize=False, quiet=True)
    with pytest.raises(ConfigError, match="another space"), without_ax():
        search(objective, {"lr": Range(0.01, 2)}, folder=folder, quiet=True)


def test_a_folder_with_other_things_in_it_is_no_place_for_a_search(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="new or empty folder"):
        open_book(a_plan(), tmp_path)


def test_two_searches_do_not_share_a_folder(tmp_path):
    book = Book(a_plan(), tmp_path)
    with book.lock(), pytest.raises(RunError, match="another process"), Book(a_plan(), tmp_path).lock():
        pass


def test_numbers_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="trials >= 1"):
        search(booth, UNIT, trials=0)
    with pytest.raises(ConfigError, match="an argument named seed"):
        search(booth, UNIT, seeds=2)


def test_without_ax_a_search_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "ax"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ax", None)
    with pytest.raises(ConfigError, match=r'pip install "clearloop\[search\]"'):
        search(booth, UNIT, trials=1)


# -- pictures


def test_the_plot_has_a_panel_for_the_progress_and_one_a_parameter(tmp_path):
    space = {"lr": Range(1e-4, 1, log=True), "width": Integer(16, 256), "opt": Choice("sgd", "adam")}
    trials = [
        Trial(1, {"lr": 1e-3, "width": 16, "opt": "sgd"}, "done", [2.0]),
        Trial(2, {"lr": 1e-2, "width": 64, "opt": "adam"}, "failed"),
        Trial(3, {"lr": 1e-1, "width": 32, "opt": "adam"}, "done", [0.01]),
        Trial(4, {"lr": 1.0, "width": 99, "opt": "sgd"}, "stopped early", [3.0]),
    ]
    figure = plot_search(trials, a_plan(space), tmp_path / "plots" / "search.png")
    progress, lr, width, opt = figure.axes
    assert progress.lines[0].get_ydata().tolist() == [2.0, 2.0, 0.01, 0.01]
    assert [axes.get_xlabel() for axes in figure.axes] == ["trial", "lr", "width", "opt"]
    assert (lr.get_xscale(), width.get_xscale()) == ("log", "linear")
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    assert [line.get_xydata().tolist() for line in lr.lines] == [[[1e-3, 2]], [[1e-2, 0]], [[0.1, 0.01]], [[1, 3]]]
    assert [label.get_text() for label in opt.get_xticklabels()] == ["sgd", "adam"]
    assert (tmp_path / "plots" / "search.png").stat().st_size > 5000


def test_there_is_nothing_to_draw_without_a_value():
    with pytest.raises(ConfigError, match="nothing to draw"):
        plot_search([Trial(1, {"x": 0.1}, "failed")], a_plan())


# -- the command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--param", "lr=log:0:1"], "lr: a log scale has no place for 0"),
        (["--param", "foo=1:2"], "foo is no parameter of clearloop train"),
        (["--param", "seed=int:1:2"], "seed is no parameter of clearloop train"),
        (["--param", "opt=sgd,adm"], "'adm' is not one of"),
        (["--param", "epochs=1:3"], "Invalid value for '--epochs'"),
        (["--param", "lr=0.1:1", "--lr", "0.3"], "--lr is given twice"),
        (["--param", "width=int:2:4", "--param", "hidden=8,16"], "--hidden is given twice"),
        (["--param", "lr=0.1:1", "--modle", "mlp"], "No such option: --modle"),
        ([], "at least one parameter"),
    ],
)
def test_the_command_refuses_in_one_line_before_anything_is_made(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = clearloop("search", "mnist", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert said in done.err
    assert not list(tmp_path.iterdir())


def test_data_that_are_not_there_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = clearloop("search", "nowhere", "--param", "lr=0.1:1")
    assert done.code == 2
    assert "nowhere: no such file or folder" in done.err
    assert not list(tmp_path.iterdir())


def test_a_search_takes_nothing_but_numbers_when_it_goes_on(tmp_path):
    Book(a_plan(), tmp_path).write()
    done = clearloop("search", tmp_path, "--param", "lr=0.1:1")
    assert (done.code, "options of its own" in done.err) == (2, True)
    done = clearloop("search", tmp_path)
    assert (done.code, "Python's search()" in done.err) == (2, True)


def searching(*arguments, **options):
    """`clearloop search` in a process of its own, without Ax."""
    return [sys.executable, search_objectives.__file__, "search", *map(str, arguments)]


def wait_for(condition, what):
    """Wait until something is there, but not for ever."""
    for _ in range(1200):
        if (found := condition()) is not None:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


@pytest.mark.slow
def test_every_trial_is_a_run_of_its_own_and_the_best_is_trained_again(tmp_path):
    data = write_idx(tmp_path / "data", samples=300, valid=100)
    done = process(
        *searching(data, "--param", "lr=0.01:1", "--trials", 1, "--seeds", 1, "--out", tmp_path / "found", *QUICK)[1:]
    )
    assert done.code == 0, done.err
    book = Book.read(tmp_path / "found")
    assert [trial.params["lr"] for trial in book.trials] == [0.05]
    for trial in book.trials:
        rows = [row for row in RunDirectory.open(book.folder_of(trial)).read_history() if row["kind"] == "epoch"]
        assert trial.values == [row["valid_loss"] for row in rows]
        assert len(rows) == 2
    assert book.repeats[0].name == f"best-{book.best.number:04d}-seed-1"
    recipes = [RunDirectory.open(book.folder_of(trial)).read_recipe() for trial in (book.best, book.repeats[0])]
    assert [recipe["seed"] for recipe in recipes] == [0, 1]
    assert f"best: trial {book.best.number}" in done.out
    assert "trained again with other seeds" in done.out


def test_a_trial_that_fails_says_why_and_is_not_repeated(tmp_path):
    data = write_idx(tmp_path / "data", samples=300, valid=100)
    arguments = (data, "--param", "lr=0.01:1", "--trials", 1, "--seeds", 0, "--out", tmp_path / "found")
    done = process(*searching(*arguments, *QUICK, "--momentum", "-1")[1:])
    assert (done.code, done.err) == (1, "")
    (trial,) = Book.read(tmp_path / "found").trials
    assert trial.state == "failed"
    assert "--momentum must be" in trial.error
    assert "no trial has a value" in done.out
    again = process(*searching(tmp_path / "found")[1:])
    assert "trial-0001:" not in again.out


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills processes the POSIX way")
@pytest.mark.parametrize("orphans", ["live on", "die too"])
def test_a_search_killed_in_the_middle_goes_on_to_the_same_bits(tmp_path, orphans):
    data = write_idx(tmp_path / "data", samples=4000, valid=100)
    options = (data, "--param", "lr=0.01:1", "--trials", 3, "--seeds", 0, *QUICK, "--epochs=6", "--every", "5")
    whole = process(*searching(*options, "--out", tmp_path / "whole")[1:])
    assert whole.code == 0, whole.err
    folder = tmp_path / "killed"
    killed = subprocess.Popen(
        searching(*options, "--out", folder), env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    second = RunDirectory(folder / "trial-0002")
    wait_for(lambda: second.checkpoints() and second.checkpoints()[-1][0] >= 10 or None, "the second trial")
    if orphans == "die too":
        os.killpg(killed.pid, signal.SIGKILL)
    killed.kill()
    killed.wait()
    before = json.loads((folder / "search.json").read_text())["trials"]
    assert [trial["state"] for trial in before] == ["done", "running"]
    first = (folder / "trial-0001" / "history.jsonl").stat().st_mtime_ns
    again = process(*searching(folder)[1:])
    assert again.code == 0, again.err
    assert (folder / "trial-0001" / "history.jsonl").stat().st_mtime_ns == first
    found, expected = Book.read(folder), Book.read(tmp_path / "whole")
    assert [(t.params, t.values, t.state) for t in found.trials] == [
        (t.params, t.values, t.state) for t in expected.trials
    ]


@pytest.mark.skipif(os.name == "nt", reason="signals the POSIX way")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_search_that_is_stopped_saves_its_trial_and_says_how_to_go_on(tmp_path, number):
    data, folder = write_idx(tmp_path / "data", samples=4000, valid=100), tmp_path / "found"
    command = searching(data, "--param", "lr=0.01:1", "--trials", 1, *QUICK, "--epochs=5000", "--out", folder)
    stopped = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    trial = RunDirectory(folder / "trial-0001")
    wait_for(lambda: trial.checkpoints() or None, "the first checkpoint")
    stopped.send_signal(number)
    out, err = stopped.communicate(timeout=100)
    assert (stopped.returncode, err) == (128 + number, "")
    assert f"go on with: clearloop search {folder}" in out
    assert not trial.is_locked()
    assert [trial.state for trial in Book.read(folder).trials] == ["cut"]


@pytest.mark.skipif(os.name == "nt", reason="kills processes the POSIX way")
def test_the_processes_of_a_killed_python_search_die_with_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from clearloop.searching.search import search\n"
        "from clearloop.searching.space import Range\n"
        "from search_objectives import slow, without_ax\n"
        "if __name__ == '__main__':\n"
        "    with without_ax():\n"
        f"        search(slow, {{'lr': Range(0.01, 1)}}, trials=2, parallel=2, folder={str(tmp_path / 'found')!r})\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    killed = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE)
    began = [tmp_path / "found" / f"trial-000{number}" / "began" for number in (1, 2)]
    wait_for(lambda: all(path.exists() for path in began) or None, "both trials")
    killed.kill()
    with killed.stdout:
        killed.stdout.read()  # ends when the last process that holds it has ended, long before their minute is over
    killed.wait()
    assert [trial.state for trial in Book.read(tmp_path / "found").trials] == ["running", "running"]

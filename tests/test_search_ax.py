"""Searches with Ax itself: what it proposes, what it stops, and that nothing is lost when a search is killed."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from clearloop.rundir import RunDirectory
from clearloop.searching.adviser import Adviser
from clearloop.searching.search import search
from clearloop.searching.space import Choice, Integer, Range, Space
from clearloop.searching.trials import Book, Plan, Trial
from cli_tools import process, write_idx
from search_objectives import booth

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ax") is None, reason="needs Ax; `make test-search` installs it"),
]
SQUARE = {"x": Range(-10, 10), "y": Range(-10, 10)}


def an_adviser(space, constraints=(), minimize=True, seed=0):
    return Adviser(Plan(Space.of(space, constraints), "value", minimize, seed, noisy=False))


def test_booths_function_comes_within_a_tenth_of_its_minimum_in_40_trials():
    found = search(booth, SQUARE, trials=40, quiet=True)
    assert len(found.trials) == 40
    assert found.best.value == min(booth(trial.params) for trial in found.trials)  # observed, not a model's guess
    assert np.hypot(found.params["x"] - 1, found.params["y"] - 3) < 0.1


def test_the_largest_value_is_found_as_well():
    found = search(lambda params: -booth(params), SQUARE, trials=15, minimize=False, quiet=True)
    assert found.best.value == max(-booth(trial.params) for trial in found.trials)
    assert found.best.value > -20


def test_a_search_that_goes_on_proposes_what_it_would_have_proposed(tmp_path):
    whole = search(booth, SQUARE, trials=9, seed=1, quiet=True)
    search(booth, SQUARE, trials=2, seed=1, folder=tmp_path, quiet=True)  # among the first points
    search(booth, SQUARE, trials=7, seed=1, folder=tmp_path, quiet=True)  # and where a model proposes
    broken = search(booth, SQUARE, trials=9, seed=1, folder=tmp_path, quiet=True)
    assert [trial.params for trial in broken.trials] == [trial.params for trial in whole.trials]
    other = search(booth, SQUARE, trials=2, seed=2, quiet=True)
    assert other.trials[1].params != whole.trials[1].params


def test_proposals_are_of_the_space_its_types_and_its_constraints():
    adviser = an_adviser(
        {"x": Range(0, 1), "y": Range(0, 1), "lr": Range(1e-4, 1, log=True), "n": Integer(1, 9), "o": Choice("a", "b")},
        ["x + y <= 0.5", "x >= 0.1"],
    )
    trials = []
    for number in range(1, 9):
        params = adviser.propose(trials)
        assert adviser.plan.space.has(params)
        assert [type(value) for value in params.values()] == [float, float, float, int, str]
        trials.append(Trial(number, params, "done", [params["x"] + params["lr"]]))
    assert min(trial.params["lr"] for trial in trials) < 0.05  # a linear scale would hardly come there


def test_every_point_of_a_small_space_is_tried_once_and_then_the_search_ends():
    adviser, trials = an_adviser({"n": Integer(1, 3), "o": Choice(True, False)}), []
    while (params := adviser.propose(trials)) is not None:
        trials.append(Trial(len(trials) + 1, params, "failed" if params["n"] == 2 else "done", [1.0 * params["n"]]))
    points = [tuple(trial.params.values()) for trial in trials]
    assert sorted(points) == [(n, o) for n in (1, 2, 3) for o in (False, True)]


def test_trials_that_run_or_failed_are_not_proposed_again():
    adviser = an_adviser(SQUARE)
    trials = [Trial(number, {}, "failed") for number in range(1, 4)] + [Trial(4, {}, "running")]
    for place, trial in enumerate(trials):
        trial.params = adviser.propose(trials[:place])
    proposed = adviser.propose(trials)
    assert proposed not in [trial.params for trial in trials]


def test_a_trial_worse_than_half_of_the_others_trails_and_a_better_one_does_not():
    adviser = an_adviser(SQUARE)
    done = [Trial(n, {"x": 0.1 * n, "y": 0.0}, "done", [4.0 + n, 2.0 + n, 1.0 + n]) for n in range(3)]
    bad = Trial(3, {"x": 9.0, "y": 9.0}, "running", [9.0])
    assert not adviser.trails(bad, [*done, bad])  # after one epoch nobody is judged
    bad.values.append(8.0)
    assert not adviser.trails(bad, [*done[:2], bad])  # nor by two others
    assert adviser.trails(bad, [*done, bad])
    good = Trial(4, {"x": -9.0, "y": 9.0}, "running", [4.0, 1.5])
    assert not adviser.trails(good, [*done, bad, good])


def test_trailing_trials_are_stopped_unless_that_is_switched_off():
    def objective(params):
        for epochs in range(1, 6):
            yield booth(params) + 1 / epochs

    found = search(objective, SQUARE, trials=8, quiet=True)
    assert {trial.state for trial in found.trials} == {"done", "stopped early"}
    assert found.best.state == "done"
    assert all(1 < len(trial.values) < 5 for trial in found.trials if trial.state == "stopped early")
    found = search(objective, SQUARE, trials=8, stop_trailing=False, quiet=True)
    assert {trial.state for trial in found.trials} == {"done"}


def test_a_question_leaves_random_states_and_warnings_as_they_were(capfd):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_default_dtype(), list(warnings.filters)
    adviser = an_adviser(SQUARE)
    trials = [Trial(n, {"x": 1.0 * n, "y": -1.0 * n}, "done", [booth({"x": n, "y": -n})]) for n in range(6)]
    adviser.propose(trials)
    after = torch.get_rng_state(), np.random.get_state()[1], torch.get_default_dtype(), list(warnings.filters)
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2:] == after[2:]
    assert capfd.readouterr() == ("", "")


def test_two_processes_search_as_well():
    found = search(booth, SQUARE, trials=6, parallel=2, quiet=True)
    assert [trial.state for trial in found.trials] == ["done"] * 6
    assert [trial.value for trial in found.trials] == [booth(trial.params) for trial in found.trials]


@pytest.mark.skipif(os.name == "nt", reason="kills processes the POSIX way")
def test_the_command_is_killed_in_the_middle_and_goes_on(tmp_path):
    data, folder = write_idx(tmp_path / "data", samples=3000, valid=500), tmp_path / "found"
    arguments = ["-m", "clearloop", "search", data, "--param", "lr=log:1e-3:1", "--param", "width=int:8:64"]
    arguments += ["--param", "opt=sgd,adam", "--trials", 4, "--parallel", 2, "--seeds", 2, "--out", folder]
    arguments += ["--model", "mlp", "--epochs", 2, "--batch-size", 50]
    command = [sys.executable, *map(str, arguments)]
    killed = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)
    for _ in range(2400):
        if (folder / "trial-0003" / "recipe.json").exists():
            break
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = Book.read(folder)
    finished = [trial for trial in before.trials if trial.state == "done"]
    assert finished
    assert any(trial.state == "running" for trial in before.trials)
    done = process("-m", "clearloop", "search", folder)
    assert (done.code, done.err) == (0, "")
    after = Book.read(folder)
    assert [after.trials[trial.number - 1] for trial in finished] == finished
    assert len(after.trials) == 4
    assert len(after.repeats) == 2
    assert {trial.state for trial in after.trials} <= {"done", "stopped early"}
    for trial in [*after.trials, *after.repeats]:
        history = RunDirectory.open(after.folder_of(trial)).read_history()
        assert trial.values == [row["valid_loss"] for row in history if row["kind"] == "epoch"]
    assert (folder / "plots" / "search.png").stat().st_size > 5000
    assert "trained again with other seeds: valid_loss" in done.out

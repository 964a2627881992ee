"""The referee of the comparisons: unequal work is refused, who falls out is a line, figures are medians.

Nothing is timed: contestants here are small programs that answer what they are told to.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import chart, comparison, contest, environments, mlp, roster
from benchmarks.contest import Case, Contestant, Line, Out, Process, Stage, Tolerance, takes_part
from benchmarks.environments import Unavailable, pins
from benchmarks.peers import ours, plain, wire
from benchmarks.peers.workloads import Batches, Order, Workload
from safetensors.torch import save_file

from clearloop import models
from clearloop.data.sampler import shuffled_order

ROOT = Path(environments.__file__).parent.parent
FAKE = """
import json, shutil, sys, time
told = json.loads(sys.argv[1])
rounds = 0
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "load":
        answer = {"torch": told["torch"], "threads": 1, "version": "1.0"}
    else:
        if told.get("dies"):
            sys.exit("no more")
        rounds += 1
        shutil.copy(told["weights"], request["weights"])
        epochs_s = [9.0, told["seconds"][(rounds - 1) % len(told["seconds"])]][: told.get("epochs", 2)]
        answer = {"epochs_s": epochs_s, "steps": told["steps"], "valid_loss": told["valid_loss"], "peak_mb": 100.0}
    if told.get("garbage"):
        print("what a library says\\n[1, 2]\\nnull")
    if told.get("says"):
        answer = told["says"]
    if not told.get("silent") or request["do"] == "load":
        print(json.dumps(answer), flush=True)
"""
HAND = Contestant("by hand", "hand", "")
OTHER = Contestant("other", "other", "")


@pytest.fixture
def work(tmp_path: Path) -> Workload:
    """A small training of both kinds of data, in its folder."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (90, 4, 5), generator=generator, dtype=torch.uint8)
    labels = torch.randint(3, (90,), generator=generator)
    floats = images.flatten(1).float().div_(255)
    paths = []
    for name, x in (("floats", floats), ("bytes", images)):
        data = {"x_train": x[:70], "y_train": labels[:70], "x_valid": x[70:], "y_valid": labels[70:]}
        paths.append(comparison.write_data(tmp_path / name, data))
    small = Workload("small", "mlp", (20, 8, 3), "cross_entropy", "SGD", 0.1, 16, 2, 1, *paths, valid_batch_size=8)
    return small.write(tmp_path / "work", [shuffled_order(70, 0, epoch) for epoch in range(2)])


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, Path]:
    """Files of last weights: some, the same with another last bit, others."""
    found = {"some": torch.ones(3), "near": torch.ones(3).nextafter(torch.full((3,), 2.0)), "far": torch.ones(3) + 0.1}
    for name, tensor in found.items():
        save_file({"weight": tensor}, tmp_path / name)
    save_file({"bias": torch.ones(3)}, tmp_path / "renamed")
    return {name: tmp_path / name for name in (*found, "renamed")}


def fake(weights: Path, **told: Any) -> dict[str, Any]:
    """What a contestant is told to answer."""
    version = str(torch.__version__)
    return {"weights": str(weights), "steps": 10, "valid_loss": 0.5, "seconds": [1.0], "torch": version, **told}


def run(work: Workload, told: dict[str, dict[str, Any]], *contestants: Contestant) -> Case:
    """A contest between fakes, told by name what to do."""

    def start(contestant: Contestant, environ: dict[str, str]) -> Process:
        return Process([sys.executable, "-S", "-c", FAKE, json.dumps(told[contestant.name])], environ)

    with Stage(contestants, 1, Path(work.folder), start) as stage:
        return stage.run(work, Tolerance(weights=1e-4, loss=1e-3), samples=90)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"steps": 11}, "11 steps, where by hand took 10"),
        ({"valid_loss": 0.51}, "validation loss 0.510000, where by hand has 0.500000"),
        ({"valid_loss": float("nan")}, "validation loss nan"),
        ({"epochs": 1}, "1 epochs, where 2 are asked for"),
    ],
)
def test_a_contestant_that_did_other_work_is_refused(
    work: Workload, weights: dict[str, Path], changed: dict[str, Any], reason: str
) -> None:
    told = {"by hand": fake(weights["some"]), "other": fake(weights["some"], **changed)}
    case = run(work, told, HAND, OTHER)
    assert list(case.lines) == ["by hand"]
    assert "refused" in case.out["other"]
    assert reason in case.out["other"]


def test_a_contestant_that_ends_in_other_weights_is_refused(work: Workload, weights: dict[str, Path]) -> None:
    others = [Contestant(name, name, "") for name in weights]
    told = {"by hand": fake(weights["some"]), **{name: fake(path) for name, path in weights.items()}}
    case = run(work, told, HAND, *others)
    assert list(case.lines) == ["by hand", "some", "near"]
    assert case.lines["near"].weights_gap == pytest.approx(2**-23)
    assert "weights 0.1 off those of by hand; 0.0001 is allowed" in case.out["far"]
    assert "weights nan off" in case.out["renamed"]


def test_a_contestant_that_promises_the_same_bits_is_held_to_them(work: Workload, weights: dict[str, Path]) -> None:
    exact = dataclasses.replace(OTHER, exact=True)
    case = run(work, {"by hand": fake(weights["some"]), "other": fake(weights["near"])}, HAND, exact)
    assert "0 is allowed" in case.out["other"]
    case = run(work, {"by hand": fake(weights["some"]), "other": fake(weights["some"])}, HAND, exact)
    assert not case.out


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"dies": True}, "it ended with status 1: no more"),
        ({"says": {"error": "ValueError: a long\nstory"}}, "ValueError: a long"),
        ({"says": {"skip": "no such engine"}}, "no such engine"),
        ({"torch": "2.0.1"}, "torch 2.0.1 and 1 threads where"),
    ],
)
def test_a_contestant_that_fails_is_a_line_and_the_others_go_on(
    work: Workload, weights: dict[str, Path], changed: dict[str, Any], reason: str
) -> None:
    told = {name: fake(weights["some"]) for name in ("by hand", "last")}
    told["other"] = fake(weights["some"], **changed)
    case = run(work, told, HAND, OTHER, Contestant("last", "last", ""))
    assert list(case.lines) == ["by hand", "last"]
    assert reason in case.out["other"]
    assert "\n" not in case.out["other"]
    assert any("left out: other: " in line for line in comparison.table(case, Tolerance(None, 1e-3)))


def test_what_libraries_print_is_passed_over(work: Workload, weights: dict[str, Path]) -> None:
    told = {"by hand": fake(weights["some"]), "other": fake(weights["some"], garbage=True)}
    assert not run(work, told, HAND, OTHER).out


def test_a_contestant_that_prints_nothing_but_garbage_is_out_in_time(work: Workload, weights: dict[str, Path]) -> None:
    process = Process(
        [sys.executable, "-S", "-c", FAKE, json.dumps(fake(weights["some"], garbage=True, silent=True))], {}
    )
    process.ask(do="load", folder=work.folder)
    with pytest.raises(Out, match="did not answer in time"):
        process.ask(0.2, do="round", weights=str(Path(work.folder, "end")))
    process.close()
    assert process.popen.poll() is not None


def test_nothing_is_compared_when_the_first_contestant_fails(work: Workload, weights: dict[str, Path]) -> None:
    told = {"by hand": fake(weights["some"], dies=True), "other": fake(weights["some"])}
    with pytest.raises(Out, match="by hand, by which all others are judged: it ended"):
        run(work, told, HAND, OTHER)


def test_seconds_are_medians_and_ratios_are_medians_within_rounds(work: Workload, weights: dict[str, Path]) -> None:
    hand = dataclasses.replace(HAND, share_s=6.0)
    other = dataclasses.replace(OTHER, share_s=6.0)
    told = {
        "by hand": fake(weights["some"], seconds=[1.0, 10.0, 3.0, 5.0]),
        "other": fake(weights["some"], seconds=[1.0, 30.0, 7.5, 20.0]),
    }
    case = run(work, told, hand, other)
    assert case.lines["by hand"].times == {0: 1.0, 1: 10.0, 2: 3.0, 3: 5.0}
    assert case.lines["by hand"].seconds == 4.0
    assert case.lines["other"].seconds == 13.75
    assert case.ratio("other", "by hand") == 2.75  # of 1, 3, 2.5, 4
    assert case.ratio("other", "nobody") is None
    row = comparison.row(case, case.lines["other"])
    assert row.split() == ["other", "13.7500", "2.75", "7", "100", "9.000", "4", "same", "bits"]


@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_who_takes_part_in_few_rounds_takes_part_in_rounds_far_apart(most: int) -> None:
    for rounds in range(1, most + 1):
        numbers = [number for number in range(1, most + 1) if takes_part(rounds, number, most)]
        assert len(numbers) == rounds
        steps = [later - earlier for earlier, later in zip([0, *numbers], numbers, strict=False)]
        assert max(steps) - min(steps) <= 1


def test_compiling_is_timed_cold_and_from_the_cache_and_counted_in_no_epoch(
    work: Workload, weights: dict[str, Path]
) -> None:
    compiles = dataclasses.replace(OTHER, compiles=True)
    case = run(work, {"by hand": fake(weights["some"]), "other": fake(weights["some"])}, HAND, compiles)
    line = case.lines["other"]
    assert (line.cold_s, line.warm_s) == (8.0, 8.0)  # the fakes' first epoch takes 9 s, each later one 1 s
    assert set(line.times.values()) == {1.0}
    assert "other: compiling takes 8.0 s cold, 8.0 s from the cache" in comparison.table(case, Tolerance(None, 1.0))


def test_what_a_trainer_prints_does_not_reach_the_wire(work: Workload) -> None:
    program = """
import os, sys
from benchmarks.peers.wire import Skip, serve
def noisy(work, clock):
    print("noise")
    os.write(1, b"noise")
    raise Skip("read " + repr(sys.stdin.read()))
serve({"noisy": noisy}, "1.0")
"""
    process = Process([sys.executable, "-c", program, "noisy"], {})
    process.ask(do="load", folder=work.folder)
    with pytest.raises(Out, match="read ''"):
        process.ask(do="round", weights="")
    process.errors.seek(0)
    assert process.errors.read().count("noise") == 2
    process.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What loading a workload changes is put back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_our_default_path_and_both_plain_loops_end_in_the_same_bits(work: Workload, one_thread: None) -> None:
    found = {
        train: train(work, wire.Clock())
        for train in (plain.by_hand, plain.by_hand_bytes, plain.with_torch_loader, ours.default, ours.default_bytes)
    }
    expected = found[plain.by_hand]
    for result in found.values():
        assert result.steps == 2 * 5
        assert result.valid_loss == pytest.approx(expected.valid_loss, rel=1e-6)
        assert result.accuracy == pytest.approx(expected.accuracy)
        assert contest.gap(result.weights, expected.weights) == 0
    assert contest.gap(work.model().state_dict(), expected.weights) > 0


def test_a_process_answers_with_epochs_steps_loss_and_weights(work: Workload, one_thread: None, tmp_path: Path) -> None:
    process = wire.Process(plain.by_hand, "1.0")
    assert process.answer({"do": "load", "folder": work.folder})["threads"] == 1
    answer = process.answer({"do": "round", "weights": str(tmp_path / "end")})
    assert (len(answer["epochs_s"]), answer["steps"]) == (2, 10)
    assert min(answer["epochs_s"]) > 0
    process = wire.Process(plain.floor, "1.0")
    process.answer({"do": "load", "folder": work.folder})
    assert "steps" not in process.answer({"do": "round", "weights": str(tmp_path / "end")})


def test_orders_go_from_epoch_to_epoch_and_nobody_moves_them_by_asking_for_an_iterator() -> None:
    orders = [torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])]
    batches, sampler = Batches(torch.arange(3), torch.arange(3), 2, orders), Order(orders)
    iter(batches), iter(sampler)
    assert [x.tolist() for x, _ in batches] == [[2, 0], [1]]
    assert [x.tolist() for x, _ in batches] == [[1, 2], [0]]
    assert [list(sampler), list(sampler), list(sampler)] == [[2, 0, 1], [1, 2, 0], [2, 0, 1]]


def test_the_nets_of_the_comparisons_are_those_of_the_library() -> None:
    with torch.device("meta"):
        pairs = {
            "cnn": (("cnn", (16, 32, 64)), models.cnn()),
            "resnet18": (("resnet18", (10,)), models.resnet18(classes=10)),
            "mlp": (("mlp", (784, 50, 10)), models.mlp(784, 50, 10)),
        }
        for (net, widths), model in pairs.values():
            plain_net = Workload("", net, widths, "", "", 0.0, 1, 1, 1, "").net_of_any_weights()
            assert sorted(shapes(plain_net)) == sorted(shapes(model))


def shapes(model: torch.nn.Module) -> list[tuple[int, ...]]:
    """Of all parameters and buffers."""
    return [tuple(tensor.shape) for tensor in model.state_dict().values()]


def test_requirements_of_all_peers_are_exact_and_have_our_torch() -> None:
    torch_pin = pins((ROOT / "constraints.txt").read_text())["torch"]
    scripts = set(roster.PEERS.values())
    assert {path.stem for path in environments.REQUIREMENTS.glob("*.txt")} == scripts
    for script in scripts:
        assert (environments.REQUIREMENTS / f"{script}.py").exists()
        assert pins((environments.REQUIREMENTS / f"{script}.txt").read_text())["torch"] == torch_pin
    with pytest.raises(ValueError, match="torch>=2"):
        pins("torch>=2\n")


def test_an_environment_is_made_once_and_again_when_its_requirements_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "envs")
    monkeypatch.setattr(
        environments, "make", lambda folder, *_: (folder.mkdir(parents=True, exist_ok=True), made.append(1))
    )
    (tmp_path / "peer.txt").write_text("torch==1.0\n")
    assert environments.python_of("peer") == tmp_path / "envs/peer/bin/python"
    environments.python_of("peer")
    assert len(made) == 1
    (tmp_path / "peer.txt").write_text("torch==1.1\n")
    environments.python_of("peer")
    assert len(made) == 2


def test_an_environment_that_cannot_be_made_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(command: list[str], **options: Any) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="trying\nERROR: nothing to be had\nmore\n")

    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(environments.subprocess, "run", no_network)
    with pytest.raises(Unavailable, match="ERROR: nothing to be had"):
        environments.python_of("skorch")
    with pytest.raises(Out, match="nothing to be had"):
        contest.start_script(Contestant("skorch", "skorch", "documented", environment="skorch"), {})
    assert not (tmp_path / "skorch" / environments.STAMP).exists()


def case_of(batch_size: int, seconds: dict[str, float], work: Workload) -> Case:
    """A case with one round."""
    case = Case(dataclasses.replace(work, batch_size=batch_size), samples=60_000)
    for name, value in seconds.items():
        case.lines[name] = Line(Contestant(name, "", ""), "1.0", 2 * value, {0: value})
    return case


def test_targets_stand_beside_what_was_measured(work: Workload) -> None:
    names = {"by hand": 1.0, "clearloop": 1.04, "torch DataLoader": 2.0, "Keras": 8.0, "skorch": 1.9}
    fast = {"clearloop, 8 steps a call": 0.5, "floor: the large products": 0.4}
    lines = mlp.targets([case_of(64, names | fast, work), case_of(512, names, work)])
    found = {line[:58].strip(): line[58:].split() for line in lines[2:]}
    assert found["fast / floor, batch 64"] == ["at", "most", "1.35", "1.250", "met"]
    assert found["best peer / fast, batch 64"] == ["at", "least", "4", "3.800", "missed"]
    assert found["Keras / fast, batch 64"] == ["at", "least", "7", "16.000", "met"]
    assert found["fastai / fast, batch 64"] == ["at", "least", "7", "-"]


def test_the_chart_is_drawn_from_the_figures_that_were_kept(
    work: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "RESULTS", tmp_path / "results")
    cases = [case_of(64, {"by hand": 1.0, "clearloop": 1.0, "Keras": 8.0}, work), case_of(512, {"by hand": 0.5}, work)]
    cases[1].out["Keras"] = "it ended"
    path = comparison.keep(cases, "mlp")
    kept = json.loads(path.read_text())
    assert [line["name"] for line in kept[0]["lines"]] == ["by hand", "clearloop", "Keras"]
    assert kept[1]["out"]["Keras"] == "it ended"
    assert os.fspath(tmp_path) not in path.read_text()
    chart.draw(path, path.with_suffix(".png"))
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

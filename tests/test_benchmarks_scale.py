"""Benchmarks of scale and of time to accuracy: what they compute and compare; nothing is timed here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from benchmarks import scale, time_to_accuracy

SMALL = time_to_accuracy.Recipe(0.5, ((2, 5, 4), (3, 3, 2)), batch_size=16, epochs=2, lr_max=0.01, smoothing=0.1)


@pytest.fixture
def data():
    """Images and labels, 70 of each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (70, 28, 28), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (70,), generator=generator)


@pytest.fixture
def threads():
    """torch's number of threads, as it was afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of 20, 60 and 200 rows."""
    monkeypatch.setattr(scale, "BASE", 20)
    monkeypatch.setattr(scale, "FACTORS", (1, 3, 10))
    scale.write_rows(tmp_path)
    return tmp_path


@pytest.fixture
def results():
    """Made-up figures of all three measurements."""
    one = {"rows": 0, "seconds": 0.0, "resident": 0.0, "private": 0.0}
    rows = {
        form: [
            {**one, "rows": n, "seconds": n / 1e5, "resident": n / 1e3, "private": 2.0} for n in (5000, 50000, 500000)
        ]
        for form in scale.FORMS
    }
    batches = [{"batch": n, "seconds": 1 / n, "samples_per_s": n * 1000.0} for n in (16, 32)]
    processes = [
        {"model": name, "processes": n, "threads": threads, "seconds": 2 / n, "samples_per_s": n * 100.0}
        for name in ("784-50-10", "cnn")
        for n, threads in ((1, 1), (2, 1), (1, 2))
    ]
    return rows, batches, processes


def test_fits_find_the_laws_that_made_the_figures():
    sizes = [10.0, 100.0, 1000.0]
    assert scale.exponent(sizes, [3 * size**0.7 for size in sizes]) == pytest.approx(0.7)
    assert scale.bytes_a_row(sizes, [5 + size * 792e-6 for size in sizes]) == pytest.approx(792)
    assert scale.step_cost(sizes, [50e-6 + 2e-6 * size for size in sizes]) == pytest.approx((50, 2))


def test_larger_files_repeat_the_rows_of_the_smallest(folder):
    base, large = np.load(folder / "x1.npy"), np.load(folder / "x10.npy")
    assert base.dtype == np.uint8
    assert large.shape == (200, 28, 28)
    assert all((large[start : start + 20] == base).all() for start in range(0, 200, 20))
    assert len(np.load(folder / "y10.npy")) == 200


def test_held_and_mapped_rows_make_the_same_batches(folder):
    held, mapped = (scale.stored(folder, 10, form, 32) for form in scale.FORMS)
    pairs = list(zip(held, mapped, strict=True))
    assert len(pairs) == 7
    for (inputs, targets), (other_inputs, other_targets) in pairs:
        assert torch.equal(inputs, other_inputs)
        assert torch.equal(targets, other_targets)


def test_every_batch_size_sees_all_rows(folder, monkeypatch):
    monkeypatch.setattr(scale, "BATCHES", (32, 200))
    found = scale.measure_batches(folder)
    assert [one["batch"] for one in found] == [32, 200]
    assert all(one["samples_per_s"] * one["seconds"] == pytest.approx(200) for one in found)


def test_memory_is_watched_in_the_first_epoch_alone():
    watch = scale.Watch()
    loader = torch.utils.data.TensorDataset(torch.zeros(8, 784), torch.zeros(8).long())
    learn = scale.learner(scale.DataLoader(loader, 4), cbs=(watch,))
    learn.fit(1, quiet=True)
    assert watch.most > 1
    watch.most = 0.0
    learn.fit(1, quiet=True)
    assert watch.most == 0


def test_the_picture_has_a_label_on_every_axis_and_the_tables_name_their_units(results, tmp_path, capsys):
    figure = scale.draw(*results, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 10_000
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "seconds an epoch",
        "thousand samples a second",
        "times as fast as one process",
        "MB above the start",
    ]
    rows, batches, processes = results
    scale.print_rows(rows)
    scale.print_batches(batches)
    scale.print_processes(processes)
    printed = capsys.readouterr().out
    for words in (
        "time grows as rows to the power 1.000",
        "memory grows by 1000 bytes a row resident, 0 private",
        "from 50,000 to 500,000 rows: +450.0 MB resident, +0.0 private",
        "to the power -1.00 (ideal: -1)",
    ):
        assert words in printed


def test_all_contestants_end_in_the_same_weights(data, threads, capsys, monkeypatch):
    monkeypatch.setattr(time_to_accuracy, "has_compiled_engine", lambda: False)
    time_to_accuracy.compare(SMALL, data, data, range(2))
    printed = capsys.readouterr().out
    assert "compiled engine: not in this version" in printed
    assert "of 2 seeds reach 0.5" in printed
    assert printed.count("of by hand") == 3


def test_a_compiled_engine_is_a_fourth_contestant_with_an_accuracy_of_its_own(data, threads, capsys, monkeypatch):
    default = time_to_accuracy.learner
    monkeypatch.setattr(time_to_accuracy, "learner", lambda *parts, fast="off": default(*parts))
    monkeypatch.setattr(time_to_accuracy, "has_compiled_engine", lambda: True)
    monkeypatch.setattr(time_to_accuracy, "SLOW", float("inf"))
    time_to_accuracy.compare(SMALL, data, data, range(2))
    printed = capsys.readouterr().out
    assert printed.count("of by hand") == 4
    assert "test accuracy, compiled engine" in printed


def test_unequal_work_is_refused(data, threads, monkeypatch):
    monkeypatch.setattr(time_to_accuracy, "has_compiled_engine", lambda: False)
    other = dataclasses.replace(SMALL, lr_max=0.011)
    honest = time_to_accuracy.by_hand
    monkeypatch.setattr(time_to_accuracy, "by_hand", lambda recipe, *rest: honest(other, *rest))
    with pytest.raises(AssertionError, match="must end in the weights of the others"):
        time_to_accuracy.compare(SMALL, data, data, range(1))


def test_nine_of_ten_seeds_must_reach_the_target():
    assert "TOO FEW" not in time_to_accuracy.reached([0.991] * 9 + [0.989], 0.99)
    assert "TOO FEW" in time_to_accuracy.reached([0.991] * 8 + [0.989] * 2, 0.99)

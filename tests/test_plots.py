"""Plots: the axes and lines that are there, files, and histories of odd kinds."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

import clearloop as cl
from clearloop.history import EpochRecord, History
from clearloop.plots import DRAWN_POINTS, plot_loss, plot_lr_find, smoothed, thinned

NAN, INF = math.nan, math.inf


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_history(
    losses: Sequence[float], steps_per_epoch: int = 0, valid: Sequence[float | None] = (), lr: float = 0.1
) -> History:
    """A history of `losses`, with an epoch for each value of `valid`."""
    history = History(losses=list(losses), lrs=[lr] * len(losses), counts=[64] * len(losses))
    for epoch, valid_loss in enumerate(valid):
        part = losses[epoch * steps_per_epoch : (epoch + 1) * steps_per_epoch]
        steps = (epoch + 1) * steps_per_epoch
        history.epochs.append(EpochRecord(epoch, sum(part) / len(part), valid_loss, {}, lr, steps, 1.0))
    return history


def line(axes: Axes, label: str) -> Line2D:
    [found] = [line for line in axes.get_lines() if line.get_label() == label]
    return found


def labels(axes: Axes) -> list[Any]:
    return [line.get_label() for line in axes.get_lines()]


FALLING = [2.0 * 0.99**step + 0.05 * (step % 3) for step in range(300)]


# -- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_is_drawn_on_two_scales_with_the_learning_rate_on_an_axis_of_its_own() -> None:
    figure = plot_loss(make_history(FALLING, 100, [1.0, 0.5, 0.3]))
    linear, log, twin = figure.axes
    assert (linear.get_yscale(), log.get_yscale()) == ("linear", "log")
    assert linear.get_shared_x_axes().joined(linear, twin)
    assert twin.get_ylabel() == "learning rate"
    assert line(twin, "learning rate").get_ydata() == pytest.approx([0.1] * 300)
    for axes in (linear, log):
        assert axes.get_xlabel() == "step"
        assert axes.get_ylabel() == "loss"
        assert line(axes, "training, each step").get_xdata() == pytest.approx(range(1, 301))
        assert line(axes, "training, each step").get_ydata() == pytest.approx(FALLING)


def test_epochs_are_marked_at_the_step_where_they_ended() -> None:
    history = make_history(FALLING, 100, [1.0, None, 0.3])
    linear = plot_loss(history).axes[0]
    train, valid = line(linear, "training, mean of the epoch"), line(linear, "validation")
    assert list(train.get_xdata()) == [100, 200, 300]  # type: ignore[call-overload]
    assert train.get_ydata() == pytest.approx([record.train_loss for record in history.epochs])
    assert list(valid.get_xdata()) == [100, 300]  # type: ignore[call-overload]
    assert list(valid.get_ydata()) == [1.0, 0.3]  # type: ignore[call-overload]


@pytest.mark.parametrize(("epochs", "named"), [(1, ["epoch 0"]), (3, ["epoch 0", "1", "2"]), (15, None)])
def test_few_epochs_are_named_on_top(epochs: int, named: list[str] | None) -> None:
    figure = plot_loss(make_history(FALLING, 300 // epochs, [1.0] * epochs))
    figure.draw_without_rendering()
    tops = figure.axes[0].child_axes
    if named is None:
        assert not tops
    else:
        assert [text.get_text() for text in tops[0].get_xticklabels(minor=True)] == named


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures_are_written_in_the_format_of_the_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "plots" / f"loss.{suffix}"
    plot_loss(make_history(FALLING, 100, [1.0, 0.5, 0.3]), path)
    assert path.read_bytes().lstrip()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")
    if suffix == "png":
        with Image.open(path) as picture:
            assert picture.size == (1650, 630)
            assert len(picture.convert("RGB").getcolors(2**20)) > 50


def test_a_notebook_can_show_the_figure_without_pyplot(monkeypatch: Any) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    figure = plot_loss(make_history(FALLING))
    assert isinstance(figure.canvas, FigureCanvasAgg)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert "matplotlib.pyplot" not in sys.modules


def test_the_legend_covers_no_data() -> None:
    figure = plot_loss(make_history(FALLING, 100, [1.0, 0.5, 0.3]))
    figure.draw_without_rendering()
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "training, each step",
        "training, smoothed",
        "training, mean of the epoch",
        "validation",
        "learning rate",
    ]
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


ODD = {
    "one step": make_history([2.3]),
    "one step, one epoch": make_history([2.3], 1, [2.2]),
    "a few steps": make_history([2.3, 2.2, 2.1, 2.4], 2, [2.2, 2.1]),
    "epochs without steps": History(epochs=make_history(FALLING, 100, [1.0, 0.5]).epochs),
    "no validation": make_history(FALLING, 100, [None, None]),
    "an interrupted epoch": make_history(FALLING, 80, [1.0, 0.5]),
    "all the same": make_history([1.0] * 50, 25, [1.0, 1.0]),
    "all zero": make_history([0.0] * 50, 25, [0.0, 0.0]),
    "some zero": make_history([1.0, 0.5, 0.0] * 20, 20, [0.0, 0.1]),
    "all negative": make_history([-value for value in FALLING], 100, [-1.0, -2.0]),
    "both signs": make_history([value - 0.5 for value in FALLING], 100, [0.5, -0.2]),
    "validation not finite": make_history(FALLING, 100, [NAN, INF, 1.0]),
    "validation never finite": make_history(FALLING, 100, [NAN, INF]),
    "training not finite": make_history([*FALLING, NAN, INF], 100, [1.0]),
    "nothing finite": make_history([NAN] * 20, 10, [NAN, INF]),
    "very large": make_history([*FALLING, 1e30], 100, [1e300]),
    "learning rate 0": make_history(FALLING, lr=0.0),
    "weights of 0": History(losses=FALLING, lrs=[0.1] * 300, counts=[0.0] * 300),
    "weights as tensors": History(losses=FALLING, lrs=[0.1] * 300, counts=[torch.tensor(2.0)] * 300),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_histories_are_drawn(tmp_path: Path, name: str) -> None:
    path = tmp_path / "loss.png"
    figure = plot_loss(ODD[name], path)  # any warning is an error here
    assert len(figure.axes) == 3
    assert path.stat().st_size > 10_000


def test_an_empty_history_is_refused() -> None:
    with pytest.raises(cl.ConfigError, match=r"at least one step.*call fit first"):
        plot_loss(History())


def test_one_step_is_a_visible_point() -> None:
    linear, _, twin = plot_loss(make_history([2.3])).axes
    assert line(linear, "training, each step").get_marker() == "."
    assert line(twin, "learning rate").get_marker() == "."


def notes(figure: Figure) -> list[str]:
    return [axes.get_title(loc="right") for axes in figure.axes[:2]]


def test_what_is_not_finite_is_left_out_and_counted() -> None:
    figure = plot_loss(make_history([*FALLING, NAN], 100, [1.0, INF, 0.5]))
    assert notes(figure) == ["2 not finite, left out"] * 2
    assert np.isnan(line(figure.axes[0], "validation").get_ydata()).tolist() == [False, True, False]
    assert notes(plot_loss(make_history(FALLING, 100, [1.0, 0.9, 0.5]))) == ["", ""]


def test_a_blow_up_does_not_flatten_the_linear_panel() -> None:
    figure = plot_loss(make_history([*FALLING, 1e3, 1e6]))
    assert figure.axes[0].get_ylim() == pytest.approx((0, 2 * max(FALLING[:10])))
    assert figure.axes[1].get_ylim()[1] > 1e6
    assert notes(figure) == ["2 above the panel", ""]


def test_zeros_are_left_out_of_the_logarithmic_panel_and_counted() -> None:
    figure = plot_loss(make_history([1.0, 0.1, 0.0] * 10))
    assert notes(figure) == ["", "10 of exactly 0, left out"]
    assert figure.axes[1].get_yscale() == "log"
    with np.errstate(divide="ignore"):
        assert not np.isfinite(
            figure.axes[1].yaxis.get_transform().transform(np.array([0.0]))
        ).any()  # not at the bottom


def test_negative_losses_get_a_symmetric_scale() -> None:
    figure = plot_loss(make_history([value - 0.5 for value in FALLING]))
    assert figure.axes[1].get_yscale() == "symlog"
    assert notes(figure) == ["", "symmetric about 0"]


def test_a_lost_run_is_drawn_and_its_losses_stay_to_be_looked_at() -> None:
    history = History()
    history.add_steps([torch.tensor(value) for value in (2.0, 1.0, NAN)], [0.1] * 3, [64] * 3)
    figure = plot_loss(history)
    assert notes(figure)[0] == "1 not finite, left out"
    assert len(history.pending) == 3
    with pytest.raises(cl.NonFiniteError):
        history.look()


def test_many_steps_make_a_small_file_that_keeps_every_spike(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    losses = (2 * np.exp(-np.arange(100_000) / 1e4) + generator.uniform(0.1, 0.2, 100_000)).tolist()
    losses[77_777], losses[55_555] = 5.0, 0.01
    figure = plot_loss(make_history(losses), tmp_path / "loss.svg")
    drawn = line(figure.axes[0], "training, each step")
    assert len(drawn.get_xdata()) <= DRAWN_POINTS  # type: ignore[arg-type]
    points = dict(zip(drawn.get_xdata(), drawn.get_ydata(), strict=True))  # type: ignore[arg-type]
    assert (points[77_778], points[55_556]) == (5.0, 0.01)
    assert (tmp_path / "loss.svg").stat().st_size < 500_000


def test_thinned_lines_keep_gaps() -> None:
    values = np.arange(1000.0)
    values[500] = NAN
    steps, kept = thinned(np.arange(1000.0), values, 20)
    assert len(kept) <= 21
    assert steps[np.isnan(kept)].tolist() == [500.0]
    assert (np.diff(steps) > 0).all()


def test_the_smoothed_line_is_a_mean_over_samples() -> None:
    steps = np.arange(1.0, 61.0)
    losses, counts = np.tile([1.0, 3.0], 30), np.tile([3.0, 1.0], 30)
    at, values = smoothed(steps, losses, counts)
    assert at[0] == 1
    assert values[0] == 1.0  # the first loss itself: a steep fall is not flattened
    middle = int(np.flatnonzero(at == 30)[0])
    assert values[middle] == pytest.approx((3 * 1.0 * 2 + 1 * 3.0 * 3) / (3 * 2 + 1 * 3))  # steps 28 to 32


def test_few_steps_are_not_smoothed() -> None:
    assert "training, smoothed" not in labels(plot_loss(make_history(FALLING[:9])).axes[0])
    assert "training, smoothed" in labels(plot_loss(make_history(FALLING[:10])).axes[0])


def test_a_learner_draws_its_run(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = cl.TensorDataset(torch.randn(64, 3, generator=generator), torch.randint(0, 2, (64,), generator=generator))
    learn = cl.Learner((cl.DataLoader(data, 4), cl.DataLoader(data, 64)), torch.nn.Linear(3, 2), seed=0)
    learn.fit_one_cycle(2, 0.1, quiet=True)
    figure = learn.plot_loss(tmp_path / "loss.png")
    assert line(figure.axes[2], "learning rate").get_ydata() == pytest.approx(learn.history.lrs)
    assert line(figure.axes[0], "training, each step").get_ydata() == pytest.approx(learn.history.losses)
    assert (tmp_path / "loss.png").exists()


# -- the range test --------------------------------------------------------------------------------------------------

RATES = [10 ** (-6 + 7 * step / 99) for step in range(100)]


def range_test_losses() -> list[float]:
    return [
        2.3 - 1.5 * math.exp(-((math.log10(lr) + 1) ** 2)) + (math.exp(20 * (lr - 0.5)) if lr > 0.5 else 0)
        for lr in RATES
    ]


def test_the_range_test_shows_the_suggestion_and_not_the_blow_up(tmp_path: Path) -> None:
    losses = range_test_losses()
    assert max(losses) > 1e6
    figure = plot_lr_find(RATES, losses, 0.03, tmp_path / "lr.png")
    [axes] = figure.axes
    low, high = axes.get_ylim()
    assert low < min(losses) < 2.3 < high < 4
    assert axes.get_xscale() == "log"
    [mark] = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert list(mark.get_xdata()) == [0.03]  # type: ignore[call-overload]
    assert mark.get_ydata() == pytest.approx([np.interp(0.03, RATES, losses)], abs=0.01)
    assert figure.legends[0].get_texts()[0].get_text() == "suggestion: 0.03"
    assert (tmp_path / "lr.png").stat().st_size > 10_000


@pytest.mark.parametrize("losses", [[1.0, NAN], [NAN, INF], [1.0, 1.0], [0.0, 0.0], [-1.0, -2.0], [1.0, 1e30]], ids=str)
def test_odd_range_tests_are_drawn(tmp_path: Path, losses: list[float]) -> None:
    plot_lr_find([1e-3, 1e-2], losses, 1e-3, tmp_path / "lr.png")
    assert (tmp_path / "lr.png").stat().st_size > 5_000


@pytest.mark.parametrize(("lrs", "losses"), [([], []), ([0.1, 0.2], [1.0])], ids=["nothing", "unequal"])
def test_a_range_test_needs_a_loss_for_each_learning_rate(lrs: list[float], losses: list[float]) -> None:
    with pytest.raises(cl.ConfigError, match="expected a loss for each learning rate"):
        plot_lr_find(lrs, losses, 0.1)

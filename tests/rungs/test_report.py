"""What a loop says of an epoch: a line, and the numbers in it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearloop.metrics import accuracy, mae
from clearloop.rungs.report import report
from clearloop.verify import parse

STEPS = st.lists(st.tuples(st.floats(0, 100, width=32), st.integers(1, 512)), min_size=1, max_size=20)


def test_the_line_has_every_number_to_its_last_digit(capsys: pytest.CaptureFixture[str]) -> None:
    row = report(3, [(torch.tensor(0.1), 2), (torch.tensor(0.4), 1)], [1 / 3, 0.25, 2e-7], [accuracy, mae])
    assert row[1:] == [1 / 3, 0.25, 2e-7]
    line = capsys.readouterr().out
    assert line == f"epoch 3  train_loss {row[0]!r}  valid_loss {1 / 3!r}  accuracy 0.25  mae 2e-07\n"
    assert [float(value) for value in parse(line).values()] == row


@given(STEPS)
def test_the_training_loss_is_a_mean_over_samples(steps: list[tuple[float, int]]) -> None:
    mean, _ = report(0, [(torch.tensor(loss), count) for loss, count in steps], [0.0], [])
    total = sum(count for _, count in steps)
    assert mean == pytest.approx(sum(loss * count for loss, count in steps) / total, rel=1e-12)


def test_a_loss_that_is_lost_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    report(0, [(torch.tensor(torch.nan), 1)], [float("inf")], [])
    assert capsys.readouterr().out == "epoch 0  train_loss nan  valid_loss inf\n"

"""Objectives that a process of its own can import, and a search that can be killed."""

import sys
import time
from pathlib import Path
from unittest import mock


def booth(params):
    """Booth's function: 0 at (1, 3)."""
    x, y = params["x"], params["y"]
    return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


def slow(params, folder):
    """Says that it began, and takes long to end."""
    (Path(folder) / "began").write_text(str(params))
    time.sleep(60)
    return 0.0


def curve(params):
    """Three values, the last the parameter itself."""
    for epochs in (3, 2, 1):
        yield params["x"] * epochs


def slow_curve(params):
    """The same, with time for a look at the first."""
    first, *others = curve(params)
    yield first
    time.sleep(0.7)
    yield from others


def endless(params):
    """Values without end."""
    while True:
        time.sleep(0.02)
        yield params["x"]


def grumpy(params, seed):
    """Fails above one half; else the parameter plus the seed."""
    if params["x"] > 0.5:
        raise ValueError(f"x is {params['x']}")
    return params["x"] + seed


class FixedProposals:
    """In the place of Ax: learning rates from a list, and nothing trails."""

    RATES = (0.05, 0.1, 0.2)

    def __init__(self, plan):
        self.plan = plan

    def propose(self, trials):
        return {"lr": self.RATES[len(trials)]} if len(trials) < len(self.RATES) else None

    def trails(self, trial, trials):
        return False


def without_ax():
    """While this holds, searches ask FixedProposals."""
    return mock.patch("clearloop.searching.adviser.Adviser", FixedProposals)


if __name__ == "__main__":  # python search_objectives.py ARGUMENTS: the command line, without Ax
    from clearloop import cli

    sys.argv = ["clearloop", *sys.argv[1:]]
    with without_ax():
        cli.main()

"""What commands say: plain lines, without the control codes that names in files may hold."""

from __future__ import annotations

import os
import sys
import time

LATER_S = 5.0


def say(line: str, quiet: bool = False) -> None:
    """Print a line, unless told to be quiet."""
    if not quiet:
        print(line, flush=True)


def fail(error: Exception, code: int) -> None:
    """Print an error as one line, with a line more for each item of a list that it holds, and leave.

    Of several processes, the first that knows of it prints.
    """
    distributed = sys.modules.get("clearloop.distributed")  # where nothing has loaded it, there is one process
    team = None if distributed is None else distributed.joined()
    if team is None and os.environ.get("RANK", "0") != "0":
        time.sleep(LATER_S)  # an error so early is that of all: torchrun ends this process when the first has told
    if team is None or team.report(error):
        begin = "error: "
        if team is not None and team.world_size > 1 and not str(error).startswith("rank"):  # it says who already
            begin = f"error: rank {team.rank}: "
        stream = sys.stderr if team is None or team.leads else sys.__stderr__  # which only the first has kept
        for number, line in enumerate(str(error).split("\n  ")):
            print(f"{'  ' if number else begin}{printable(' '.join(line.split()))}", file=stream, flush=True)
    sys.exit(code)


def one_line(error: Exception) -> str:
    """An error's message without line breaks and control codes."""
    return printable(" ".join(str(error).split()))


def printable(text: str) -> str:
    """Text without control codes, which names in files may hold."""
    return "".join(character if character.isprintable() else "?" for character in text)

"""What commands say: plain lines, without the control codes that names in files may hold."""

from __future__ import annotations

import sys


def say(line: str, quiet: bool = False) -> None:
    """Print a line, unless told to be quiet."""
    if not quiet:
        print(line, flush=True)


def fail(error: Exception, code: int) -> None:
    """Print an error as one line and leave."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(code)


def one_line(error: Exception) -> str:
    """An error's message without line breaks and control codes."""
    return printable(" ".join(str(error).split()))


def printable(text: str) -> str:
    """Text without control codes, which names in files may hold."""
    return "".join(character if character.isprintable() else "?" for character in text)

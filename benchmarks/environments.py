"""Environments of peers: each made once, in benchmarks/.envs/NAME, from the exact pins of benchmarks/peers/NAME.txt."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS, ENVIRONMENTS = HERE / "peers", HERE / ".envs"
STAMP = "made-from"
PATIENCE_S = 1800


class Unavailable(Exception):
    """An environment that cannot be made here, and why."""


def pins(text: str) -> dict[str, str]:
    """The versions of a file of requirements, all of which are exact.

    >>> pins("torch==2.13.0\\n# a comment\\nskorch==1.4.0\\n")
    {'torch': '2.13.0', 'skorch': '1.4.0'}
    """
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    pairs = [line.split("==") for line in lines if line]
    if loose := [pair for pair in pairs if len(pair) != 2]:
        raise ValueError(f"every requirement must read name==version, got {loose[0][0]!r}")
    return {name.strip(): version.strip() for name, version in pairs}


def python_of(name: str) -> Path:
    """The interpreter of the environment `name`, which is made if it is not there or its requirements have changed.

    Raises: Unavailable.
    """
    requirements, folder = REQUIREMENTS / f"{name}.txt", ENVIRONMENTS / name
    python, stamp = folder / "bin" / "python", folder / STAMP
    made_from = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != made_from:
        print(f"making the environment of {name}, once", flush=True)
        make(folder, python, requirements)
        stamp.write_text(made_from)
    return python


def make(folder: Path, python: Path, requirements: Path) -> None:
    """A new virtual environment with these packages; our own pip installs into it."""
    options = ("--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, "-r", str(requirements)]
    try:
        venv.EnvBuilder(clear=True, symlinks=True).create(folder)
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.startswith("ERROR")] or error.stderr.splitlines()
        raise Unavailable(f"its environment cannot be made: {said[-1] if said else error}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"its environment cannot be made: {error}") from None

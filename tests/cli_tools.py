"""What the tests of the command line share: small data, commands in this process, and real processes."""

import contextlib
import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np

from clearloop import cli
from clearloop.commands import running
from clearloop.data.mnist import mnist


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def clearloop(*arguments):
    """A command in this process, as `clearloop` in a shell would run it; output does not go to a terminal."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["clearloop", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}),
        mock.patch.object(running, "draw_looks"),  # pictures take longer than these runs
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as exit:
            code = 0 if exit.code is None else exit.code
    return Done(code, out.getvalue(), err.getvalue())


def process(*arguments, **options):
    """A Python process with one thread; it imports what this one does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False, **options)
    return Done(done.returncode, done.stdout, done.stderr)


def idx_bytes(array, code=0x08, dtype=">u1"):
    """An array in the IDX format."""
    array = np.ascontiguousarray(array).astype(dtype)
    return bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_idx(folder, samples=1500, valid=300):
    """A folder of IDX files with the first embedded digits."""
    digits, folder = mnist(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": (digits.train_images, digits.train_labels, samples)}
    parts["t10k"] = (digits.test_images, digits.test_labels, valid)
    for part, (images, labels, count) in parts.items():
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images[:count].numpy()))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels[:count].numpy()))
    return folder

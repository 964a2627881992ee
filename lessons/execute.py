"""Runs the lessons from top to bottom, each in a fresh kernel, and stores what they print and draw.

    python lessons/execute.py                  every lesson, in place
    python lessons/execute.py 02 03_gradients  those whose names begin so; a path to any other notebook is taken too
    python lessons/execute.py --output FOLDER  elsewhere, so that the committed ones stay as they are

A lesson runs in a temporary folder, under the interpreter that runs this script, whatever kernels are installed for
Jupyter. What would differ from one run to the next without saying anything is left out: times, versions, the kernel's
name. So a lesson that is run again on the same machine gives the same file.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  builds its list of fonts here, or the first lesson would report that
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

LESSONS = Path(__file__).resolve().parent
CELL_TIMEOUT_S = 600  # a cell takes a minute at most; a machine with other work may take several
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class LessonError(Exception):
    """A cell failed: the message holds the lesson, the cell's source and the traceback."""


def environment(folder: str) -> dict[str, str]:
    """What a kernel starts with: known threads, pictures inside the lesson, and nobody's IPython settings."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {
        **os.environ,
        **threads,
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "IPYTHONDIR": folder,
    }


def execute(path: Path) -> NotebookNode:
    """Run a lesson as committed; returns it with fresh outputs, and does not write it.

    Raises: LessonError for a cell that fails, hangs or takes the kernel down.
    """
    lesson = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as settings:
        own_kernel = KernelSpecManager(kernel_dirs=[])  # no installed kernel: ipykernel under this interpreter
        kernel = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=own_kernel,
            connection_file=f"{settings}/kernel.json",
            transport="tcp" if os.name == "nt" else "ipc",  # sockets are files here: no ports for others to see or take
        )
        client = NotebookClient(
            lesson,
            km=kernel,
            timeout=CELL_TIMEOUT_S,
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,  # or one output comes in two pieces now and then
        )
        try:
            client.execute(env=environment(settings), cleanup_kc=True)
        except CellExecutionError as error:
            raise LessonError(f"{path.name}: {plain(str(error))}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            cell = lesson.cells[max(0, client.code_cells_executed - 1)]
            raise LessonError(f"{path.name}: {error}\n{cell.source}") from None
    return neutral(lesson)


def neutral(lesson: NotebookNode) -> NotebookNode:
    """The lesson without what belongs to a machine or a moment; changed in place."""
    lesson.metadata = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    for cell in lesson.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
    nbformat.validate(lesson)
    return lesson


def plain(text: str) -> str:
    """Text without the codes that colour it."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def find(names: list[str]) -> list[Path]:
    """Notebooks by path, and lessons by the beginning of their name; all lessons when nothing is named."""
    lessons = sorted(LESSONS.glob("*.ipynb"))
    found: list[Path] = [] if names else lessons
    for name in names:
        begin_so = [path for path in lessons if path.stem.startswith(name)]
        if not begin_so and not Path(name).is_file():
            sys.exit(f"no lesson is called {name}; there are {', '.join(path.stem for path in lessons)}")
        found += begin_so or [Path(name)]
    return found


def main() -> None:
    """Execute the named lessons and write them."""
    parser = argparse.ArgumentParser(description="Run lessons from top to bottom and store their outputs.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="the beginning of a lesson's name, such as 02, or a path"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write them; in place when left out")
    arguments = parser.parse_args()
    for path in find(arguments.names):
        started = time.perf_counter()
        try:
            lesson = execute(path)
        except LessonError as error:
            sys.exit(str(error))
        nbformat.write(lesson, path if arguments.output is None else arguments.output / path.name)
        print(f"{path.name}  {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()

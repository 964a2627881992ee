"""The lessons: each runs from top to bottom in a fresh kernel, and what is committed is what it gives."""

import importlib.metadata
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "lessons").glob("*.ipynb"))
EXECUTE = ROOT / "lessons" / "execute.py"
LARGEST = 600_000  # bytes
HERE = re.compile(r"(?<![\w.])/(work|tmp|home|root|Users|private|var/folders)/")  # paths of somebody's machine
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\bnan\b|\binf\b)")
PASSING = re.compile(r"\d\s?(?:s|ms|us|µs|seconds|minutes)\b|\d:\d\d|\b[0-9a-f]{32,}\b")  # times, and digests of bits

every_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def execute(path, folder, **variables):
    """Run a notebook as `make lessons` does, in a process of its own; the result goes to `folder`."""
    command = [sys.executable, str(EXECUTE), str(path), "--output", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=1800)


def code_cells(lesson):
    return [cell for cell in lesson.cells if cell.cell_type == "code"]


def texts(cell):
    """What a cell prints or returns as text."""
    printed = [output.text for output in cell.outputs if output.output_type == "stream"]
    shown = [output.data.get("text/plain", "") for output in cell.outputs if "data" in output]
    return "\n".join(printed + shown)


def kinds(cell):
    """Of what kinds a cell's outputs are, in order."""
    return [(output.output_type, output.get("name"), sorted(output.get("data", ()))) for output in cell.outputs]


def comparable(text):
    """Words and numbers of a text, without the lines that tell of times or bits."""
    lasting = "\n".join(line for line in text.splitlines() if not PASSING.search(line))
    return NUMBER.sub(" # ", lasting).split(), [float(number) for number in NUMBER.findall(lasting)]


def agree(committed, fresh):
    """Whether two texts say the same: words exactly, numbers as far as CPUs that round differently would."""
    (words, numbers), (fresh_words, fresh_numbers) = comparable(committed), comparable(fresh)
    return words == fresh_words and all(
        math.isclose(a, b, rel_tol=0.05, abs_tol=0.02) or a != a and b != b
        for a, b in zip(numbers, fresh_numbers, strict=True)
    )


def pinned_torch():
    """The version of torch that the committed outputs are of."""
    return re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def outdated(lesson, fresh):
    """The cells whose committed outputs are not what they give now; one tagged "varies" may differ."""
    found = []
    same_torch = importlib.metadata.version("torch").split("+")[0] == pinned_torch()
    for number, (old, new) in enumerate(zip(code_cells(lesson), code_cells(fresh), strict=True), start=1):
        if "varies" in old.metadata.get("tags", ()):
            continue
        if kinds(old) != kinds(new):
            found.append(f"[{number}] {old.source}\n-- committed: {kinds(old)}\n-- now: {kinds(new)}")
        elif same_torch and not agree(texts(old), texts(new)):
            found.append(f"[{number}] {old.source}\n-- committed:\n{texts(old)}\n-- now:\n{texts(new)}")
    return found


@every_lesson
def test_a_lesson_runs_from_top_to_bottom_and_gives_what_is_committed(path, tmp_path):
    done = execute(path, tmp_path)
    assert done.returncode == 0, done.stderr
    fresh = nbformat.read(tmp_path / path.name, as_version=4)
    stale = outdated(nbformat.read(path, as_version=4), fresh)
    assert not stale, "committed outputs are out of date (`make lessons` renews them):\n\n" + "\n\n".join(stale)


@every_lesson
def test_a_committed_lesson_is_complete_and_tells_nothing_of_the_machine_it_ran_on(path):
    lesson = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(lesson)
    cells = code_cells(lesson)
    outputs = [output for cell in cells for output in cell.outputs]
    said = "\n".join([*(cell.source for cell in lesson.cells), *(texts(cell) for cell in cells)])
    assert (lesson.nbformat, lesson.nbformat_minor) == (4, 5)
    assert lesson.cells[0].cell_type == "markdown"
    assert re.match(r"# \S", lesson.cells[0].source), "no title"
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)], "not run in order"
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"], "warnings"
    assert not HERE.search(said), f"a path of a machine: {HERE.search(said)}"
    assert not [cell.metadata for cell in lesson.cells if set(cell.metadata) - {"tags"}], "metadata of a moment"
    assert lesson.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert path.stat().st_size < LARGEST


@every_lesson
def test_a_lesson_ends_with_the_learner_and_with_plain_pytorch(path):
    source = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    assert "Learner(" in source
    assert ".eject(" in source
    assert ".verify(" in source


@every_lesson
def test_the_list_of_lessons_names_each(path):
    assert f"]({path.name})" in (ROOT / "lessons" / "README.md").read_text()


def test_every_lesson_that_the_list_names_is_there():
    named = re.findall(r"\]\(([^)]+\.ipynb)\)", (ROOT / "lessons" / "README.md").read_text())
    assert named == [path.name for path in LESSONS]


def notebook(path, *sources):
    """Write a notebook with these cells."""
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    return path


def test_a_failing_lesson_names_its_cell_and_is_not_written(tmp_path):
    path = notebook(tmp_path / "broken.ipynb", "divisor = 0", "print(1 / divisor)", "print('never')")
    (tmp_path / "out").mkdir()
    done = execute(path, tmp_path / "out")
    assert done.returncode != 0
    assert "broken.ipynb" in done.stderr
    assert "print(1 / divisor)" in done.stderr
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "\x1b" not in done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_a_lesson_runs_under_this_interpreter_in_a_folder_of_its_own_and_again_the_same(tmp_path):
    kernels = tmp_path / "jupyter" / "kernels" / "python3"  # somebody's kernel of the same name
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text('{"argv": ["false"], "display_name": "other", "language": "python"}')
    source = "import os, sys; print(sys.executable, os.getcwd(), os.environ['OMP_NUM_THREADS']); os.listdir()"
    path = notebook(tmp_path / "where.ipynb", source)
    results = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        done = execute(path, folder, JUPYTER_PATH=str(tmp_path / "jupyter"), OMP_NUM_THREADS="2")
        assert done.returncode == 0, done.stderr
        results.append(nbformat.read(folder / "where.ipynb", as_version=4))
    printed, returned = results[0].cells[0].outputs
    executable, folder, threads = printed.text.split()
    assert (executable, threads) == (sys.executable, "1")
    assert not Path(folder).exists()
    assert not Path(folder).is_relative_to(ROOT)
    assert returned.data["text/plain"] == "[]"
    for result in results:
        result.cells[0].outputs.pop(0)
    assert results[0] == results[1]


def test_texts_agree_when_words_are_the_same_and_numbers_nearly():
    assert agree("loss 0.1234  a = 1e-7", "loss   0.1236  a = 3e-7")
    assert agree("1,000 steps: nan", "1,000 steps: nan")
    assert agree("took 3.1 s\nsame", "took 5.2 s\nsame")
    assert not agree("loss 0.1234", "loss 0.2234")
    assert not agree("loss 12.5", "loss 14.5")
    assert not agree("train 0.1", "valid 0.1")
    assert not agree("1 2", "1 2 3")
    assert not agree("nan", "1.0")

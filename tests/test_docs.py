"""The pages of docs/: what they show is run, in a folder of its own for each page, and prints what they say it prints.

How a page is read, from top to bottom:

- A block of ```python is run; all of a page share their names.
- Each line of a block of ```sh is run in the page's folder, where the Python lines run too.
- A block of ```text shows what the block before it printed: each of its lines must be there, in that order, with any
  numbers in place of its numbers; a line that is `…` stands for others.
- Blocks of other kinds are not run. A first line `<!-- needs: pyarrow, PIL -->` names packages without which the page
  is skipped.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from clearloop import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BLOCK = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
NEEDS = re.compile(r"<!-- needs: (.+?) -->")
NUMBER = re.compile(r"[-+]?(?:\d[\d,.:]*\d|\d)(?:e[-+]?\d+)?")
SHELL = re.compile(r"[|<>&;$*]")
LARGEST = 60_000  # bytes of a picture

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@dataclass(frozen=True)
class Block:
    """A fenced part of a page: its kind, the number of its first line, and what is in it."""

    kind: str
    line: int
    text: str


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(found[1], text.count("\n", 0, found.start(2)) + 1, found[2]) for found in BLOCK.finditer(text)]


def run_page(text: str, name: str) -> None:
    """Run a page in the present folder. Raises AssertionError, with the line, where it does not hold what it says."""
    names: dict[str, object] = {"__name__": "docs"}
    printed = ""
    for block in blocks_of(text):
        if block.kind == "python":
            printed = run_python(block, names, name)
        elif block.kind == "sh":
            lines = enumerate(block.text.splitlines(), block.line)
            printed = "".join([run_line(line, f"{name}:{number}") for number, line in lines])
        elif block.kind == "text":
            check_printed(block, printed, name)


def run_python(block: Block, names: dict[str, object], name: str) -> str:
    """Run a block with the names of those before; what it printed."""
    code = compile("\n" * (block.line - 1) + block.text, name, "exec")  # so that a traceback has the page's lines
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return out.getvalue()


def run_line(line: str, where: str) -> str:
    """Run a line of a shell, a command of ours in this process; what it printed. Raises AssertionError if it fails."""
    words = shlex.split(line, comments=True)
    if not words:
        return ""
    if words[0] == "clearloop" and not SHELL.search(line):
        return run_command(words, where)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    done = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, f"{where}: {line}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_command(words: list[str], where: str) -> str:
    """A command of ours, as a shell would run it."""
    err, code = io.StringIO(), None
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as exit:
            code = exit.code
    assert code in (None, 0), f"{where}: {shlex.join(words)}\n{out.getvalue()}{err.getvalue()}"
    return out.getvalue()


def check_printed(block: Block, printed: str, name: str) -> None:
    """Raise AssertionError unless every line of the block was printed, in that order."""
    there = [plain(line) for line in printed.splitlines()]
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.strip() in ("", "…"):
            continue
        if plain(line) not in there:
            left = "\n".join(there) or "nothing"
            raise AssertionError(f"{name}:{number}: {line!r} was not printed; what is left is\n{left}")
        there = there[there.index(plain(line)) + 1 :]


def plain(line: str) -> str:
    """A line without its numbers, and with single spaces.

    A time, a loss and a count may all differ from one machine to the next.
    """
    return " ".join(NUMBER.sub("#", line).split())


@every_page
def test_a_page_does_what_it_says(page, sample, tmp_path, monkeypatch):
    text = page.read_text()
    for package in ", ".join(NEEDS.findall(text)).split(", "):
        if package:
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLEARLOOP_HOME", str(sample.parent))
    run_page(text, page.name)


@every_page
def test_what_a_page_links_to_is_there(page):
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_names_every_page_and_the_first_page_of_the_project_names_the_index():
    index = (DOCS / "README.md").read_text()
    assert [page.name for page in PAGES if page.name != "README.md" and f"]({page.name})" not in index] == []
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()


def test_pictures_of_pages_are_small_and_shown():
    pages = "".join(page.read_text() for page in [*PAGES, ROOT / "README.md"])
    for picture in (DOCS / "images").iterdir():
        assert picture.name in pages
        assert picture.stat().st_size < LARGEST or picture.name == "loss.png", picture.name


PAGE = """# A page

```python
word = "seven"
```

```python
print(word, 7, "words")
print("loss 0.25 in 0:07")
```

```text
seven 9 words
```

```sh
echo {said} > said.txt
cat said.txt
```

```text
…
five 5
```
"""


def test_a_page_whose_lines_print_what_it_shows_is_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(PAGE.format(said="five 6"), "page.md")
    assert (tmp_path / "said.txt").read_text() == "five 6\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{said}", "four 4", r"page.md:23: 'five 5' was not printed; what is left is\nfour #"),
        ("seven 9 words", "seven 9 letters", "page.md:13: 'seven 9 letters' was not printed"),
        ("seven 9 words", "loss 0.1 in 1:00\nseven 9 words", "page.md:14: 'seven 9 words' was not printed"),
        ("cat said.txt", "cat said.text", "page.md:18: cat said.text\n.*No such file"),
        ("cat said.txt", "clearloop train nowhere", "page.md:18: clearloop train nowhere\n.*no such file"),
    ],
)
def test_a_page_that_says_what_is_not_so_is_found_by_its_line(old, new, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=message):
        run_page(PAGE.replace(old, new).format(said="five 5"), "page.md")


def test_an_error_of_a_page_has_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError) as caught:
        run_page(PAGE.replace("print(word", "1 / 0, print(word"), "page.md")
    last = caught.traceback[-1]
    assert (last.path.name if hasattr(last.path, "name") else last.path, last.lineno + 1) == ("page.md", 8)

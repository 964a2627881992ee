import textwrap

import pytest

from clearloop.errors import EjectError
from clearloop.printing import printer as printing
from clearloop.printing.printer import Always, Given, Printer, bracketed, free_names, specialise


def special(source, **known):
    return specialise(textwrap.dedent(source).lstrip("\n"), known)


def test_a_parameter_of_known_value_is_dropped_with_the_branches_that_it_decides():
    printed = special(
        '''
        def update(opt, clip=None, scaler=None):
            """Apply the gradients."""
            if clip is not None:
                if scaler is not None:
                    scaler.unscale(opt)
                cut(opt, clip)  # a comment that stays
            if scaler is None:
                # so does this one
                opt.step()
            else:
                scaler.step(opt)
        ''',
        scaler=None,
    )
    assert printed == textwrap.dedent(
        '''
        def update(opt, clip=None):
            """Apply the gradients."""
            if clip is not None:
                cut(opt, clip)  # a comment that stays
            # so does this one
            opt.step()
        '''
    ).lstrip("\n")


def test_the_other_branch_is_taken_where_the_value_says_so():
    source = """
        def pick(how):
            if how == "sum":
                return sum
            else:
                return max
        """
    assert special(source, how="sum") == "def pick():\n    return sum\n"
    assert special(source, how="max") == "def pick():\n    return max\n"


def test_what_comes_after_a_branch_that_returns_goes_with_the_guard():
    source = """
        def read(folder, part=None):
            for name in folder:
                if part is not None:
                    return name + part
                print(name)  # never comes to this
            return folder
        """
    printed = "def read(folder, part: str):\n    for name in folder:\n        return name + part\n    return folder\n"
    assert special(source, part=Given("str")) == printed


def test_a_parameter_that_is_always_given_loses_default_and_guard_but_stays():
    printed = special(
        """
        def step(opt, lr: float | None = None, clip: float | None = None):
            if clip is not None:
                cut(opt, clip)
            if lr is None:
                lr = 0.1
            opt.step(lr)
        """,
        clip=Given("float"),
    )
    assert printed == textwrap.dedent(
        """
        def step(opt, lr: float | None, clip: float):
            cut(opt, clip)
            if lr is None:
                lr = 0.1
            opt.step(lr)
        """
    ).lstrip("\n")


def test_a_given_parameter_decides_no_other_condition():
    source = "def cut(clip: float):\n    if clip > 1:\n        return 1\n    return clip\n"
    assert special(source, clip=Given("float")) == source


def test_a_function_that_is_always_the_same_takes_the_place_of_its_parameter():
    printed = special(
        "def mean(values, count=len):\n    counted = count(values)\n    return sum(values) / counted\n",
        count=Always("len"),
    )
    assert printed == "def mean(values):\n    counted = len(values)\n    return sum(values) / counted\n"


def test_a_known_parameter_is_not_handed_on():
    printed = special("def outer(x, scaler):\n    return inner(x, scaler) + other(x, scaler=scaler)\n", scaler=None)
    assert printed == "def outer(x):\n    return inner(x) + other(x)\n"


def test_a_local_variable_that_shares_a_known_name_is_left_alone():
    source = (
        "def mean(values):\n    count = size(values)\n    if count is None:\n        return 0\n    return at(count)\n"
    )
    assert special(source, count=None) == source


def test_a_constant_that_nobody_reads_any_more_goes():
    source = """
        def fit(epochs, schedule=None):
            step = 0
            for _ in range(epochs):
                if schedule is not None:
                    set_lr(schedule(step))
                    step += 1
                train()
        """
    assert "step" not in special(source, schedule=None)
    assert "step = 0" in special(source, schedule=Given("Schedule"))


def test_attributes_that_a_method_sets_stay():
    source = "class Loader:\n    def __init__(self):\n        self.epoch = 0  # counts up\n"
    assert special(source) == source


def test_examples_and_advice_in_docstrings_go_and_the_source_of_an_algorithm_stays():
    printed = special(
        '''
        def schedule(step):
            """Up, then down.

            Use it always.

            Source: L. Smith, 2018,
            second page.

            >>> schedule(1)
            2
            """
            return step
        '''
    )
    assert '"""Up, then down.\n\n    Source: L. Smith, 2018,\n    second page.\n    """' in printed
    assert ">>>" not in printed
    assert "Use it" not in printed


def test_checks_for_the_library_alone_are_dropped_and_its_errors_become_plain_ones():
    printed = special(
        """
        @remember
        def mlp(width):
            check(width)  # eject: drop
            raise DataError("no")  # type: ignore[misc]
        """
    )
    assert printed == 'def mlp(width):\n    raise ValueError("no")\n'


def test_all_arguments_of_a_signature_survive_rewriting():
    source = "def f(a: int, b: str = 'x', *rest: int, scaler: int = 1, c: float = 2.0, d=None) -> int:\n    return a\n"
    want = "def f(a: int, b: str = 'x', *rest: int, c: float = 2.0, d=None) -> int:\n    return a\n"
    assert special(source, scaler=None) == want
    assert special("def f(a, *, scaler, c):\n    pass\n", scaler=None) == "def f(a, *, c):\n    pass\n"


def test_long_signatures_are_broken_as_a_formatter_would():
    assert bracketed("def f", ["a", "b"], ":") == ["def f(a, b):"]
    assert bracketed("def f", ["aaaa", "bbbb"], ") -> None:", 18) == ["def f(", "    aaaa, bbbb", ")) -> None:"]
    assert bracketed("f", ["aaaaaaaaa", "bbbbbbbbb"], width=18) == ["f(", "    aaaaaaaaa,", "    bbbbbbbbb,", ")"]


def test_free_names_are_those_that_come_from_elsewhere_in_the_order_of_their_use():
    source = """
        def f(x, *, y=first):
            try:
                z = second(x)
            except Third as error:
                raise error
            return [w for w in z] + (lambda v: v)(y)
        """
    assert set(free_names(textwrap.dedent(source))) == {"first", "second", "Third"}
    assert free_names("a = b + c + b\n") == ["b", "c"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module of the package's own, for as long as a test runs."""

    def make(name, source):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return make


def test_pieces_come_after_what_they_use_and_imports_are_collected(package):
    module = package(
        "printed_pieces",
        '''
        import math
        from collections.abc import Callable, Sequence
        import numpy as np

        Rate = Callable[[int], float]  # step -> rate


        def outer(steps: Sequence[int]) -> Rate:
            """Twice."""
            return lambda step: inner(step) * math.pi


        def inner(step: int) -> float:
            return np.float64(step)


        TABLE = {"outer": outer}
        ''',
    )
    pieces = Printer({})
    assert pieces.need(f"{module}:TABLE") == "TABLE"
    pieces.need(f"{module}:outer")
    pieces.need_import("torch")
    text = pieces.text()
    assert text.index("Rate = ") < text.index("def inner") < text.index("def outer") < text.index("TABLE = ")
    assert text.count("def inner") == 1
    assert "# step -> rate" in text
    assert pieces.import_lines() == (
        "import math\nfrom collections.abc import Callable, Sequence\n\nimport numpy as np\nimport torch"
    )
    scope = {}
    exec(f"from __future__ import annotations\n{pieces.import_lines()}\n{text}", scope)
    assert scope["TABLE"]["outer"]([1])(1) == pytest.approx(3.14159, rel=1e-5)


def test_functions_are_set_apart_by_two_blank_lines_and_constants_are_not(package):
    module = package(
        "printed_blanks", "A = 1\nB = (\n    2,\n)\n\n\ndef f():\n    return A, B, g()\n\n\ndef g():\n    pass\n"
    )
    pieces = Printer({})
    pieces.need(f"{module}:f")
    assert pieces.text() == "A = 1\nB = (\n    2,\n)\n\n\ndef g():\n    pass\n\n\ndef f():\n    return A, B, g()\n"


def test_a_name_whose_source_cannot_be_found_is_refused(package):
    module = package("printed_lost", "globals()['hidden'] = 1\n\n\ndef f():\n    return hidden\n")
    with pytest.raises(EjectError, match="printed_lost uses 'hidden', whose source cannot be found"):
        Printer({}).need(f"{module}:f")
    with pytest.raises(EjectError, match="printed_lost defines no 'missing' at its top level"):
        Printer({}).need(f"{module}:missing")


def test_constants_come_before_classes_and_functions_in_an_import():
    assert sorted(["Tensor", "nn", "FLOAT", "Any"], key=printing.import_order) == ["FLOAT", "Any", "Tensor", "nn"]


def test_a_choice_that_a_known_value_decides_is_what_it_comes_to():
    source = """
        def padded(pixels, inverted=False):
            return fill(pixels, 255 if inverted else 0)
        """
    assert special(source, inverted=False) == "def padded(pixels):\n    return fill(pixels, 0)\n"


def test_the_next_of_several_branches_becomes_the_first_where_that_goes():
    source = """
        def brought(pixels, size, crop=False):
            if crop:
                pixels = centred(pixels)
            elif pixels.shape != size:
                pixels = resized(pixels, size)
            else:
                pixels = pixels.copy()
            return pixels
        """
    assert special(source, crop=False) == textwrap.dedent(
        """
        def brought(pixels, size):
            if pixels.shape != size:
                pixels = resized(pixels, size)
            else:
                pixels = pixels.copy()
            return pixels
        """
    ).lstrip("\n")


def test_a_branch_that_begins_with_a_name_like_elif_stays_as_it_is():
    source = """
        def pick(how=None):
            if how is None:
                elif_ = 1
            else:
                elif_ = 2
            return elif_
        """
    assert special(source, how=None) == "def pick():\n    elif_ = 1\n    return elif_\n"


def test_imports_inside_a_function_are_cut():
    source = """
        def opened(path):
            from PIL import Image

            return Image.open(path)
        """
    assert special(source) == "def opened(path):\n    return Image.open(path)\n"


def test_a_summary_that_fills_its_line_is_broken_in_two():
    summary = "A " + "long " * 22 + "line."
    source = f'def f():\n    """{summary}\n\n    >>> f()\n    """\n    return 1\n'
    broken = summary.replace(" long line.", "\n    long line.")
    assert special(source) == f'def f():\n    """{broken}\n    """\n    return 1\n'

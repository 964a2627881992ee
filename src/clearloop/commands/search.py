"""`clearloop search`: trains with many values of some options, and says which are best."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearloop.commands.options import Quiet
from clearloop.commands.parts import set_threads
from clearloop.commands.speech import one_line, say
from clearloop.errors import ConfigError, DataError

if TYPE_CHECKING:
    from clearloop.searching.space import Parameter, Space
    from clearloop.searching.trials import Book

# Options of `clearloop train` may follow those of the search.
PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
ALSO = {"width": "hidden"}  # the width of one hidden layer
NOT_SEARCHED = (  # where the run goes, what it runs on, and what it is measured by
    "out", "quiet", "seed", "device", "threads", "every", "keep", "target", "kind", "valid", "weights",
    "reconstructions_every", "install_completion", "show_completion",
)  # fmt: skip
COUNTS = {"trials": 20, "parallel": 1, "seeds": 3}


def search(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="as for train; or the folder of a search, to go on with it")],
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SPEC", help="lr=log:1e-4:1, momentum=0.5:0.99, width=int:16:256, opt=sgd,adam"),
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help="linear, between parameters: 'momentum + 2 * dropout <= 1'")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="in all; 20 if left out")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="at a time, each in a process; 1 if left out")] = None,
    by: Annotated[
        str | None, typer.Option(help="what is best: valid_loss, train_loss, or a metric such as accuracy")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of proposals, and of each trial's training; 0")] = None,
    seeds: Annotated[int | None, typer.Option(min=0, help="train the best again with so many other seeds; 3")] = None,
    stop: Annotated[
        bool | None, typer.Option("--stop/--no-stop", help="stop trials that trail; they are stopped if left out")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the folder; runs/search-NAME-1, …")] = None,
    quiet: Quiet = False,
) -> None:
    """Search for the best values of options of train; options that are the same in all trials may follow.

    Stop it at any time, and go on with `clearloop search FOLDER`.
    """
    from clearloop.signals import Interrupts

    set_threads(None, default=1)
    counts = {"trials": trials, "parallel": parallel, "seeds": seeds}
    if data.startswith("-"):
        raise ConfigError(f"expected DATA before the options of train, got {data}; begin with clearloop search DATA")
    if (Path(data) / "search.json").exists():
        if param or constraint or context.args or {by, seed, stop, out} != {None}:
            raise ConfigError(
                f"{data} is a search with a space and options of its own: give --trials, --parallel, --seeds"
            )
        book = reopened(Path(data), counts)
    else:
        book = begun(
            data,
            param or [],
            constraint or [],
            context.args,
            by or "valid_loss",
            seed or 0,
            counts,
            stop is not False,
            out,
        )
    with Interrupts().installed(), book.lock():
        book.write()
        carry_out_and_say(book, quiet)


def reopened(folder: Path, counts: Mapping[str, int | None]) -> Book:
    """The search of a folder, with other numbers of trials, processes and seeds where they are given."""
    from clearloop.searching.trials import Book

    book = Book.read(folder)
    if "options" not in book.plan.command:
        raise ConfigError(f"{folder} was made by Python's search(); go on with it by the same call")
    book.plan.command.update({name: count for name, count in counts.items() if count is not None})
    return book


def begun(
    data: str,
    params: Sequence[str],
    constraints: Sequence[str],
    options: Sequence[str],
    by: str,
    seed: int,
    counts: Mapping[str, int | None],
    stop: bool,
    out: Path | None,
) -> Book:
    """A new search in a folder of its own. Raises ConfigError or DataError before that is made."""
    from clearloop.adapters import smaller_is_better
    from clearloop.searching.adviser import Adviser
    from clearloop.searching.space import parse_space
    from clearloop.searching.trials import Book, Plan

    if data != "mnist" and not Path(data).exists():
        raise DataError(
            f"{data}: no such file or folder; expected data as for clearloop train, or a search to go on with"
        )
    space = parse_space(params, constraints)
    names, threads = check_options(space, data, options)
    command: dict[str, Any] = {
        "data": data, "options": [*options], "names": names, "threads": threads, "cwd": os.getcwd(), "stop": stop,
        **{name: default if counts[name] is None else counts[name] for name, default in COUNTS.items()},
    }  # fmt: skip
    plan = Plan(space, by, smaller_is_better(by), seed, noisy=True, command=command)
    Adviser(plan)  # what Ax refuses, and Ax that is not there, before a folder is made
    return Book(plan, new_folder(data, out))


def check_options(space: Space, data: str, options: Sequence[str]) -> tuple[dict[str, str], int]:
    """The options of train that the parameters stand for, and the threads of a trial.

    Raises ConfigError for a parameter that is none, for an option that train does not know, and for values that it
    refuses: the bounds and choices of each parameter are tried.
    """
    command = train_command()
    known = {
        option.name: option.opts[0]
        for option in command.params
        if option.param_type_name == "option" and not (option.is_flag or option.multiple or option.name in NOT_SEARCHED)
    }
    names: dict[str, str] = {}
    for name in space.parameters:
        option = ALSO.get(name, name)
        if option not in known:
            there = ", ".join(sorted([*known, *ALSO]))
            raise ConfigError(f"{name} is no parameter of clearloop train that can be searched; there are {there}")
        if known[option] in names.values() or known[option] in [given.split("=")[0] for given in options]:
            raise ConfigError(f"{known[option]} is given twice; search it or fix it")
        names[name] = known[option]
    fixed = parsed(command, [data, *options])
    for name, parameter in space.parameters.items():
        for value in ends(parameter):
            parsed(command, [data, *options, f"{names[name]}={value}"])
    threads = fixed.get("threads")
    return names, threads if isinstance(threads, int) else 1


def ends(parameter: Parameter) -> list[Any]:
    """Values of a parameter that show whether an option takes it: all of a choice, and what no bound shows."""
    from clearloop.searching.space import Choice, Integer

    if isinstance(parameter, Choice):
        return [*parameter.values]
    middle = [] if isinstance(parameter, Integer) else [0.5 * parameter.low + 0.5 * parameter.high + 1e-9]
    return [parameter.low, parameter.high, *middle]


def train_command() -> Any:
    """`clearloop train` as the command line knows it."""
    from clearloop.commands.train import train

    app = typer.Typer(add_completion=False)
    app.command()(train)
    return typer.main.get_command(app)


def parsed(command: Any, arguments: list[str]) -> dict[str, Any]:
    """What train makes of its arguments. Raises ConfigError for those that it refuses."""
    try:
        return dict(command.make_context("clearloop train", arguments).params)
    except Exception as error:  # typer's own, which has no public name in all of its versions
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        raise ConfigError(f"{one_line(ConfigError(message()))} (an option of clearloop train)") from None


def new_folder(data: str, out: Path | None) -> Path:
    """The folder of a new search, empty: `out`, or runs/search-NAME-1, -2, …"""
    from clearloop import durable
    from clearloop.rundir import RunDirectory

    if out is None:
        name = "mnist" if data == "mnist" else Path(data).resolve().stem
        stem = "search-" + (
            "".join(mark if mark.isalnum() or mark in "._-" else "-" for mark in name).strip("-.") or "run"
        )
        run = RunDirectory.numbered("runs", stem)
        run.folder.rmdir()  # of checkpoints, which only trials have
        return run.path
    if (out / "search.json").exists():
        raise ConfigError(f"{out} holds a search; go on with it: clearloop search {out}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"expected an empty or new folder, got {out} with other things in it; choose another")
    durable.make_directory(out)
    return out


def carry_out_and_say(book: Book, quiet: bool) -> None:
    """Run what is missing of a search, and say what it found."""
    from clearloop import durable
    from clearloop.commands.trial_runs import TrainRuns
    from clearloop.searching.search import carry_out, summary

    assert book.folder is not None
    folder, counts = book.folder, book.plan.command

    def note(line: str) -> None:
        durable.current().append(folder / "search.log", f"{line}\n".encode("utf-8", "backslashreplace"))
        say(line, quiet)

    try:
        result = carry_out(
            book, TrainRuns(book), counts["trials"], counts["parallel"], counts["stop"], counts["seeds"], note
        )
    except BaseException:
        if book.trials:
            say(f"go on with: clearloop search {folder}", quiet)
        raise
    say(f"\n{result}\n", quiet)
    for line in summary(result):
        note(line) if quiet is False else say(line)
    if result.best is None:
        raise typer.Exit(1)
    run = book.folder_of(result.best)
    say(f"saved in {folder}: table.txt, plots/search.png, a run for each trial; the best is {run}", quiet)

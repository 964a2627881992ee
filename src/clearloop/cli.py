"""The command line: thin. Its commands are in `commands/`, one a file.

Nothing is imported before a command needs it, so that `clearloop --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from clearloop.commands.check import check
from clearloop.commands.export import export
from clearloop.commands.lr_find import lr_find
from clearloop.commands.notebooks import notebook2script
from clearloop.commands.predict import predict
from clearloop.commands.processes import in_one_process
from clearloop.commands.programs import eject, verify
from clearloop.commands.report import report
from clearloop.commands.resume import resume
from clearloop.commands.runs import runs
from clearloop.commands.search import PASSES_ON, search
from clearloop.commands.speech import fail
from clearloop.commands.sweep import sweep
from clearloop.commands.train import train
from clearloop.errors import ClearloopError, NonFiniteError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "check": check,
    "resume": resume,
    "predict": predict,
    "runs": runs,
    "lr-find": lr_find,
    "eject": eject,
    "verify": verify,
    "export": export,
    "report": report,
    "sweep": sweep,
    "notebook2script": notebook2script,
}
SHARED = ("train", "resume")  # what several processes do together
for name, command in COMMANDS.items():
    app.command(name)(command if name in SHARED else in_one_process(command))
app.command("search", context_settings=PASSES_ON)(in_one_process(search))


def main() -> None:
    """The entry point: errors that the library raises on purpose become one line, and an exit code.

    2: input that cannot work; 1: training or a comparison failed; 130 and 143: stopped by Ctrl-C and SIGTERM.
    """
    try:
        app()
    except NonFiniteError as error:
        fail(error, 1)
    except (ClearloopError, OSError) as error:
        fail(error, 2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

"""`python -m benchmarks [name …]`: run benchmarks and write what they print to benchmarks/results/, dated."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import io
import os
import platform
import sys
from pathlib import Path

NAMES = (
    *("import_time", "loader", "noop", "default_path", "mlp", "step_profile", "sweep", "cnn", "autoencoder", "table"),
    *("resnet18", "memory", "digits", "time_to_accuracy", "scale"),
)
RESULTS = Path(__file__).parent / "results"


class Tee(io.StringIO):
    """Keeps what is printed, and prints it."""

    def write(self, text: str) -> int:
        if sys.__stdout__ is not None:
            sys.__stdout__.write(text)
            sys.__stdout__.flush()
        return super().write(text)


def machine() -> str:
    """One line about where the figures come from."""
    import torch

    cores, vectors = f"{platform.machine()}, {os.cpu_count()} cores", torch.backends.cpu.get_cpu_capability()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{datetime.date.today()}  {cores}, {vectors}, load {os.getloadavg()[0]:.2f} before, {versions}"


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    for name in names:
        with contextlib.redirect_stdout(Tee()) as kept:
            print(machine())
            importlib.import_module(f"benchmarks.{name}").main()
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{datetime.date.today()}-{name}.txt").write_text(kept.getvalue())


if __name__ == "__main__":
    main()

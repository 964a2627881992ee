"""What `import clearloop` adds to `import torch`, and what `clearloop --help` takes; fresh processes, medians."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 7
EVERYTHING = "from clearloop import *"


def seconds(*command: str) -> float:
    """Wall-clock time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the medians; the processes take turns."""
    commands = {
        "python": ("-c", "pass"),
        "import torch": ("-c", "import torch"),
        "import torch, clearloop": ("-c", "import torch, clearloop"),
        "the same, and all its names": ("-c", f"import torch\n{EVERYTHING}"),
        "clearloop --help": ("-m", "clearloop", "--help"),
    }
    rounds = [{name: seconds(*command) for name, command in commands.items()} for _ in range(ROUNDS + 1)][1:]
    for name in commands:
        print(f"{name:30} {statistics.median(row[name] for row in rounds):6.3f} s")
    for name in list(commands)[2:4]:
        added = statistics.median(row[name] - row["import torch"] for row in rounds)
        print(f"{name:30} adds {added:+.3f} s to torch")


if __name__ == "__main__":
    main()

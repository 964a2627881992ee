"""The digit recipes over seeds: accuracy on the 10,000 validation images, and seconds of training.

`clearloop train mnist` with no option (seeds 0 to 4), and 784-64-10 with constant lr 0.5 at batch 128, four epochs.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SEEDS = range(5)
RECIPES = {
    "train mnist": [],
    "train mnist --model mlp --hidden 64 --opt sgd --lr 0.5 --schedule constant": [
        *("--model", "mlp", "--hidden", "64"),
        *("--opt", "sgd", "--lr", "0.5", "--schedule", "constant"),
    ],
}


def run(options: list[str], seed: int) -> tuple[float, float]:
    """Accuracy of the last epoch, and the seconds that the epochs took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "clearloop", "train", "mnist", "--seed", str(seed), *options]
        output = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        history = Path(folder, "runs/mnist-1/history.jsonl").read_text()
    seconds = sum(float(value) for value in re.findall(r'"seconds":\s*([\d.]+)', history))
    return float(re.findall(r"accuracy ([\d.]+)", output)[-1]), seconds


def main() -> None:
    """Print one line a recipe and seed, and the medians."""
    for name, options in RECIPES.items():
        results = [run(options, seed) for seed in SEEDS]
        accuracies, seconds = zip(*results, strict=True)
        print(f"\nclearloop {name}")
        for seed, (accuracy, elapsed) in zip(SEEDS, results, strict=True):
            print(f"  seed {seed}  accuracy {accuracy:.4f}  {elapsed:5.1f} s of training")
        print(f"  median    accuracy {statistics.median(accuracies):.4f}  {statistics.median(seconds):5.1f} s;")
        print(f"  smallest  accuracy {min(accuracies):.4f}")


if __name__ == "__main__":
    main()

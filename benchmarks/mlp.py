"""784-50-10 on MNIST, SGD, batch 64 and 512, one thread: clearloop beside plain loops and other libraries."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.chart import draw
from benchmarks.comparison import compare, keep
from benchmarks.contest import Case, Tolerance
from benchmarks.peers.workloads import Workload
from benchmarks.roster import FAST, FLOOR, PEERS, contestants, tuned
from clearloop import get_data, mnist

SLOW_PEERS = ("Lightning", "fastai", "Keras")


def main() -> None:
    """Print a table for each batch size and the targets, keep the figures, draw them."""
    x, y, x_valid, y_valid = get_data()
    images = mnist().train_images
    cut = len(x)
    targets_of = {"y_train": y, "y_valid": y_valid}
    works = [
        Workload("mlp 784-50-10", "mlp", (784, 50, 10), "cross_entropy", "SGD", 0.1, batch_size, 2, threads=1, data="")
        for batch_size in (64, 512)
    ]
    cases = compare(
        works,
        contestants(floor=True, as_bytes=True, eight=True),
        Tolerance(weights=1e-4, loss=1e-5),
        {"x_train": x, "x_valid": x_valid, **targets_of},
        {"x_train": images[:cut], "x_valid": images[cut:], **targets_of},
    )
    print("\n".join(targets(cases)))
    path = keep(cases, "mlp")
    draw(path, path.with_suffix(".png"))


def targets(cases: Sequence[Case]) -> list[str]:
    """What was aimed at, with what was measured beside it; `default_path` has the aims of the default path."""
    small = cases[0]
    lines = ["", f"{'targets':58}{'aim':>12}{'measured':>11}"]
    lines.append(aim("fast / floor, batch 64", small.ratio(FAST, FLOOR), most=1.35))
    best = [small.ratio(peer, FAST) for peer in PEERS]
    lines.append(aim("best peer / fast, batch 64", lowest(best), least=4))
    for peer in SLOW_PEERS:
        lines.append(aim(f"{peer} / fast, batch 64", small.ratio(peer, FAST), least=7))
    lines.append(aim("best peer, tuned / fast, batch 64", lowest([small.ratio(tuned(peer), FAST) for peer in PEERS])))
    return lines


def lowest(ratios: Sequence[float | None]) -> float | None:
    """The lowest of those that were measured."""
    return min((ratio for ratio in ratios if ratio is not None), default=None)


def aim(what: str, measured: float | None, most: float | None = None, least: float | None = None) -> str:
    """One target: at most, at least, or none, which is for information.

    >>> aim("default / by hand", 1.02, most=1.05).split()[-3:]
    ['1.05', '1.020', 'met']
    """
    limit = f"at most {most:g}" if most is not None else f"at least {least:g}" if least is not None else ""
    if measured is None:
        return f"{what:58}{limit:>12}{'-':>11}"
    met = (most is None or measured <= most) and (least is None or measured >= least)
    return f"{what:58}{limit:>12}{measured:>11.3f}  {('met' if met else 'missed') if limit else ''}".rstrip()


if __name__ == "__main__":
    main()

"""Which setting is better, in words that know noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

# The 97.5 % points of Student's t for 1 to 30 degrees of freedom; beyond, the normal distribution's is near enough.
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the standard deviation over seeds (0 for a single one).

    >>> mean_and_spread([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The mean of the differences, seed by seed, and half the width of its 95 % interval (Student's t, paired).

    >>> difference([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    (2.0, 2.4843...)
    """
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    mean, spread = mean_and_spread(gaps)
    if len(gaps) < 2:
        return mean, math.inf
    quantile = T_975[len(gaps) - 2] if len(gaps) - 2 < len(T_975) else 1.96
    return mean, quantile * spread / math.sqrt(len(gaps))


def compare(names: tuple[str, str], first: Sequence[float], second: Sequence[float], share: bool) -> str:
    """Whether the better of two settings is really better.

    Args: the better one's name and values first, seed by seed as the other's; `share`, whether they are shares of 1,
    which are told in points of a hundred.

    >>> compare(("0.03", "0.1"), [0.97, 0.971, 0.972], [0.966, 0.968, 0.967], share=True)
    '0.03 beats 0.1 by 0.40 ± 0.25 points, 3 seeds'
    >>> compare(("0.03", "0.1"), [0.97, 0.960], [0.966, 0.968], share=True)
    '0.03 and 0.1 cannot be told apart: 0.20 ± 7.62 points, 2 seeds; more seeds would tell'
    """
    gap, half = difference(first, second)
    scale, unit = (100, " points") if share else (1, "")
    seeds = f"{len(first)} seed{'s' if len(first) > 1 else ''}"
    if math.isinf(half):
        return f"{names[0]} did better than {names[1]} by {scale * abs(gap):.2f}{unit}, with one seed: sweep several"
    size = f"{scale * abs(gap):.2f} ± {scale * half:.2f}{unit}" if share else f"{abs(gap):.4g} ± {half:.2g}"
    if abs(gap) > half:
        return f"{names[0]} beats {names[1]} by {size}, {seeds}"
    return f"{names[0]} and {names[1]} cannot be told apart: {size}, {seeds}; more seeds would tell"

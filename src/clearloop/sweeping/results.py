"""What a sweep found: its members, which setting is best, and whether that is more than noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from clearloop.adapters import smaller_is_better
from clearloop.errors import ConfigError
from clearloop.sweeping.verdict import compare, mean_and_spread

SHARES = ("accuracy", "error_rate")  # told in points of a hundred


@dataclass(frozen=True)
class Setting:
    """What is compared: the members of a setting differ in their seeds alone. None is the Learner's own."""

    lr: float
    weight_decay: float | None = None
    momentum: float | None = None

    def __str__(self) -> str:
        parts = [f"lr {self.lr:g}"]
        parts += [] if self.weight_decay is None else [f"weight decay {self.weight_decay:g}"]
        parts += [] if self.momentum is None else [f"momentum {self.momentum:g}"]
        return ", ".join(parts)


@dataclass
class Member:
    """One model of a sweep: its history, a row an epoch as in `learn.recorder.values`, and its weights at the end."""

    setting: Setting
    seed: int
    values: list[list[float]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    diverged: int | None = None  # the epoch in which its loss was lost


@dataclass(frozen=True)
class Sweep:
    """What a sweep found. `names` says what the columns of `member.values` are; `by`, which of them decides.

    The bits are those of the number of CPU `threads`.
    """

    members: list[Member]
    names: list[str]
    by: str
    threads: int = 1

    @property
    def settings(self) -> list[Setting]:
        """The settings, in the order that they were given."""
        return list(dict.fromkeys(member.setting for member in self.members))

    def results(self, setting: Setting) -> list[float]:
        """The last value of `by` of each seed that did not diverge."""
        return list(self.by_seed(setting).values())

    def by_seed(self, setting: Setting) -> dict[int, float]:
        """The same, by seed."""
        column = self.names.index(self.by)
        return {m.seed: m.values[-1][column] for m in self.members if m.setting == setting and m.diverged is None}

    @property
    def ranking(self) -> list[Setting]:
        """The settings that kept most seeds (all of them, mostly), the best mean first, a mean that is NaN last."""
        sign = 1 if smaller_is_better(self.by) else -1
        seeds = max(len(self.results(setting)) for setting in self.settings)
        whole = [setting for setting in self.settings if len(self.results(setting)) == seeds > 0]
        means = {setting: sign * mean_and_spread(self.results(setting))[0] for setting in whole}
        return sorted(whole, key=lambda setting: (math.isnan(means[setting]), means[setting]))

    @property
    def best(self) -> Setting:
        """The setting with the best mean. Raises ConfigError where every member diverged."""
        if not self.ranking:
            raise ConfigError("every member of the sweep diverged; try smaller learning rates")
        return self.ranking[0]

    @property
    def verdict(self) -> str:
        """Whether the best setting really beats the second best."""
        if len(self.ranking) < 2:
            return f"{self.best}: nothing to compare it with"
        first, second = self.ranking[:2]
        one, other = self.by_seed(first), self.by_seed(second)
        both = [seed for seed in one if seed in other]  # each may have lost another seed
        if not both:
            return f"{first} and {second} have no seed in common that both kept; sweep more of them"
        values = [one[seed] for seed in both], [other[seed] for seed in both]
        return compare((str(first), str(second)), *values, self.by.endswith(SHARES))

    def table(self) -> str:
        """Mean and standard deviation over seeds of each setting, the best first."""
        lost = [setting for setting in self.settings if setting not in self.ranking]
        width = max(len(str(setting)) for setting in self.settings)
        lines = [f"{'setting':{width}}  {self.by:>12}  {'± over seeds':>12}  seeds"]
        for setting in [*self.ranking, *lost]:
            found = self.results(setting)
            total = sum(member.setting == setting for member in self.members)
            mean, spread = mean_and_spread(found) if found else (math.nan, math.nan)
            note = "" if len(found) == total else f"  {total - len(found)} diverged"
            lines.append(f"{setting!s:{width}}  {mean:12.6f}  {spread:12.6f}  {total:5}{note}")
        return "\n".join(lines)

    def plot(self, path: str | Path | None = None) -> Any:
        """The last value by setting, with bars over seeds, and the mean curves; the figure, written if `path` is."""
        from clearloop.sweeping.plots import plot_sweep

        return plot_sweep(self, path)

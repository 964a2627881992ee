"""What a sweep found: its members, which setting is best, and whether that is more than noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from clearloop.errors import ConfigError
from clearloop.sweeping.verdict import compare, mean_and_spread

SMALLER_IS_BETTER = ("loss", "error_rate", "mse", "rmse", "mae")


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
    """What a sweep found. `names` says what the columns of `member.values` are; `by`, which of them decides."""

    members: list[Member]
    names: list[str]
    by: str

    @property
    def settings(self) -> list[Setting]:
        """The settings, in the order that they were given."""
        return list(dict.fromkeys(member.setting for member in self.members))

    def results(self, setting: Setting) -> list[float]:
        """The last value of `by` of each seed that did not diverge."""
        column = self.names.index(self.by)
        return [m.values[-1][column] for m in self.members if m.setting == setting and m.diverged is None]

    @property
    def ranking(self) -> list[Setting]:
        """Settings that did not diverge with any seed, the best mean first; then the others."""
        sign = 1 if self.by.endswith(SMALLER_IS_BETTER) else -1
        seeds = max(len(self.results(setting)) for setting in self.settings)
        whole = [setting for setting in self.settings if len(self.results(setting)) == seeds > 0]
        return sorted(whole, key=lambda setting: sign * mean_and_spread(self.results(setting))[0])

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
        share = self.by not in ("train_loss", "valid_loss", "mse", "rmse", "mae", "r2_score")
        return compare((str(first), str(second)), self.results(first), self.results(second), share)

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

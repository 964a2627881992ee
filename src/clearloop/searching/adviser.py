"""Ax behind two questions: which values to try next, and whether a trial trails so far that it may stop."""

from __future__ import annotations

import contextlib
import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from clearloop.errors import ConfigError
from clearloop.searching.space import Choice, Integer, Params, Space
from clearloop.searching.trials import Plan, Trial

EPOCHS_BEFORE_STOP = 1  # a trial may be stopped after more epochs than this
TRIALS_BEFORE_STOP = 3  # and once so many others have run to their end


class Adviser:
    """Asks Ax about a search.

    What is proposed is a function of the plan and of the trials so far: each question gets a client of Ax that is told
    all of them anew. So a search that goes on needs nothing but search.json, and one that runs its trials one by one
    proposes what it would have proposed without the break.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ax = load_ax()
        with quietly():
            self._configured(self.plan.seed, first=True)  # what Ax refuses, it refuses here
        self._watching: Any = None  # a client that knows whole curves
        self._told: dict[int, tuple[int, int]] = {}  # by trial: its index there, and how many values it was told

    def propose(self, trials: Sequence[Trial]) -> Params | None:
        """Values for the next trial, never such as were tried; None when nothing is left. Slow: up to seconds."""
        tried = [trial.params for trial in trials]
        untried = remaining(self.plan.space, tried)
        if untried == []:
            return None
        with quietly():
            client = self._configured(self.plan.seed + len(trials), first=not trials)
            for trial in trials:
                index = client.attach_trial(dict(trial.params))
                if trial.value is not None:
                    client.attach_data(index, {"value": self._measured(trial.value)})
                close(client, index, trial)
            try:
                (proposed,) = client.get_next_trials(1).values()
            except self.ax.OptimizationComplete:  # the space is nearly used up
                proposed = None
        params = None if proposed is None else typed(self.plan.space, proposed)
        if params is not None and params not in tried:
            return params
        if untried is None:
            raise ConfigError("Ax finds no new values in this space; widen it, or ask for fewer trials")
        return random.Random(self.plan.seed + len(trials)).choice(untried)

    def trails(self, trial: Trial, trials: Sequence[Trial]) -> bool:
        """Whether the trial is worse than half of the others were after as many epochs."""
        finished = sum(other.state == "done" and len(other.values) > EPOCHS_BEFORE_STOP for other in trials)
        if len(trial.values) <= EPOCHS_BEFORE_STOP or finished < TRIALS_BEFORE_STOP:
            return False
        with quietly():
            if self._watching is None:
                self._watching = self._configured(self.plan.seed, first=True)
                strategy = self.ax.PercentileEarlyStoppingStrategy(
                    min_progression=EPOCHS_BEFORE_STOP, min_curves=TRIALS_BEFORE_STOP
                )
                self._watching.set_early_stopping_strategy(strategy)
            for other in trials:
                self._tell(other)
            return bool(self._watching.should_stop_trial_early(self._told[trial.number][0]))

    def _tell(self, trial: Trial) -> None:
        """Bring the watching client up to date with a trial."""
        client = self._watching
        if trial.number not in self._told:
            self._told[trial.number] = client.attach_trial(dict(trial.params)), 0
        index, told = self._told[trial.number]
        if told < 0:  # it is closed there
            return
        for epochs, value in enumerate(trial.values[told:], start=told + 1):
            client.attach_data(index, {"value": value}, progression=epochs)
        self._told[trial.number] = index, len(trial.values)
        if trial.state != "running":
            close(client, index, trial)
            self._told[trial.number] = index, -1

    def _measured(self, value: float) -> Any:
        """A value with its standard error, or without one where Ax is to estimate the noise."""
        return value if self.plan.noisy else (value, 0.0)

    def _configured(self, seed: int, first: bool) -> Any:
        client = self.ax.Client(random_seed=seed)
        parameters = [self._parameter(name) for name in self.plan.space.parameters]
        constraints = [constraint.normal() for constraint in self.plan.space.constraints]
        try:
            client.configure_experiment(parameters, parameter_constraints=constraints)
        except (self.ax.UserInputError, ValueError) as error:
            raise ConfigError(f"Ax refuses this space: {error}") from error
        client.configure_optimization("-value" if self.plan.minimize else "value")
        client.configure_generation_strategy(
            initialization_random_seed=seed,  # another one each time: a sequence would begin from its start again
            initialize_with_center=first,
            allow_exceeding_initialization_budget=True,  # more trials at a time than that are nothing to wait for
        )
        return client

    def _parameter(self, name: str) -> Any:
        parameter = self.plan.space.parameters[name]
        if isinstance(parameter, Choice):
            kind = {bool: "bool", int: "int", float: "float", str: "str"}[type(parameter.values[0])]
            ordered = kind in ("int", "float")
            return self.ax.ChoiceParameterConfig(name, list(parameter.values), kind, is_ordered=ordered)
        kind = "int" if isinstance(parameter, Integer) else "float"
        scaling = "log" if parameter.log else "linear"
        return self.ax.RangeParameterConfig(name, (parameter.low, parameter.high), kind, scaling=scaling)


def close(client: Any, index: int, trial: Trial) -> None:
    """Tell Ax how a trial ended; one that runs, or that is to go on, stays open."""
    if trial.state == "done":
        client.complete_trial(index)
    elif trial.state == "stopped early":
        client.mark_trial_early_stopped(index)
    elif trial.state == "failed":
        client.mark_trial_abandoned(index)  # Ax may propose again what is marked as failed, and never this


def remaining(space: Space, tried: Sequence[Params]) -> list[Params] | None:
    """The points of a small space that were not tried; None where there are too many to count."""
    points = space.points()
    return None if points is None else [point for point in points if point not in tried]


def typed(space: Space, params: dict[str, Any]) -> Params:
    """What Ax proposes in plain types, inside of the bounds."""
    made: Params = {}
    for name, parameter in space.parameters.items():
        value = params[name]
        if isinstance(parameter, Choice):
            made[name] = next(known for known in parameter.values if known == value)
        elif isinstance(parameter, Integer):
            made[name] = min(max(int(value), parameter.low), parameter.high)
        else:
            made[name] = min(max(float(value), parameter.low), parameter.high)
    return made


def load_ax() -> SimpleNamespace:
    """The names of Ax that are used, imported when a search begins: that takes seconds."""
    try:
        with quietly():
            from ax.api.client import Client
            from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
            from ax.early_stopping.strategies import PercentileEarlyStoppingStrategy
            from ax.exceptions.core import OptimizationComplete, UserInputError
            from ax.utils.common.logger import set_stderr_log_level
    except ImportError as error:
        raise ConfigError(f'a search needs Ax: pip install "clearloop[search]" ({error})') from error
    set_stderr_log_level(logging.CRITICAL)  # it logs each trial, and more
    return SimpleNamespace(
        Client=Client, ChoiceParameterConfig=ChoiceParameterConfig, RangeParameterConfig=RangeParameterConfig,
        PercentileEarlyStoppingStrategy=PercentileEarlyStoppingStrategy,
        OptimizationComplete=OptimizationComplete, UserInputError=UserInputError,
    )  # fmt: skip


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of Ax and of what it uses, which speak of its inner workings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

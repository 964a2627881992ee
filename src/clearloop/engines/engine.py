"""The contract of all engines: they take the steps of a span; what they hold, besides choices, can be made again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from clearloop.step import Span, TrainState


class Engine(ABC):
    """What the Learner asks of an engine."""

    notes: list[str]  # what it has to say to the user, in whole lines; progress shows them
    fast_steps = 0  # how many of the run's steps another way than step by step in plain PyTorch has taken

    def __init__(self) -> None:
        self.notes = []

    @abstractmethod
    def run(self, state: TrainState, span: Span) -> tuple[list[Tensor], list[Any]]:
        """Take the steps of `span`; returns the detached loss and the sample count of each."""

    def state_dict(self) -> dict[str, Any]:
        """What it has chosen, as plain data, so that a resumed run goes on with the same choices."""
        return {}

    def load_state_dict(self, choices: dict[str, Any]) -> None:  # noqa: B027 - most have nothing to take
        """Take back what `state_dict` gave."""

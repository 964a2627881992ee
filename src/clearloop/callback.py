"""Callbacks: eight hooks, real methods, called with the Learner; one that nobody overrides costs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearloop.learner import Learner


class Callback:
    """Override the hooks you need; read what you need from the Learner; keep what must survive in `state_dict`.

    `order` decides who is called first (small before large; the order of the list among equals).
    `interval` is how often `after_step` wants to be called: every that many steps, counted within the epoch; None
    when it does not matter, for what goes by the clock.

    >>> class Shout(Callback):
    ...     def after_epoch(self, learn):
    ...         print(f"epoch {learn.history.epochs[-1].epoch} is done")
    """

    order: int = 0
    interval: int | None = 1
    recorded: bool = True  # False for what only shows the run: it is no part of the recipe
    writes: bool = False  # True for what prints or writes files: of several processes, only the first calls it

    def before_fit(self, learn: Learner) -> None:
        """Before the first step of a fit, also of one that is resumed in the middle."""

    def before_epoch(self, learn: Learner) -> None:
        """Before the first step of an epoch; not again where a run resumes inside it."""

    def before_step(self, learn: Learner) -> None:
        """Before each optimizer step; `learn.window` holds its batches, and may be replaced."""

    def after_step(self, learn: Learner) -> None:
        """After the optimizer step; `learn.history` holds the loss, perhaps still on the device."""

    def before_validate(self, learn: Learner) -> None:
        """Before any evaluation, also outside of a fit."""

    def after_validate(self, learn: Learner) -> None:
        """After any evaluation, also one that failed."""

    def after_epoch(self, learn: Learner) -> None:
        """After validation; `learn.history.epochs[-1]` is the record of the epoch that ended."""

    def after_fit(self, learn: Learner) -> None:
        """Always, at the end; `learn.failure` is the exception that ended the fit, or None."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: nested containers of numbers, strings and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


def overriding(callbacks: Iterable[Callback], hook: str) -> list[Callback]:
    """The callbacks whose class defines `hook` itself.

    >>> overriding([Callback()], "after_step")
    []
    """
    return [callback for callback in callbacks if getattr(type(callback), hook) is not getattr(Callback, hook)]

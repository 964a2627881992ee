"""Ctrl-C and SIGTERM at a safe moment: never in the middle of an optimizer step or of a save."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

HANDLED = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 1.0  # a second signal so soon says the same as the first: a key pressed twice, a wrapper that passes it on


class Interrupts:
    """While installed, a signal that comes inside `held()` waits for its end; elsewhere it acts at once.

    SIGINT becomes KeyboardInterrupt, SIGTERM becomes SystemExit(143). Another signal, once the first has waited for a
    second, waits no longer, unless it comes inside `held(firmly=True)`, where runs are saved. Outside the main thread
    nothing is installed.
    """

    def __init__(self) -> None:
        self.waiting: int | None = None
        self.depth = 0
        self.firm = 0
        self._came = -math.inf  # when the first signal of the present series came

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle signals for a block, then put the former handlers back."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if self.depth == 0:
            self.waiting, self._came = None, -math.inf  # of a former block
        former: dict[int, Any] = {number: signal.signal(number, self._handle) for number in HANDLED}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self, firmly: bool = False) -> Iterator[None]:
        """Let the block finish first."""
        before = self.depth, self.firm
        self.firm += firmly
        self.depth += 1
        try:
            yield
        finally:
            self.depth, self.firm = before
        self.act()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Inside one `held()`, let signals act at once again for a block; inside several, change nothing."""
        before = self.depth, self.firm
        try:
            if self.depth == 1:
                self.depth, self.firm = 0, 0
                self.act()
            yield
        finally:
            self.depth, self.firm = before

    def act(self) -> None:
        """Raise what a signal that waits turns into, unless inside `held()`."""
        if self.depth == 0 and self.waiting is not None:
            number, self.waiting = self.waiting, None
            raise self._interruption(number)

    def _interruption(self, number: int) -> BaseException:
        return interruption(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = time.monotonic() - self._came < PATIENCE_S
        if not again:
            self._came = time.monotonic()
        if self.firm or self.depth and (again or self.waiting is None):
            self.waiting = self.waiting or number
        elif not again:
            self.waiting = None
            raise interruption(number)


class SharedInterrupts(Interrupts):
    """Signals to one of several processes: noted, told to all with the next exchange, and acted on by all after it.

    No process stops by itself, or the others would wait for it; so a second signal changes nothing. All exit with 0:
    what was asked for is done, and torchrun has nothing to begin anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted = False

    def agree(self) -> None:
        """Some process has noted a signal, and now all of them know: stop when the present block has ended."""
        self.noted, self.waiting = False, signal.SIGTERM

    def _interruption(self, number: int) -> BaseException:
        return SystemExit(0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.noted = True


def interruption(number: int) -> BaseException:
    """The exception that a signal turns into."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)

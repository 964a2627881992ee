"""What processes know of each other besides their common work: who is alive, who failed, and who says so."""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import time
from types import TracebackType

import torch.distributed as dist
from torch._C._distributed_c10d import Store

BEAT_S = 0.5  # between two signs of life
UNEASY_S = 30.0  # a process that gives none for so long, while the others wait for it, is spoken of
SILENCE_S = 2.5  # who gives none for so long, after an error of communication, is the one that failed
MARKS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Application timeout", "Broken pipe")


class Peers:
    """The other processes, through the store of torchrun, which outlives each of them.

    A thread gives a sign of life every half second, and looks for that of the next rank. Who fails or ends leaves word;
    who is killed or stopped leaves none, but his signs of life end. Whatever ends the group is printed by one process,
    the first to know.
    """

    def __init__(self, rank: int, world_size: int, job: Store, store: Store) -> None:
        self.rank, self.world_size, self.job, self.store = rank, world_size, job, store
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="clearloop-beat", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        self._former_hook = sys.excepthook
        sys.excepthook = self._print_once

    def close(self) -> None:
        """Give no more signs of life, as nobody should miss them."""
        self._ended.set()
        self._thread.join(5)
        with contextlib.suppress(RuntimeError):
            self.store.set(f"ended-{self.rank}", "")

    def roll_call(self) -> str:
        """Which process failed, when others are found to be gone: what it said itself, or who is silent."""
        try:
            before, latest = self._beats(), time.monotonic() + SILENCE_S
            while time.monotonic() < latest and not self.store.check(["failure"]):
                time.sleep(0.05)
            silent = [rank for rank, beats in enumerate(self._beats()) if beats == before[rank] and rank != self.rank]
            if silent:
                ended = all(self.store.check([f"ended-{rank}"]) for rank in silent)
                named = f"rank {silent[0]}" if len(silent) == 1 else f"ranks {', '.join(map(str, silent))}"
                text = f"{named} gave no sign of life: killed, stopped or cut off from the others"
                if ended:
                    text = f"{named} ended by itself while others waited for it: call fit and validate in every process"
            else:
                text = "the processes lost each other, though all of them live; look at the network between them"
            return self._first_word(text)
        except RuntimeError:  # the store is gone too
            return "the processes lost each other, and torchrun's store with it; its machine is gone, or unreachable"

    def report(self, error: BaseException) -> bool:
        """Leave word of the error that ends this process; True for the first that does, which is to print it."""
        try:
            self._first_word(f"rank {self.rank} failed: {type(error).__name__}: {' '.join(str(error).split())}")
            return int(self.store.add("told", 1)) == 1
        except RuntimeError:
            return True

    def _first_word(self, text: str) -> str:
        """The line about the failure: what the first process wrote that knew of it."""
        return str(self.store.compare_set("failure", "", text).decode())

    def _beats(self) -> list[int]:
        return [int(self.store.add(f"beat-{rank}", 0)) for rank in range(self.world_size)]

    def _beat(self) -> None:
        watched = (self.rank + 1) % self.world_size
        latest, silent = 0, 0  # counted in this thread's own turns: a machine that slept was silent as a whole
        with contextlib.suppress(RuntimeError):  # the store is gone: so will be this process
            while not self._ended.wait(BEAT_S):
                self.store.add(f"beat-{self.rank}", 1)
                before, latest = latest, int(self.store.add(f"beat-{watched}", 0))
                silent = silent + 1 if latest == before and latest else 0  # one that has not begun is not silent
                if silent == round(UNEASY_S / BEAT_S) and not self.store.check([f"ended-{watched}"]):
                    self._warn(watched)

    def _warn(self, rank: int) -> None:
        """To the terminal itself: where several processes run, `sys.stderr` may lead nowhere."""
        print(
            f"note: rank {rank} has given no sign of life for {UNEASY_S:.0f} s, and the others wait for it; "
            "CLEARLOOP_TIMEOUT_S says for how many seconds (600)",
            file=sys.__stderr__,
            flush=True,
        )

    def _print_once(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if self.report(error):
            print(f"rank {self.rank} of {self.world_size}:", file=sys.stderr)
            self._former_hook(kind, error, trace)


def of_communication(error: RuntimeError) -> bool:
    """Whether an error of torch's says that another process did not answer.

    >>> of_communication(RuntimeError("Connection closed by peer [127.0.0.1]:27853"))
    True
    """
    return isinstance(error, dist.DistError) or any(mark in str(error) for mark in MARKS)

"""The compiled engine: whole steps as one program, checked against eager steps before any is trusted."""

from __future__ import annotations

import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from clearloop.engines import payback, rules
from clearloop.engines.eager import EagerEngine
from clearloop.engines.engine import Engine
from clearloop.engines.parity import TOLERANCE, Moment, difference
from clearloop.engines.programs import Compiler, Layout, Program, compiled, step_function
from clearloop.engines.windows import Window, is_whole, take
from clearloop.errors import ConfigError
from clearloop.step import Span, TrainState, set_lr

CHECKS = 3  # steps that both engines take from the same states, before the compiled one is trusted
TAKEN = 64  # steps that are taken without a look at anything else
PROGRAMS = 8  # at most, of batches of other sizes
CHANGES = 3  # how often what is trained, or an optimizer's options, may change before the engine steps aside
STEPS_A_CALL = 8  # where several steps a call pay
CYCLED = "the schedule cycles the optimizer's momentum, a constant of compiled steps; give it cycle_momentum=False"

Taken = tuple[list[Tensor], list[Any]]  # losses and counts


@dataclass
class Choice:
    """What has been chosen: part of every checkpoint, as it decides bits."""

    since: int | None = None  # the first step that is a compiled one's; None while that is not decided
    aside: str | None = None  # why eager steps are taken
    until: int | None = None  # a fit that goes on beyond this step asks again; None: nobody does
    fast_steps: int = 0
    inside: bool = True  # programs gather by themselves where they can
    trained: str = ""  # a digest of what is trained, and by which rule
    changes: int = 0  # of that
    forms: list[str] = field(default_factory=list)  # of windows that came since then
    left: list[str] = field(default_factory=list)  # forms among them that are left to eager steps


class Failed(Exception):
    """A program cannot be made, or cannot be trusted."""


class CompiledEngine(Engine):
    """Takes whole steps as one compiled program: gather, forward, loss, backward, clipping and update.

    For SGD, Adam and AdamW; with any schedule, clipping, accumulation, augmentation (done before the program), and
    with the very dropout masks of eager steps. Before it is trusted, three steps are taken by both engines from the
    same states; where they differ by more than rounding, or where something cannot be compiled, it steps aside, says
    why, and eager steps are taken. The smaller batch at the end of an epoch has a program of its own, which takes one
    such step to be trusted, and leaves those batches alone to eager steps if it cannot be. Weights are those of eager
    steps up to rounding, and the same in every run, wherever it was stopped and resumed.

    Args:
        auto: measure eager steps first, and compile only where that saves time in the steps that are left.
        steps_per_call: steps that one call of a program takes; as many as pay when None. It changes no bits: several
            are taken only where they end in the bits of as many single ones. Where a program does not gather by
            itself (augmentation, a dataset or loader of one's own), each step is a call.
        tolerance: how far the ends of a step may be apart, as a share of its length.
        compiler: makes a program of a function of tensors.
    """

    def __init__(
        self,
        *,
        auto: bool = False,
        steps_per_call: int | None = None,
        tolerance: float = TOLERANCE,
        compiler: Compiler = compiled,
    ) -> None:
        super().__init__()
        self.auto, self.tolerance, self.compiler = auto, tolerance, compiler
        self.alone = EagerEngine()
        self.choice = Choice()
        self._eager_time, self._fast_time = payback.Timing(), payback.Timing(warm_up=2)
        self._layout: Layout | None = None
        self._programs: dict[Any, Program] = {}
        self._checks: dict[Any, int] = {}  # by form of windows, the checks that are left
        self._data: tuple[Any, ...] = ()  # what programs gather from
        self._made_s, self._reported = 0.0, False
        self._arguments: Any = None  # what programs are given besides batches, while nobody else takes a step
        self._many, self._asked_many = steps_per_call or 1, steps_per_call is not None

    @property
    def fast_steps(self) -> int:  # type: ignore[override]
        """How many of the run's steps were compiled ones."""
        return self.choice.fast_steps

    def state_dict(self) -> dict[str, Any]:
        """The choices."""
        return asdict(self.choice)

    def load_state_dict(self, choices: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; programs are made, and checked, anew."""
        self._choose(Choice(**choices))

    def run(self, state: TrainState, span: Span) -> Taken:
        """Take the steps of `span`: their detached losses, and the sample count that each loss is a mean over."""
        losses: list[Tensor] = []
        counts: list[Any] = []
        while len(losses) < span.steps:
            found = self._some(state, after(span, len(losses)))
            losses += found[0]
            counts += found[1]
        return losses, counts

    def _some(self, state: TrainState, span: Span) -> Taken:
        """The first steps of a span: as many as go one way."""
        if self.choice.until is not None and end(span) > self.choice.until:
            self._choose(Choice(fast_steps=self.choice.fast_steps))
        if self.choice.aside is None and self.choice.since is None:
            self._decide(state, span)
        choice = self.choice
        if choice.aside is not None:
            return self.alone.run(state, span)
        if choice.since is None:
            return self._eager_time.timed(self.alone, state, span)
        eager = choice.since - CHECKS - span.first
        if eager > 0:
            return self._eager_time.timed(self.alone, state, replace(span, steps=min(span.steps, eager)))
        return self._compiled(state, span)

    # -- choosing --------------------------------------------------------------------------------------------------

    def _choose(self, choice: Choice) -> None:
        """Go on with another choice; programs are made, and checked, anew."""
        self.choice = choice
        self._layout, self._programs, self._checks, self._data = None, {}, {}, ()

    def _decide(self, state: TrainState, span: Span) -> None:
        """Set since when steps are compiled, or why they are not, if that is known by now."""
        never = refusal(state)
        if never is not None:
            self._step_aside(never)
        elif rules.is_cycled(state.opt):
            self._step_aside(CYCLED, until=end(span))
        elif not self.auto:
            self.choice.since = span.first + 1 + CHECKS  # an optimizer's state comes into being with its first step
        elif self._eager_time.known:
            hopeless = payback.forecast(self._eager_time.seconds, state, span.left)
            if hopeless is None:
                self.choice.since = span.first + 1 + CHECKS
            else:
                self._step_aside(hopeless, until=end(span))

    def _step_aside(self, reason: str, until: int | None = None) -> None:
        self._choose(replace(self.choice, aside=reason, until=until))
        if self.auto:
            self.notes.append(f"eager steps: {reason}")
        else:
            warnings.warn(f"compiled steps were asked for, eager ones are taken: {reason}", stacklevel=2)

    def _report(self, state: TrainState, left: int) -> None:
        """Once enough compiled steps were measured: say what they save, or go back; see if several a call pay."""
        self._reported = True
        fast, eager = self._fast_time.seconds, self._eager_time.seconds
        payback.note_cost(state, self._made_s)
        if self.auto and self._eager_time.known and fast > eager:
            return self._step_aside(f"compiled ones take {fast * 1e3:.3g} ms, eager ones {eager * 1e3:.3g}")
        gain = f", eager ones took {eager * 1e3:.3g}: {payback.brief((eager - fast) * left)} less in the {left:,} left"
        made = f"; making the program took {payback.brief(self._made_s)}"
        known = self.auto and self._eager_time.known
        self.notes.append(f"compiled steps: {fast * 1e3:.3g} ms each{gain if known else ''}{made}")
        # The program of several steps has the kernels of the one that is there: it takes about as long to make.
        if not self._asked_many and payback.SAVED_BY_CALLS_S * left > payback.MARGIN * self._made_s:
            self._many = STEPS_A_CALL
        return None

    def _renew(self, state: TrainState, span: Span) -> None:
        """Find anew what is trained, and by which rule, where that has changed since the programs were made."""
        if self._layout is not None and self._layout.holds(state):
            return
        if rules.is_cycled(state.opt):
            return self._step_aside(CYCLED, until=end(span))
        try:
            layout = Layout(state)
        except Exception as error:  # of two samples, a model and a loss can raise anything
            return self._step_aside(f"it cannot be seen what is trained: {said(error)}")
        choice = self.choice
        if choice.trained != layout.digest:
            changes = choice.changes + bool(choice.trained)
            if changes > CHANGES:
                return self._step_aside("what is trained, or an option of the optimizer, changes all the time")
            choice.trained, choice.changes, choice.forms, choice.left = layout.digest, changes, [], []
        self._layout, self._programs, self._checks = layout, {}, {}

    # -- steps -----------------------------------------------------------------------------------------------------

    def _compiled(self, state: TrainState, span: Span) -> Taken:
        """The next steps: at once where their programs are made and trusted, else one."""
        self._renew(state, span)
        if self._layout is None:
            return self.alone.run(state, span)
        trusted = self._trusts(span)
        windows = take(state, span, min(span.steps, TAKEN) if trusted else 1, self.choice.inside)
        trusted = self._gathers_from(windows[0]) and trusted
        lrs = self._layout.lrs(state.opt, span, len(windows))
        started, made_s = None if self._reported or not trusted else payback.now(state), self._made_s
        losses: list[Tensor] = []
        self._arguments = None
        while len(losses) < len(windows):
            done = len(losses)
            group = windows[done : done + self._many]
            if len(group) < self._many or any(window.form != group[0].form for window in group[1:]):
                group = group[:1]
            checked = trusted and self._checks.get(group[0].form) == 0
            if checked and (len(group), group[0].form) in self._programs:
                losses += self._trusted(state, span, done, group, lrs[done : done + len(group)])
            elif checked and len(group) > 1:
                losses += self._together(state, after(span, done), group)
            else:
                if group[0].made is not None and not self.choice.inside:  # not any more
                    windows[done] = group[0].given()
                losses.append(self._one(state, after(span, done), windows[done]))
        if span.lrs is not None:
            set_lr(state.opt, span.lrs[len(windows) - 1])
        state.opt._opt_called = True  # type: ignore[attr-defined]  # torch's schedulers ask whether it took a step
        if started is not None and self._made_s == made_s:
            self._fast_time.note(payback.now(state) - started, len(windows))
            if self._fast_time.known and self.choice.aside is None:
                self._report(state, span.left - len(windows))
        return losses, [window.total for window in windows]

    def _trusts(self, span: Span) -> bool:
        """Whether all programs that there are were checked, and nobody else wants to see the steps."""
        assert self._layout is not None
        checked = bool(self._checks) and not any(self._checks.values())
        return checked and span.first >= (self.choice.since or 0) and not self._layout.is_watched()

    def _gathers_from(self, window: Window) -> bool:
        """Whether programs, which hold the data that they gather from, hold these; if not, they are made anew."""
        if window.made is None or same(self._data, window.data):
            return True
        if self._data:
            self._programs, self._checks = {}, {}
        self._data = window.data
        return False

    def _goes(self, state: TrainState, span: Span, window: Window) -> bool:
        """Whether a window is one for a program."""
        if self._layout is None or not self._layout.ready(state.opt):
            return False
        if self.choice.left and str(window.form) in self.choice.left:
            return False
        return not self.auto or is_whole(state, window, span.accumulate)

    def _one(self, state: TrainState, span: Span, window: Window) -> Tensor:
        """One step: compiled, or eager where that is what has been chosen for such a window."""
        if not self._goes(state, span, window):
            return self._eagerly(state, span, window)
        assert self._layout is not None
        form = window.form
        if form not in self._checks:
            if str(form) not in self.choice.forms:
                self.choice.forms.append(str(form))
            if len(self.choice.forms) > PROGRAMS:
                self._step_aside(f"batches come in more than {PROGRAMS} sizes")
                return self._eagerly(state, span, window)
            self._checks[form] = CHECKS if is_whole(state, window, span.accumulate) else 1
        if self._checks[form] or not self._trusts(span):
            return self._checked(state, span, window)
        return self._trusted(state, span, 0, [window], self._layout.lrs(state.opt, span, 1))[0]

    def _trusted(
        self, state: TrainState, span: Span, done: int, windows: list[Window], lrs: list[list[Tensor]]
    ) -> list[Tensor]:
        """The steps of some windows by their program, whatever was checked before."""
        try:
            return self._call(state, windows, lrs)
        except Failed as failed:  # before it has changed anything
            self._step_aside(str(failed))
            return [self._eagerly(state, after(span, done + n), window) for n, window in enumerate(windows)]

    def _checked(self, state: TrainState, span: Span, window: Window) -> Tensor:
        """One step taken by both engines; before `since` the eager one's end is kept, else the compiled one's."""
        assert self._layout is not None
        before, lrs, fast_steps = Moment(state), self._layout.lrs(state.opt, span, 1), self.choice.fast_steps
        whole = is_whole(state, window, span.accumulate)
        loss = self._eagerly(state, span, window)
        eager = Moment(state)
        before.restore(state)
        try:
            try:
                (own,) = self._call(state, [window], lrs)
            except Failed:
                if window.made is None or not whole:
                    raise
                before.restore(state)
                window = self._given(window)  # perhaps it is the gathering that cannot be compiled
                (own,) = self._call(state, [window], lrs)
            found = difference(state, before, eager, Moment(state), (loss, own), self.tolerance)
            if found or window.total != sum(window.counts):
                raise Failed(f"compiled and eager steps differ: {found or 'the samples of a batch'}")
        except Failed as failed:
            eager.restore(state)
            self.choice.fast_steps = fast_steps
            if whole:
                self._step_aside(str(failed))
            else:
                self._leave(window.form, str(failed))
            return loss
        self._checks[window.form] = max(0, self._checks[window.form] - 1)
        if span.first < (self.choice.since or 0):
            eager.restore(state)
            self.choice.fast_steps = fast_steps
            return loss
        return own

    def _leave(self, form: Any, reason: str) -> None:
        """Take eager steps for windows of this form, and go on compiled with whole ones."""
        self.choice.left.append(str(form))
        self._checks.pop(form)
        self._programs.pop((1, form), None)
        self.notes.append(f"eager steps where batches are fewer or smaller: {reason}")

    def _given(self, window: Window) -> Window:
        """A window with batches in place of indices, as all are from now on."""
        window = window.given()
        self.choice.inside, self.choice.forms = False, [str(window.form)]
        self._checks = {window.form: CHECKS}
        return window

    def _together(self, state: TrainState, span: Span, windows: list[Window]) -> list[Tensor]:
        """The first steps in one call, beside as many single ones: their bits must be the same."""
        assert self._layout is not None
        before, lrs = Moment(state), self._layout.lrs(state.opt, span, len(windows))
        losses = [self._one(state, after(span, done), window) for done, window in enumerate(windows)]
        if self.choice.aside is not None:
            return losses
        single, steps = Moment(state), self.choice.fast_steps
        before.restore(state)
        try:
            together = self._call(state, windows, lrs)
            if not (all(map(torch.equal, losses, together)) and single.equals(Moment(state))):
                raise Failed(f"{self._many} steps in one call end in other bits than single ones")
        except Failed as failed:
            self.notes.append(f"one step a call: {failed}")
            self._many = 1
        self.choice.fast_steps = steps
        single.restore(state)
        return losses

    def _call(self, state: TrainState, windows: list[Window], lrs: list[list[Tensor]]) -> list[Tensor]:
        """Let a program take the steps of `windows`. Raises: Failed if it cannot be made."""
        assert self._layout is not None
        layout, key = self._layout, (len(windows), windows[0].form)
        if self._arguments is None:
            self._arguments = layout.weights(), layout.model.current(), layout.moments(state.opt)
        program, new = self._programs.get(key), key not in self._programs
        try:
            with self._making() if new else nullcontext():
                if program is None:
                    program = self.compiler(step_function(state, layout, windows[0].made))
                losses = program(*self._arguments, [window.parts() for window in windows], lrs)
        except Exception as error:
            if not new and not isinstance(error, torch._dynamo.exc.TorchDynamoException):
                raise
            raise Failed(f"the step cannot be compiled: {said(error)}") from error
        self._programs[key] = program
        self.choice.fast_steps += len(windows)
        return losses

    @contextmanager
    def _making(self) -> Iterator[None]:
        """Compilers warn of what is not the user's to mend; how long they take is counted."""
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        self._made_s += time.perf_counter() - started

    def _eagerly(self, state: TrainState, span: Span, window: Window) -> Tensor:
        """A step by the eager engine."""
        (loss,), (window.counted,) = self.alone.run(state, replace(span, batches=window.batches(), steps=1))
        self._arguments = None  # a module may have put other buffers in place of its own
        return loss


def after(span: Span, done: int) -> Span:
    """What is left of a span after some of its steps."""
    if not done:
        return span
    lrs = None if span.lrs is None else span.lrs[done:]
    return replace(span, steps=span.steps - done, lrs=lrs, first=span.first + done, left=span.left - done)


def end(span: Span) -> int:
    """The step with which the fit will have ended."""
    return span.first + span.left


def same(data: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether programs that gather from `data` would gather the same from `other`."""
    if len(data) != len(other):
        return False
    return all(a is b or (isinstance(a, Tensor) and torch.equal(a, b)) for a, b in zip(data, other, strict=True))


def refusal(state: TrainState) -> str | None:
    """Why steps of this kind cannot be compiled here, if that is known before it is tried."""
    if state.scaler is not None:
        return "fp16 scales its losses step by step; bf16 needs no scaling"
    if isinstance(state.model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return f"the model is in {type(state.model).__name__}; give its .module"
    try:
        rules.require_known(state.opt)
    except ConfigError as error:
        return str(error)
    return no_compiler(next(state.model.parameters()).device)


def no_compiler(device: torch.device) -> str | None:
    """What torch.compile misses on this machine, if anything."""
    if device.type == "cuda":
        return None if find_spec("triton") else "there is no Triton, which compiles for GPUs: pip install triton"
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "cl" if sys.platform == "win32" else "g++")
    return None if shutil.which(name) else f"there is no C++ compiler {name!r}: install one (Debian: apt install g++)"


def said(error: BaseException) -> str:
    """The line of an error's message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line and not line.startswith("File ")]
    return (telling or lines or [type(error).__name__])[0][:200].rstrip(".")

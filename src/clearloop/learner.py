"""The Learner: fit -> epoch -> steps, on any engine; evaluation, predictions, and the state of all of it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from clearloop import adapters, distributed, environment, preflight, rng
from clearloop.callback import Callback, overriding
from clearloop.checkpoint import load_train_state, train_state
from clearloop.conveniences import Conveniences
from clearloop.data.loader import as_loader, draw_seed
from clearloop.devices import make_scaler
from clearloop.errors import ConfigError, RunError
from clearloop.guard import evaluating
from clearloop.history import EpochRecord, History
from clearloop.losses import LossFunc
from clearloop.schedules import Schedule, TorchSchedule, one_cycle
from clearloop.step import Span, TrainState, evaluate, pair, set_lr
from clearloop.tree import concatenate, detach, to_device
from clearloop.weights import snapshot

if TYPE_CHECKING:
    from clearloop.saving import RunWriter

SPAN_SECONDS = 0.1  # how long steps run on before callbacks that go by the clock are asked


class Learner(Conveniences):
    """Trains a model on data, with a loss and an optimizer; knows at any step how to go on from there.

    Args:
        dls: `DataLoaders`, or a pair (training loader, validation loader or None) of any kind.
        model: any `nn.Module`; it is moved to `device`.
        loss_func: `(preds, targets) -> 0-d tensor`, a mean over samples; chosen from the targets when None.
        opt_func: `(parameters, lr) -> optimizer`: a `torch.optim` class or a `functools.partial` of one. Groups that it
            makes with other learning rates than `lr` keep their ratio to it, whatever schedules do.
        lr: learning rate of `fit` where that is given none; the optimizer's own default when None.
        metrics: one or several of `clearloop.metrics`, functions `(preds, targets) -> mean`, or torchmetrics objects.
        cbs: callbacks.
        seed: of dropout and of everything else that draws while training; from torch's generator when None.
        device: "auto" takes a CUDA GPU if there is one, else the CPU.
        precision: None (float32), "bf16", or "fp16" with loss scaling (CUDA only): autocast of the forward pass.
        clip: largest norm of all gradients together, or None.
        accumulate: batches whose gradients add up to one step.
        fast: the engine. "off": plain PyTorch, step by step. "compile": whole steps as one compiled program, checked
            against eager ones, equal to them up to rounding ("compile:8": eight steps a call). "auto": compiled where
            that saves time.

    Raises: ConfigError for arguments that cannot work; ModelError for a model without parameters.

    >>> import clearloop as cl
    >>> data = cl.TensorDataset(torch.randn(64, 3), torch.randint(0, 2, (64,)))
    >>> learn = Learner((cl.DataLoader(data, 16, shuffle=True), cl.DataLoader(data, 64)), nn.Linear(3, 2))
    >>> learn.fit(2, lr=0.1, quiet=True)
    >>> learn.history.steps, len(learn.history.values)
    (8, 2)
    """

    def __init__(
        self,
        dls: Any,
        model: nn.Module,
        loss_func: LossFunc | None = None,
        opt_func: Callable[..., Any] = torch.optim.SGD,
        lr: float | None = None,
        metrics: Any = (),
        cbs: Callback | Sequence[Callback] = (),
        *,
        seed: int | None = None,
        device: str | torch.device = "auto",
        precision: str | None = None,
        clip: float | None = None,
        accumulate: int = 1,
        fast: str = "off",
    ) -> None:
        from clearloop.engines import make_engine

        self.lr = adapters.default_lr(opt_func) if lr is None else lr
        preflight.check_options(model, self.lr, clip, accumulate)
        self.dls = adapters.as_loaders(dls)
        self.team = distributed.join()  # the processes that torchrun started; mostly this one alone
        self.device = self.team.device(device)
        self.model = model.to(self.device)
        self.opt_func, self.loss_func = opt_func, loss_func
        self.metrics, self.cbs = adapters.as_metrics(metrics), adapters.as_callbacks(cbs)
        self.seed = self.team.agree(self.dls, self.model, draw_seed() if seed is None else seed)
        self.precision, self.clip, self.accumulate, self.fast = precision, clip, accumulate, fast
        self.threads = torch.get_num_threads()
        self.engine = make_engine(fast, self.team, precision)
        self.opt = adapters.scaled_groups(opt_func(list(self.model.parameters()), self.lr), self.lr)
        self.scaler = make_scaler(precision, self.device)
        self.history = self.recorder = History()  # `recorder` is the name that courses know
        self.epoch, self.step = 0, 0  # the cursor: epochs finished, steps taken in the open one
        self.plans: list[dict[str, Any]] = []  # what each fit set out to do
        self.failure: BaseException | None = None
        self.stop_reason: str | None = None
        self.window: list[Any] = []
        self.run: RunWriter | None = None  # where it is written, if anywhere
        self.schedule: Schedule | TorchSchedule | None = None
        self._scheduler: Any = None
        self._scheduler_state: Any = None
        self.random_states = rng.seeded(self.seed)  # of this run, while it does not run
        self.first_weights: dict[str, torch.Tensor] | None = None  # those that the first fit begins with
        self._running = False
        self.whole = True  # False inside a step and what callbacks make of it, where states may disagree
        self._state: TrainState | None = None
        self.interrupts = self.team.interrupts()

    # -- training --------------------------------------------------------------------------------------------------

    def fit(self, epochs: int, lr: float | None = None, *, schedule: Any = None, quiet: bool = False) -> None:
        """Train for `epochs` more epochs; history, optimizer state and random states go on from where they are.

        Args: `schedule`, a function of the step, counted from the start of this fit (see `clearloop.schedules`), or
        a torch scheduler class or partial; without one the learning rate stays `lr`. `quiet` prints nothing.
        Raises: DataError, ModelError, ConfigError before the first step; NonFiniteError when the loss is lost.
        """
        lr = self.lr if lr is None else lr
        preflight.check_options(self.model, lr, epochs=epochs)
        self.prepared()
        if self.step:
            warnings.warn(f"epoch {self.epoch} was left at step {self.step}; resume() would finish it", stacklevel=2)
        self.step, self.whole = 0, True
        self.first_weights = self.first_weights if self.history.steps else snapshot(self.model)
        self.schedule, self._scheduler, self._scheduler_state = adapters.as_schedule(schedule), None, None
        self.plans.append(adapters.plan_of(self.epoch, epochs, self.history.steps, lr, self.schedule))
        adapters.forget_schedulers(self.opt)
        set_lr(self.opt, lr)
        self._run(quiet)

    def fit_one_cycle(self, epochs: int, lr_max: float, *, quiet: bool = False) -> None:
        """`fit` with one cycle of the learning rate over all its steps: up to `lr_max`, then down to nearly 0."""
        self.fit(epochs, lr_max, schedule=one_cycle(lr_max, epochs * self.steps_per_epoch), quiet=quiet)

    def resume(self, *, schedule: Any = None, quiet: bool = False) -> None:
        """Finish the fit that was interrupted, from the step where it stopped; nothing to do if it had ended.

        Args: `schedule`, only where the interrupted fit had one that its description cannot build again (a lambda).
        """
        if not self.plans:
            raise ConfigError("there is no fit to resume: call fit, or load a run first")
        if not self.whole:
            raise RunError("the fit ended in the middle of a step: load its run again, or call fit")
        self.prepared()
        if self.epoch < self.plan["last_epoch"]:
            from clearloop.build import schedule_of

            self.schedule = adapters.as_schedule(schedule) or self.schedule or schedule_of(self.plan)
            self._run(quiet)

    def stop(self, reason: str) -> None:
        """Ask for an end of the fit after the present epoch; for callbacks."""
        self.stop_reason = reason
        self.plan["last_epoch"] = min(self.plan["last_epoch"], self.epoch + (self.step > 0))

    @property
    def plan(self) -> dict[str, Any]:
        """What the present or last fit set out to do: its first and last epoch, first step, lr and schedule."""
        return self.plans[-1]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return -(-len(self.dls.train) // self.accumulate)

    def _run(self, quiet: bool) -> None:
        from clearloop.callbacks.progress import with_progress

        callbacks = self.team.callbacks(self.cbs if quiet else with_progress(self.cbs))
        self.failure, self.stop_reason = None, None
        if isinstance(self.schedule, TorchSchedule) and self._scheduler is None:
            self._scheduler = self.schedule.attach(self.opt, self._scheduler_state)
        with self.conditions(), self.interrupts.held(firmly=True), ExitStack() as closing:
            for callback in reversed(overriding(callbacks, "after_fit")):
                closing.callback(callback.after_fit, self)  # each of them, also where another one fails
            try:
                self.opt.zero_grad()  # what others may have left
                with self.interrupts.released():
                    for callback in overriding(callbacks, "before_fit"):
                        callback.before_fit(self)
                    while self.epoch < self.plan["last_epoch"] and self.stop_reason is None:
                        self._fit_epoch(callbacks)
            except BaseException as error:
                self.failure = error
                raise

    def _fit_epoch(self, callbacks: list[Callback]) -> None:
        started = time.perf_counter()
        self.model.train()
        if self.step == 0:
            for callback in overriding(callbacks, "before_epoch"):
                callback.before_epoch(self)
        self._train_steps(callbacks)
        valid = [] if self.dls.valid is None else self.validate(cbs=callbacks)
        train_loss = self.history.mean_loss(since=self.history.steps - self.step)
        valid_loss = valid[0] if valid else None
        metrics = dict(zip((metric.name for metric in self.metrics), valid[1:], strict=False))  # none if not valid
        lr, totals = self.history.lrs[-1], (self.history.steps, time.perf_counter() - started, self.engine.fast_steps)
        with self.interrupts.held():  # schedule, record, cursor and what callbacks make of them belong together
            self.whole = False
            if isinstance(self.schedule, TorchSchedule) and self.schedule.per == "epoch":
                self.schedule.after_epoch(self._scheduler, train_loss if valid_loss is None else valid_loss)
            self.history.epochs.append(EpochRecord(self.epoch, train_loss, valid_loss, metrics, lr, *totals))
            self.epoch, self.step = self.epoch + 1, 0
            for callback in overriding(callbacks, "after_epoch"):
                callback.after_epoch(self)
            self.whole = True

    def _train_steps(self, callbacks: list[Callback]) -> None:
        before, after = overriding(callbacks, "before_step"), overriding(callbacks, "after_step")
        per_step = isinstance(self.schedule, TorchSchedule) and self.schedule.per == "step"
        intervals = [1] if before or per_step else [cb.interval for cb in after if cb.interval is not None]
        batches = self.team.batches(self.dls.train, (self.seed, self.epoch, self.step * self.accumulate), self.device)
        by_clock = 1
        while self.step < self.steps_per_epoch:
            steps = min(by_clock, self.steps_per_epoch - self.step, *(each - self.step % each for each in intervals))
            started = self.team.clock()
            with self.interrupts.held():
                self.whole = False
                self._run_span(batches, steps, before)
                for callback in after:
                    due = callback.interval is None or self.step % callback.interval == 0
                    if due or self.step == self.steps_per_epoch:
                        callback.after_step(self)
                self.whole = True
            seconds = self.team.clock() - started
            by_clock = max(1, min(2 * by_clock, int(SPAN_SECONDS * steps / seconds)))

    def _run_span(self, batches: Iterator[Any], steps: int, before: list[Callback]) -> None:
        if before:
            self.window = list(islice(batches, self.accumulate))
            for callback in before:
                callback.before_step(self)
            batches = iter(self.window)
        first = self.history.steps - self.plan["first_step"]
        pure = None if isinstance(self.schedule, TorchSchedule) else self.schedule
        lrs = None if pure is None else [pure(step) for step in range(first, first + steps)]
        left = (self.plan["last_epoch"] - self.epoch) * self.steps_per_epoch - self.step
        span = Span(batches, steps, lrs, self.accumulate, self.history.steps, left)
        losses, counts = self.engine.run(self.prepared(), span)
        self.history.add_steps(losses, lrs or [self.opt.param_groups[0]["lr"]] * steps, counts)
        self.step += steps
        if isinstance(self.schedule, TorchSchedule) and self.schedule.per == "step":
            self._scheduler.step()

    # -- evaluation ------------------------------------------------------------------------------------------------

    def validate(self, dl: Any = None, *, cbs: Sequence[Callback] | None = None) -> list[float]:
        """The mean loss over `dl` (the validation set when None), then each metric; exact for any batch size.

        Args: `cbs`, whose validation hooks are called; the Learner's own when None.
        """
        state, loader = self.prepared(), as_loader(self.dls.valid if dl is None else dl)
        batches, reduce = self.team.evaluated(loader, self.metrics, self.device)
        adapters.reset(self.metrics)
        with self.interrupts.installed(), self.evaluation(cbs):
            return evaluate(state.forward, state.loss_func, self.metrics, map(pair, batches), state.count, reduce)

    def get_preds(self, dl: Any = None) -> tuple[Any, Any]:
        """The model's outputs and the targets over `dl` (the validation set when None), on the CPU, in its order."""
        state, loader, found = self.prepared(), as_loader(self.dls.valid if dl is None else dl), []
        with self.evaluation(), torch.no_grad():
            for inputs, targets in map(pair, loader.batches(0, device=self.device)):
                found.append(to_device((detach(state.forward(inputs)), targets), torch.device("cpu")))
        preds, targets = concatenate(found)
        return preds, targets

    @contextmanager
    def evaluation(self, callbacks: Sequence[Callback] | None = None) -> Iterator[None]:
        """Evaluation mode for a block, as callbacks want it (averaged weights, say), without a trace in training."""
        callbacks = self.team.callbacks(self.cbs) if callbacks is None else callbacks
        with self.interrupts.held(firmly=True), ExitStack() as stack:
            for callback in reversed(overriding(callbacks, "after_validate")):
                stack.callback(callback.after_validate, self)  # each of them, also where another one fails
            for callback in overriding(callbacks, "before_validate"):
                callback.before_validate(self)
            with evaluating(self.model), self.interrupts.released():
                yield

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on to the bit, the history's records apart: nested plain containers."""
        scheduler = self._scheduler_state if self._scheduler is None else self._scheduler.state_dict()
        cursor = {"epoch": self.epoch, "step": self.step, "plans": self.plans, "seed": self.seed}
        return {
            **train_state(self.prepared()),
            "learner": {**cursor, "scheduler": scheduler, "engine": self.engine.state_dict()},
            "random": rng.capture() if self._running else self.random_states,
            "callbacks": {name: callback.state_dict() for name, callback in adapters.by_name(self.cbs).items()},
            "numerics": environment.numerics(self.device, self.threads),
        }

    def load_state_dict(self, states: dict[str, Any], history: History) -> None:
        """Take back what `state_dict` gave, with the history up to then; CheckpointError if it is of another model."""
        load_train_state(self.prepared(), states)
        learner = states["learner"]
        self.epoch, self.step, self.plans, self.seed = (learner[name] for name in ("epoch", "step", "plans", "seed"))
        self.engine.load_state_dict(learner.get("engine", {}))  # runs of before had no choice
        self.history = self.recorder = history
        self.random_states = states["random"]
        self._scheduler, self._scheduler_state, self.schedule = None, learner["scheduler"], None
        for name, callback in adapters.by_name(self.cbs).items():
            callback.load_state_dict(states["callbacks"].get(name, {}))
        self.threads = states["numerics"]["threads"]
        environment.warn_of_changes(states["numerics"], environment.numerics(self.device, self.threads))

    def prepared(self) -> TrainState:
        """What steps are taken with; the first time after a look at a batch, to see that all the parts fit."""
        if self._state is None:
            parts = (self.model, self.opt, self.loss_func, self.clip, self.scaler, self.metrics)
            self._state = preflight.prepare(self.dls, self.device, self.precision, *parts)
            self.loss_func = self._state.loss_func
        return self._state

    @contextmanager
    def conditions(self) -> Iterator[None]:
        """Random states and threads of this run for a block, the caller's afterwards; signals wait for whole steps."""
        with rng.preserved(), environment.threads(self.threads), self.interrupts.installed():
            rng.restore(self.random_states)
            self._running = True
            try:
                yield
            finally:
                self._running, self.random_states = False, rng.capture()

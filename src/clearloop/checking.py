"""`check`: a look at model, loss, data and optimizer together, before hours go into training them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict

from clearloop import preflight
from clearloop.checks import inputs, model, order, split, targets, training
from clearloop.checks.finding import CheckReport, Finding, Verdict, failed, note, passed, skipped
from clearloop.checks.subject import CannotCopy, leaving_no_trace
from clearloop.checks.training import Trials
from clearloop.errors import ClearloopError, ConfigError
from clearloop.learner import Learner
from clearloop.preflight import one_line

CHECKS: dict[str, Callable[[Trials], Verdict]] = {
    "finite numbers": inputs.finite_numbers,
    "inputs vary": inputs.inputs_vary,
    "inputs scaled": inputs.inputs_scaled,
    "targets in range": targets.targets_in_range,
    "targets scaled": targets.targets_scaled,
    "classes balanced": targets.classes_balanced,
    "targets follow inputs": inputs.targets_follow_inputs,
    "no duplicates": split.no_duplicates,
    "no overlap": split.no_overlap,
    "validation like training": split.validation_like_training,
    "order shuffled": order.order_shuffled,
    "outputs fit the loss": model.outputs_fit_loss,
    "loss is a mean": model.loss_is_a_mean,
    "loss at the start": model.loss_at_start,
    "samples kept apart": model.samples_kept_apart,
    "evaluation repeatable": model.evaluation_repeatable,
    "evaluation by batch size": model.evaluation_by_batch_size,
    "parameters trained": training.every_parameter_trained,
    "gradients even": training.gradients_even,
    "units differ": training.units_differ,
    "activations alive": training.activations_alive,
    "gradients cleared": training.gradients_cleared,
    "weights move": training.weights_move,
    "batch over-fitted": training.batch_overfitted,
    "inputs matter": training.inputs_matter,
}


def check(learn: Learner, *, lr: float | None = None, quiet: bool = False) -> CheckReport:
    """Look for what makes training fail without an error, and say what each finding means and what to do.

    Some samples are looked at (of labels and for duplicates, nearly all), and copies of the model take some steps; the
    Learner itself, its weights, optimizer, random states, modes and history are as before, also after an error.

    Args: `lr`, the learning rate to judge; that of the last fit when None, or the Learner's own. `quiet` prints
    nothing.
    Raises: ConfigError for a learning rate that cannot be.

    >>> import clearloop as cl, torch
    >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    >>> dls = cl.DataLoaders.arrays(x, (x[:, 0] > 0).long(), seed=0)
    >>> report = check(cl.Learner(dls, torch.nn.Linear(3, 2), lr=0.1, seed=0, device="cpu"), quiet=True)
    >>> report.ok, report["loss is a mean"].status
    (True, 'passed')
    """
    if lr is None:
        lr = learn.plan["lr"] if learn.plans else learn.lr
    if not math.isfinite(lr) or lr < 0:
        raise ConfigError(f"lr must be a finite number of 0 or more, got {lr}")
    with leaving_no_trace(learn):
        findings = [named("parts fit", parts_fit(learn))]
        if findings[0].status == "failed":
            findings.append(named("all other checks", skipped("they need parts that fit each other")))
        else:
            subject = Trials(learn, lr)
            findings += [named(name, verdict_of(look, subject)) for name, look in CHECKS.items()]
    report = CheckReport(tuple(findings))
    if not quiet and learn.team.leads:
        show(report)
    return report


def parts_fit(learn: Learner) -> Verdict:
    """What every fit asks before its first step, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            preflight.check_fit(learn.prepared(), learn.dls, learn.metrics)
        except ClearloopError as error:
            return failed(str(error), f"fit raises this {type(error).__name__} before its first step", "as it says")
    said = [str(warning.message) for warning in caught]
    compared = next((text for text in said if "each with each" in text), None)
    if compared is not None:
        return failed(compared, "the best is then to predict the mean for all", "preds.squeeze(1), or y.unsqueeze(1)")
    if said:
        return note(said[0], "fit warns of it before its first step", "as it says")
    return passed("model, loss, optimizer, metrics and data fit each other")


def verdict_of(look: Callable[[Trials], Verdict], subject: Trials) -> Verdict:
    """What a check says; where it cannot be made, why."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a model's own, on batches that are made to try it
        try:
            return look(subject)
        except CannotCopy as error:
            return skipped(str(error))
        except Exception as error:  # users' models, losses and data can raise anything
            return skipped(f"it could not be made: {type(error).__name__}: {one_line(error)}")


def named(name: str, verdict: Verdict) -> Finding:
    """A verdict as the finding of a check."""
    return Finding(**asdict(verdict), name=name)


def show(report: CheckReport) -> None:
    """Print a table: a line for what passed, and for the rest what it means and what to do."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"passed": "green", "note": "cyan", "warning": "yellow", "failed": "bold red", "skipped": "dim"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for column in ("status", "check"):
        table.add_column(column, no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in report.findings:
        text = Text("\n").join(
            Text(part, style="dim" if finding.status == "skipped" else "")
            for part in (finding.found, finding.meaning, finding.remedy and f"-> {finding.remedy}")
            if part
        )
        table.add_row(Text(finding.status, style=styles[finding.status]), Text(finding.name), text)
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(report.summary))

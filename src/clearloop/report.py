"""A run as one page: curves, what the model gets wrong, where the time went, and how to come to the same again."""

from __future__ import annotations

import functools
import io
import math
import shlex
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clearloop import durable, environment
from clearloop.callbacks.timing import FILE as TIMES
from clearloop.callbacks.timing import read_times
from clearloop.errors import ClearloopError, ConfigError, StorageError
from clearloop.history import EpochRecord, History
from clearloop.interpret import class_table, confusion_matrix, residuals, top_losses
from clearloop.interpretation import Interpretation, are_numbers, as_pictures, has_pictures
from clearloop.learner import Learner
from clearloop.model_summary import summary
from clearloop.reconstruct import reconstructions
from clearloop.report_charts import Series, aligned, averaged, bars, chart, number
from clearloop.report_page import Markup, code, folded, page, pairs, picture, shown, table, tag
from clearloop.rundir import RunDirectory
from clearloop.saving import DIFF, history_from, recipe_of

NAME = "report.html"  # in a run's folder
WORST = 12  # mistakes that are shown
CLASSES = 30  # a larger confusion matrix becomes a list
CONFUSED = 20  # pairs of classes in that list
EPOCHS = 200  # rows of the table of epochs
SIDE = 160  # pixels of a picture's longer side
LOG_LINES = 400
LINE = 120  # characters of a part in the head of the page
CLOUD = 2000  # points of a scatter plot


@dataclass(frozen=True)
class Report:
    """A page that was written; `missing` says in a line each what it could not show, and why."""

    path: Path
    size: int
    missing: list[str]


@dataclass
class Facts:
    """What is known of a run: from its folder, and from its Learner where that could be made again."""

    name: str
    path: Path | None
    learn: Learner | None
    recipe: dict[str, Any]
    history: History
    records: list[dict[str, Any]]
    state: str
    missing: list[str] = field(default_factory=list)
    seen: Interpretation | None = None

    def tried(self, what: str, work: Callable[[], Any]) -> Any:
        """What `work` gives; None, and a line among what is missing, where it cannot."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return work()
        except (ClearloopError, OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            self.missing.append(f"{what}: {' '.join(str(error).split())}")
            return None


def write_report(what: Learner | str | Path, path: str | Path | None = None) -> Report:
    """Write one HTML file about a run: no network, no script, and all text in it escaped.

    Curves and epochs come from the run's folder. Confusion, figures for each class and the worst mistakes need the
    validation data and the model: where these are gone the rest is written, and the page says what is missing.

    Args: `what`, a run's folder, or a Learner (with a model or data of your own); `path`, the file, report.html in the
    run's folder when None.
    Raises: RunError where there is no run; ConfigError for a Learner without folder or path; StorageError.
    """
    facts = of_learner(what) if isinstance(what, Learner) else of_folder(Path(what))
    if path is None:
        if facts.path is None:
            raise ConfigError("expected a file to write, got none, for a Learner that was not saved; give path")
        path = facts.path / NAME
    text = page(f"{facts.name} · clearloop", body_of(facts)).encode("utf-8", "replace")
    durable.make_directory(Path(path).absolute().parent)
    durable.write_file(Path(path), text)
    return Report(Path(path), len(text), facts.missing)


# -- what is known -----------------------------------------------------------------------------------------------------


def of_folder(path: Path) -> Facts:
    """What a run's folder holds; its Learner too, where the recipe can build it from data that are still there."""
    run = RunDirectory.open(path)
    facts = Facts(path.resolve().name, path, None, {}, History(), [], str(run.summary()["state"]))
    facts.recipe = facts.tried("the recipe", run.read_recipe) or {}
    facts.records = facts.tried("the history", run.read_history) or []
    facts.history = facts.tried("the history", lambda: history_from(facts.records)) or History()
    facts.learn = facts.tried("what the model gets right and wrong", lambda: Learner.load(path, device="cpu"))
    return facts


def of_learner(learn: Learner) -> Facts:
    """What a Learner knows of itself."""
    path = None if learn.run is None else learn.run.path
    facts = Facts("run" if path is None else path.resolve().name, path, learn, {}, learn.history, [], "")
    facts.recipe = facts.tried("the recipe", lambda: recipe_of(learn).as_dict()) or {}
    if learn.run is not None:
        facts.state = str(learn.run.run.summary()["state"])
        facts.recipe = facts.tried("the recipe", learn.run.run.read_recipe) or facts.recipe
        facts.records = facts.tried("the history", learn.run.run.read_history) or []
    return facts


# -- the page ----------------------------------------------------------------------------------------------------------

Section = tuple[str, str, Markup]  # its id, its title, what is in it


def body_of(facts: Facts) -> Markup:
    """Head, sections with anything in them, foot."""
    if facts.learn is not None and facts.learn.dls.valid is not None:
        facts.seen = facts.tried("what the model gets right and wrong", lambda: Interpretation(facts.learn))  # type: ignore[arg-type]
    contents = [  # id, title, what it is where it is missing, what makes it
        ("curves", "Curves", "curves", curves),
        ("epochs", "Epochs", "epochs", epochs),
        ("confusion", "Confusion", "the confusion matrix", confusion),
        ("classes", "Each class", "figures for each class", classes),
        ("worst", "Worst mistakes", "the worst mistakes", worst),
        ("numbers", "Predictions", "the predictions", numbers),
        ("pictures", "Reconstructions", "the reconstructions", rebuilt),
        ("time", "Time", "time", times),
        ("model", "Model", "the model's layers", layers),
        ("recipe", "Recipe", "recipe", recipe),
        ("environment", "Environment", "environment", surroundings),
        ("again", "The same again", "the same again", again),
        ("log", "Log", "log", log),
    ]
    made: list[Section] = []
    for name, title, what, make in contents:
        made.append((name, title, facts.tried(what, functools.partial(make, facts)) or Markup("")))
    sections = [section for section in made if section[2]]
    links = tag("nav", [tag("a", title, href=f"#{name}") for name, title, _ in sections])
    parts = [tag("section", tag("h2", title, id=name), inside) for name, title, inside in sections]
    foot = tag(
        "footer", f"Written by clearloop {environment.clearloop_version()}. One file: nothing is fetched for it."
    )
    return Markup("\n".join([header(facts, links), missing(facts), tag("main", parts), foot]))


def header(facts: Facts, links: Markup) -> Markup:
    """Name, what it is in a line, and the figures that one looks for first."""
    model, data = (call_text(facts.recipe.get(part)) for part in ("model", "data"))
    model, data = (text if len(text) <= LINE else f"{text[:LINE]}…" for text in (model, data))
    made = str(facts.recipe.get("created", ""))[:16].replace("T", " ")
    line = [tag("b", model), " on ", tag("b", data), f"; {facts.state}" if facts.state else "", f"; begun {made} UTC"]
    found: list[tuple[str, str]] = []
    if facts.history.epochs:
        last, best = facts.history.epochs[-1], best_epoch(facts.history)
        found += [(number(value), name) for name, value in last.metrics.items()]
        found.append((number(last.train_loss), "train_loss"))
        if last.valid_loss is not None and best is not None and best.valid_loss is not None:
            found.append((number(last.valid_loss), "valid_loss"))
            found.append((number(best.valid_loss), f"best valid_loss, epoch {best.epoch}"))
        found.append((f"{len(facts.history.epochs)}", "epochs"))
        found.append((duration(sum(record.seconds for record in facts.history.epochs)), "of training"))
    cards = tag("div", [tag("div", tag("b", value), tag("span", name)) for value, name in found], class_="cards")
    return tag("header", tag("h1", facts.name), tag("p", line), cards if found else "", links)


def missing(facts: Facts) -> Markup:
    """What the page cannot show, and why."""
    if not facts.missing:
        return Markup("")
    lines = [tag("p", line) for line in dict.fromkeys(facts.missing)]
    return tag("div", tag("p", tag("b", "Not in this report")), lines, class_="notes")


def curves(facts: Facts) -> Markup:
    """Losses, learning rate and metrics."""
    history, records = facts.history, facts.history.epochs
    places, means = averaged(history.losses)
    ends = [float(record.steps) for record in records]
    valid = [math.nan if record.valid_loss is None else record.valid_loss for record in records]
    loss = [
        Series("each step" if len(means) == len(history.losses) else "steps, averaged", places, means, kind="thin"),
        Series("train_loss", ends, [record.train_loss for record in records]),
        Series("valid_loss", ends, valid, "b"),
    ]
    drawn = [chart("Loss", [one for one in loss if one.points()], "step")]
    for name in dict.fromkeys(name for record in records for name in record.metrics):
        values = [record.metrics.get(name, math.nan) for record in records]
        if len(records) > 1:
            drawn.append(chart(name, [Series(name, [float(record.epoch) for record in records], values, "b")], "epoch"))
    drawn.append(chart("Learning rate", [Series("", *averaged(history.lrs), "c")], "step", straight=True))
    return tag("div", drawn, class_="charts") if any(drawn) else Markup("")


def epochs(facts: Facts) -> Markup:
    """A row an epoch, the best one bold; of very many the last ones."""
    records, best = facts.history.epochs, best_epoch(facts.history)
    if not records:
        return Markup("")
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    rows = []
    for record in records[-EPOCHS:]:
        cells: list[Any] = [record.epoch, aligned(record.train_loss)]
        cells.append("" if record.valid_loss is None else aligned(record.valid_loss))
        cells += [aligned(record.metrics[name]) if name in record.metrics else "" for name in names]
        cells += [aligned(record.lr), f"{record.steps:,}", duration(record.seconds)]
        rows.append([tag("b", cell) for cell in cells] if record is best else cells)
    head = ["epoch", "train_loss", "valid_loss", *names, "lr", "steps", "time"]
    left_out = len(records) - len(rows)
    note = tag("p", f"The last {len(rows)} of {len(records)}.", class_="quiet") if left_out else ""
    return Markup(tag("div", note, table(head, rows, range(len(head)))))


def confusion(facts: Facts) -> Markup:
    """How often each class was taken for each: a matrix, or, of many classes, the pairs confused most."""
    if facts.seen is None or facts.seen.judged is None:
        return Markup("")
    found = confusion_matrix(facts.seen)
    counts, names = found.counts, found.classes
    if len(names) > CLASSES:
        wrong = counts.clone().fill_diagonal_(0).flatten()
        order = wrong.argsort(descending=True, stable=True)[:CONFUSED].tolist()
        rows = [(names[at // len(names)], names[at % len(names)], int(wrong[at])) for at in order if wrong[at]]
        lead = tag("p", f"{len(names)} classes; these pairs were confused most.", class_="quiet")
        return tag("div", lead, table(["target", "taken for", "times"], rows, [2]))
    shares = (counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)).tolist()
    long, body = max(map(len, names)) > 6, []  # columns of long names have numbers
    for at, name in enumerate(names):
        cells = [tag("th", f"{at} · {name}" if long else name, class_="name")]
        for other, count in enumerate(counts[at].tolist()):
            level = math.ceil(8 * shares[at][other])
            cells.append(tag("td", count or "·", class_=f"{'hit' if at == other else 'miss'} s{level}"))
        body.append(tag("tr", cells))
    head = tag("tr", tag("th", "target"), [tag("th", at if long else name) for at, name in enumerate(names)])
    inside = tag("table", tag("thead", head), tag("tbody", body), class_="confusion")
    lead = tag("p", "A row for each class, a column for what its samples were taken for.", class_="quiet")
    return tag("div", lead, tag("div", inside, class_="scroll", tabindex="0"))


def classes(facts: Facts) -> Markup:
    """Precision, recall and F1 of each class."""
    if facts.seen is None or facts.seen.judged is None:
        return Markup("")
    found = class_table(facts.seen)
    rows = [(row.name, f"{row.precision:.4f}", f"{row.recall:.4f}", f"{row.f1:.4f}", row.count) for row in found.rows]
    return table(["class", "precision", "recall", "F1", "samples"], rows, [1, 2, 3, 4])


def worst(facts: Facts) -> Markup:
    """The samples with the largest losses: as pictures where they are some, else as rows."""
    seen = facts.seen
    if seen is None or seen.judged is None and not are_numbers(seen.preds, seen.targets) or codes(facts):
        return Markup("")
    rows = top_losses(seen, n=WORST).rows
    lead = tag("p", f"Of {len(seen):,} validation samples, those with the largest losses.", class_="quiet")
    said = [row.prediction if row.probability is None else f"{row.prediction} ({row.probability:.2f})" for row in rows]
    if not rows or not has_pictures(seen.learn):
        cells = [(row.index, row.target, text, aligned(row.loss)) for row, text in zip(rows, said, strict=True)]
        return tag("div", lead, table(["sample", "target", "said", "loss"], cells, [0, 3]))
    images = as_pictures(torch.stack(seen.inputs([row.index for row in rows])), seen.learn.dls)
    drawn = []
    for row, text, image in zip(rows, said, images, strict=True):
        caption = tag("figcaption", tag("b", f"{row.target} → {text}"), tag("br"))
        note = tag("small", f"#{row.index}, loss {row.loss:.3g}")
        drawn.append(tag("figure", image_of(image, f"target {row.target}, said {text}"), caption, note))
    return tag("div", lead, tag("div", drawn, class_="pictures"))


def numbers(facts: Facts) -> Markup:
    """Predictions against targets, for a model of numbers."""
    seen = facts.seen
    if seen is None or seen.judged is not None or not are_numbers(seen.preds, seen.targets) or codes(facts):
        return Markup("")
    found = residuals(seen)
    step = max(1, len(found.targets) // CLOUD)
    drawn, rows = [], []
    for output in range(min(4, found.targets.shape[1])):
        targets, said, left = (
            values[::step, output].tolist() for values in (found.targets, found.predictions, found.residuals)
        )
        name = f" {output}" if found.targets.shape[1] > 1 else ""
        drawn.append(
            chart(f"Predicted{name}, by target", [Series("", targets, said, "a", "cloud")], "target", diagonal=True)
        )
        drawn.append(
            chart(f"Target{name} less prediction", [Series("", said, left, "b", "cloud")], "predicted", straight=True)
        )
        rows.append((f"output{name}", aligned(found.rmse[output]), aligned(found.r2[output])))
    return tag("div", tag("div", drawn, class_="charts"), table(["", "RMSE", "R²"], rows, [1, 2]))


def rebuilt(facts: Facts) -> Markup:
    """What an autoencoder makes of pictures."""
    if facts.learn is None or facts.seen is None or not codes(facts) or not has_pictures(facts.learn):
        return Markup("")
    found = reconstructions(facts.learn, n=WORST)
    drawn = []
    for row, before, after, error in zip(
        found.rows, found.originals, found.reconstructions, found.errors.tolist(), strict=True
    ):
        two = tag("div", image_of(before, "what went in"), image_of(after, "what came out"), class_="two")
        drawn.append(tag("figure", two, tag("figcaption", tag("small", f"#{row}, squared error {error:.3g}"))))
    return tag("div", drawn, class_="pictures")


PARTS = {"callbacks": "callbacks, saving too"}  # after an epoch they are not in its time


def times(facts: Facts) -> Markup:
    """Where the time went, as far as the history says."""
    records = facts.history.epochs
    if not records:
        return Markup("")
    seconds = [record.seconds for record in records]
    total, steps = sum(seconds), facts.history.steps
    rows = [("training", duration(total)), ("an epoch", duration(total / len(seconds)))]
    if total > 0 and steps:
        samples = math.fsum(float(count) for count in facts.history.counts)
        rows += [("steps", f"{steps:,}, {steps / total:,.0f} a second, validation counted in")]
        rows += [("samples", f"{samples:,.0f}, {samples / total:,.0f} a second")]
    spent = [] if facts.path is None else read_times(facts.path / TIMES)
    for name in ("data", "compute", "validation", "callbacks"):
        parts = [record.get(name, 0.0) for record in spent]
        seconds_of = math.fsum(sum(one.values()) if isinstance(one, dict) else one for one in parts)
        if spent:
            rows.append((PARTS.get(name, name), duration(seconds_of)))
    per_epoch = bars("Seconds an epoch", seconds, "epoch", records[0].epoch) if len(seconds) > 1 else Markup("")
    return tag("div", pairs(rows), tag("div", per_epoch, class_="charts") if per_epoch else "")


def layers(facts: Facts) -> Markup:
    """The model's layers, with shapes and counts."""
    if facts.learn is None:
        return Markup("")
    found = summary(facts.learn)
    rows = [
        (layer.name, layer.kind, shape_text(layer.output_shape), f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
        for layer in found.layers
    ]
    rows.append(("total", "", "", f"{found.parameters:,}", f"{found.multiply_adds:,}"))
    return tag(
        "div",
        tag("p", f"Input {found.input_shape}; {found.trainable:,} parameters are trained.", class_="quiet"),
        table(["layer", "kind", "output", "parameters", "multiply-adds"], rows, [3, 4]),
    )


def recipe(facts: Facts) -> Markup:
    """The parts of the run, each as the call that makes it."""
    found = facts.recipe
    if not found:
        return Markup("")
    rows: list[tuple[str, Any]] = []
    for name in ("model", "data", "loss_func", "opt_func", "metrics", "callbacks"):
        if name in found:
            rows.append((name, part(found[name])))
    for name in ("lr", "seed", "device", "threads", "precision", "clip", "accumulate", "fast", "initial_weights"):
        if found.get(name) is not None:
            rows.append((name, code(call_text(found[name]))))
    for place, plan in enumerate(found.get("fits", [])):
        text = f"epochs {plan.get('first_epoch')} to {plan.get('last_epoch')}, lr {plan.get('lr')}"
        schedule = "" if plan.get("schedule") is None else f", {call_text(plan['schedule'])}"
        rows.append(("fit" if len(found["fits"]) == 1 else f"fit {place + 1}", code(text + schedule)))
    whole = durable.dumps_strict(found, indent=2).decode()
    return tag("div", pairs(rows), folded("recipe.json", tag("pre", whole)))


def surroundings(facts: Facts) -> Markup:
    """Versions, numerics of the machine, fingerprint of the data, commit and changes of the source."""
    rows: list[tuple[str, Any]] = [(name, value) for name, value in facts.recipe.get("versions", {}).items()]
    if facts.learn is not None:
        known = environment.numerics(facts.learn.device, facts.learn.threads)
        rows += [(f"{name}, here", call_text(known[name])) for name in ("cpu", "threads", "deterministic")]
    for name, print_ in facts.recipe.get("fingerprint", {}).items():
        if isinstance(print_, dict):
            batches = print_.get("batches")
            size = batches.get("batch_size", "?") if isinstance(batches, dict) else "?"
            text = tag("div", f"{print_.get('samples', '?')} samples in batches of {size}")
            rows.append((f"{name} data", [text, code(f"sha256 {print_.get('sha256', 'not taken')}")]))
    rows.append(("git commit", code(facts.recipe.get("git_commit") or "none: not in a repository")))
    diff = None if facts.path is None else read_text(facts.path / DIFF)
    changes = folded("Changes since that commit, when the run began", tag("pre", diff)) if diff else ""
    return tag("div", pairs(rows), changes)


def again(facts: Facts) -> Markup:
    """The commands that look at the run, repeat it and use it."""
    run = shlex.quote(shown(facts.path if facts.path is not None else "RUN"))
    reason = None
    if facts.learn is not None and facts.path is not None:
        from clearloop.eject import eject_learner

        try:
            eject_learner(facts.learn, 7, None)
        except (ClearloopError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
    lines = [
        (f"clearloop resume {run}", "finish it, or see that it has ended"),
        (f"clearloop predict {run} ITEM", "what the model says of something new"),
        (f"clearloop export {run} --format onnx", "one file for other programs"),
    ]
    if reason is None:
        lines[:0] = [
            (f"clearloop eject {run} --rung 7 > loop.py", "the run as one plain PyTorch program"),
            ("python loop.py", "the same losses and weights, to the bit"),
            (f"clearloop verify {run}", "the same, compared number by number"),
        ]
    width = max(len(line) for line, _ in lines)
    text = "\n".join(f"{line.ljust(width)}  # {what}" for line, what in lines)
    note = tag("p", f"This run cannot be printed as a program: {reason}", class_="quiet") if reason else ""
    python = f"from clearloop import Learner\n\nlearn = Learner.load({shown(facts.path or 'RUN')!r})\nlearn.validate()"
    return tag("div", note, tag("pre", text), tag("pre", python))


def log(facts: Facts) -> Markup:
    """The last lines of what the run said."""
    text = None if facts.path is None else read_text(facts.path / "log.txt")
    if not text:
        return Markup("")
    lines = text.splitlines()
    return folded(f"log.txt, {len(lines):,} lines", tag("pre", "\n".join(lines[-LOG_LINES:])))


# -- pieces ------------------------------------------------------------------------------------------------------------


def codes(facts: Facts) -> bool:
    """Whether the model is an autoencoder."""
    return facts.learn is not None and isinstance(getattr(facts.learn.model, "encoder", None), nn.Module)


def best_epoch(history: History) -> EpochRecord | None:
    """The epoch with the lowest validation loss."""
    known = [record for record in history.epochs if record.valid_loss is not None and math.isfinite(record.valid_loss)]
    return min(known, key=lambda record: record.valid_loss or 0.0, default=None)


def part(description: Any) -> Markup:
    """A component of a recipe, its source folded."""
    if isinstance(description, list):
        return tag("div", [tag("div", part(one)) for one in description] or "none")
    if isinstance(description, dict) and "source" in description:
        return tag("div", code(description.get("name", "own")), folded("source", tag("pre", description["source"])))
    return code(call_text(description))


def call_text(description: Any) -> str:
    """A component of a recipe, or a plain value, in the form of a call.

    >>> call_text({"path": "clearloop.models.mlp:mlp", "args": [784, 10], "kwargs": {"x": None}})
    'mlp(784, 10, x=None)'
    """
    if isinstance(description, (list, tuple)):
        return f"[{', '.join(map(argument_text, description))}]"
    if not isinstance(description, dict):
        return description if isinstance(description, str) else repr(description)
    if "float" in description:
        return str(description["float"])
    if "path" not in description:
        return str(description.get("name", description.get("repr", "?")))[:200]
    name = str(description["path"]).rpartition(":")[2]
    if "args" not in description and "kwargs" not in description:
        return name
    given = [argument_text(one) for one in description.get("args", [])]
    given += [f"{key}={argument_text(one)}" for key, one in description.get("kwargs", {}).items()]
    return f"{name}({', '.join(given)})"


def argument_text(argument: Any) -> str:
    """The same inside of a call, where text is quoted."""
    return repr(argument) if isinstance(argument, str) else call_text(argument)


def image_of(image: Tensor, what: str) -> Markup:
    """A picture, float (C, H, W), as a PNG file in the page; one outside of [0, 1] is stretched to fit."""
    from PIL import Image

    values = image.detach().float().cpu()[:3]
    low, high = float(values.min()), float(values.max())
    if low < -0.01 or high > 1.01:
        values = (values - low) / ((high - low) or 1.0)
    pixels = (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)  # (C, H, W) -> (H, W, C)
    made = Image.fromarray((pixels[:, :, 0] if pixels.shape[2] < 3 else pixels).contiguous().numpy())
    made.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    made.save(buffer, format="PNG", optimize=True)
    return picture(buffer.getvalue(), what, made.width, made.height)


def shape_text(shape: tuple[int, ...] | None) -> str:
    """A shape as 16 × 14 × 14.

    >>> shape_text((16, 14, 14)), shape_text(None)
    ('16 × 14 × 14', '')
    """
    return "" if shape is None else " × ".join(map(str, shape))


def read_text(path: Path, limit: int = 2**20) -> str | None:
    """The end of a text file; None where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - limit))
            return file.read().decode("utf-8", "replace")
    except (OSError, StorageError):
        return None


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.286), duration(74), duration(7384)
    ('0.29 s', '1 min 14 s', '2 h 03 min')
    """
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )

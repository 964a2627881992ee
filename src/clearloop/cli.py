"""The command line: thin. It parses, sets threads before torch is loaded, builds the parts, and calls them.

Nothing here is imported before a command needs it, so that `clearloop --help` answers at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearloop.cli_parts import (
    TABLES,
    Bound,
    Kind,
    Model,
    Net,
    Optimizer,
    Precision,
    Shape,
    Source,
    make_callbacks,
    make_learner,
    make_plan,
    open_data,
    pick_model,
    set_threads,
)
from clearloop.errors import ClearloopError, ConfigError, NonFiniteError, RunError

if TYPE_CHECKING:
    from clearloop.callbacks.checkpoints import Checkpoints
    from clearloop.cli_parts import Plan
    from clearloop.learner import Learner
    from clearloop.predictor import Predictor

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


RUNG_HELP = "1: all by hand; 2: parameters(); 3: own optimizer; 4: torch's; 5: Dataset; 6: DataLoaders; 7: fit"


Data = Annotated[
    str,
    typer.Argument(help="mnist, a folder of IDX files or of pictures, a .csv or .parquet table, an .npz of x and y"),
]
Run = Annotated[Path, typer.Argument(help="a run's folder, such as runs/mnist-1")]
RunFolder = Annotated[Path | None, typer.Option("--out", "-o", help="the run's folder; runs/NAME-1, -2, … if left out")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; they decide speed and the last bits")]
Seed = Annotated[int, typer.Option(min=0, help="of weights, batch order and dropout")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", help="samples a batch")]
ModelName = Annotated[Model, typer.Option(help="auto: cnn for images, resnet18 for folders of pictures, mlp else")]
Hidden = Annotated[str, typer.Option(help="mlp: widths of the hidden layers; cnn: feature maps. 64 or 16,32,64")]
Epochs = Annotated[
    int | None, typer.Option("--epochs", "-n", help="passes over the training data; 4, and 20 for autoencoders")
]
LearningRate = Annotated[
    float | None, typer.Option(help="the largest; 0.01 for cnn, 0.001 for autoencoders, 0.003 else; sgd 0.1")
]
OptimizerName = Annotated[Optimizer | None, typer.Option(help="the optimizer; adamw, and adam for autoencoders")]
ShapeName = Annotated[Shape | None, typer.Option(help="of the learning rate; one-cycle, and constant for autoencoders")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print the result only")]
Valid = Annotated[float | None, typer.Option(help="share or number of training samples to hold out for validation")]


@app.command()
def train(
    data: Data,
    model: ModelName = Model.auto,
    target: Annotated[str | None, typer.Option(help="tables: the column to predict")] = None,
    kind: Annotated[
        Kind | None, typer.Option(help="tables: what the target is; seen from its values if left out")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="pictures: make them all squares of this side")] = None,
    grey: Annotated[bool, typer.Option("--grey", help="pictures: without their colours")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="pictures: leave out files that are none")] = False,
    hidden: Hidden = "",
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch_size: BatchSize = 128,
    opt: OptimizerName = None,
    schedule: ShapeName = None,
    one_cycle: Annotated[bool, typer.Option("--one-cycle", help="the same as --schedule one-cycle")] = False,
    weight_decay: Annotated[float | None, typer.Option(help="the optimizer's; its own default if left out")] = None,
    momentum: Annotated[float | None, typer.Option(help="of sgd and momentum")] = None,
    dropout: Annotated[float | None, typer.Option(help="mlp only")] = None,
    code: Annotated[int, typer.Option(min=1, help="autoencoders: how many numbers an item is squeezed into")] = 32,
    sparse: Annotated[float | None, typer.Option(help="autoencoders: weight of the mean size of the code")] = None,
    output: Annotated[Bound, typer.Option(help="autoencoders: what bounds the outputs")] = Bound.tanh,
    clip: Annotated[float | None, typer.Option(help="largest norm of the gradients")] = None,
    accumulate: Annotated[int, typer.Option(help="batches a step")] = 1,
    ema: Annotated[float | None, typer.Option(help="average the weights with this decay, such as 0.99")] = None,
    patience: Annotated[int | None, typer.Option(help="stop after so many epochs without a better valid_loss")] = None,
    precision: Annotated[Precision | None, typer.Option(help="of the forward pass (autocast)")] = None,
    seed: Seed = 0,
    valid: Valid = None,
    device: Device = "auto",
    threads: Threads = None,
    out: RunFolder = None,
    every: Annotated[str, typer.Option(help="save every so many seconds (60s) or steps (100)")] = "60s",
    keep: Annotated[int, typer.Option(help="newest checkpoints to keep, besides the best")] = 2,
    quiet: Quiet = False,
) -> None:
    """Train a model and save the run: weights, history, checkpoints, plots, predictor."""
    net = Net(pick_model(model, data), hidden, dropout, code, sparse, output)
    plan = make_plan(net, opt, Shape.one_cycle if one_cycle else schedule, epochs, lr, weight_decay, momentum)
    set_threads(threads, default=2 if net.convolves else 1)
    from clearloop.callbacks.checkpoints import Checkpoints

    dls = open_data(Source(data, batch_size, seed, valid, target, kind, size, grey, skip_bad), net.targets)
    checks = Checkpoints(out or "runs", every, keep)  # the folder is made when all else is known to be right
    learn = make_learner(
        dls, net, plan, seed, device, clip=clip, accumulate=accumulate, cbs=make_callbacks(ema, patience, checks),
        precision=precision.value if precision else None,
    )  # fmt: skip
    check_plan(learn, plan)
    with new_run(out, data, learn, checks):
        run_and_report(learn, lambda: fit_plan(learn, plan), quiet)


@app.command()
def resume(
    run: Run,
    threads: Threads = None,
    every: Annotated[str | None, typer.Option(help="save every so many seconds (60s) or steps (100)")] = None,
    quiet: Quiet = False,
) -> None:
    """Go on with an interrupted run, from its newest good checkpoint, to the bit."""
    from clearloop.rundir import RunDirectory

    recorded = RunDirectory.open(run).read_recipe().get("threads")
    set_threads(threads, default=recorded if isinstance(recorded, int) and recorded > 0 else 1)
    from clearloop.callbacks.checkpoints import Checkpoints
    from clearloop.learner import Learner

    learn = quietly_warned(lambda: Learner.load(run))
    if threads is not None:
        learn.threads = threads
    own = [callback for callback in learn.cbs if isinstance(callback, Checkpoints)]
    if every is not None or not own:
        former = own[0] if own else Checkpoints(run)
        again = Checkpoints(run, every if every is not None else former.every, former.keep, former.monitor)
        again.load_state_dict(former.state_dict())
        learn.cbs = [callback for callback in learn.cbs if callback not in own] + [again]
    if learn.plans and learn.epoch >= learn.plan["last_epoch"]:
        assert learn.run is not None
        with learn.run.run.lock():  # which sweeps what a process left that was killed at the very end
            draw_curves(learn)
            draw_looks(learn)
        say(f"{run} has finished: {learn.epoch} epochs, {learn.history.steps} steps; nothing to do")
        return
    say(f"{run}: going on at epoch {learn.epoch}, step {learn.step} of {learn.steps_per_epoch}", quiet)
    run_and_report(learn, lambda: learn.resume(quiet=True), quiet)


@app.command()
def predict(
    run: Run,
    items: Annotated[list[Path], typer.Argument(help="picture files, or .npy and .npz files with one item or many")],
    dark_on_light: Annotated[bool, typer.Option("--dark-on-light", help="ink on paper: invert the picture")] = False,
    crop: Annotated[
        bool, typer.Option("--crop", help="cut the picture to its ink and centre it, as MNIST's were")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="tables: the file to write; else the screen")] = None,
) -> None:
    """Predict new items with a run's model: class and probabilities, or values; rows of a table as a table."""
    from clearloop.predictor import Predictor

    predictor = Predictor.load(run)
    if predictor.table is not None:
        predict_table(predictor, items, out)
        return
    if out is not None:
        raise ConfigError("--out is for runs on tables: what is predicted for other items is printed")
    for path in items:
        for name, item in items_in(path, predictor):
            prediction = predictor(item, dark_on_light=dark_on_light, crop=crop)
            if as_json:
                probabilities = prediction.probabilities
                values = {"item": name, "label": prediction.label, "values": prediction.values.flatten().tolist()}
                values["probabilities"] = None if probabilities is None else probabilities.flatten().tolist()
                print(json.dumps(values))
            else:
                print(f"{name}: {prediction}")


@app.command()
def runs(folder: Annotated[Path, typer.Argument(help="where the runs are")] = Path("runs")) -> None:
    """List the runs of a folder: model, data, best metric, when, state."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clearloop.rundir import RunDirectory

    found = sorted(path.parent for path in folder.glob("*/recipe.json")) if folder.is_dir() else []
    if not found:
        raise ConfigError(f"no runs in {folder}; `clearloop train mnist` makes one")
    table = Table(
        "run", "model", "data", "epochs", "valid_loss", "metrics", "changed", "state", box=None, pad_edge=False
    )
    for path in found:
        row = RunDirectory.open(path).summary()
        metrics = ", ".join(f"{name} {float(value):.4f}" for name, value in row["metrics"].items())
        loss = "" if row["valid_loss"] is None else f"{float(row['valid_loss']):.4f}"
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["modified"]))
        done = 0 if row["epoch"] is None else row["epoch"] + 1
        epochs = f"{done}" if row["epochs_planned"] is None else f"{done}/{row['epochs_planned']}"
        cells = (row["name"], short(row["model"]), short(row["data"]), epochs, loss, metrics, changed, row["state"])
        table.add_row(*(Text(printable(cell)) for cell in cells))  # as text: names are not to be taken for markup
    Console(width=None if sys.stdout.isatty() else 160).print(table, highlight=False)


@app.command("lr-find")
def lr_find(
    data: Data,
    target: Annotated[str | None, typer.Option(help="tables: the column to predict")] = None,
    model: ModelName = Model.auto,
    hidden: Hidden = "",
    batch_size: BatchSize = 128,
    opt: OptimizerName = None,
    seed: Seed = 0,
    valid: Valid = None,
    device: Device = "auto",
    threads: Threads = None,
    steps: Annotated[int, typer.Option(min=10, help="learning rates to try, one a step")] = 100,
    out: Annotated[Path, typer.Option("--out", "-o", help="the picture")] = Path("lr_find.png"),
) -> None:
    """Try learning rates from small to large and suggest one to begin with."""
    net = Net(pick_model(model, data), hidden)
    set_threads(threads, default=2 if net.convolves else 1)
    dls = open_data(Source(data, batch_size, seed, valid, target), net.targets)
    learn = make_learner(dls, net, make_plan(net, opt), seed, device)
    found = learn.lr_find(steps=steps)
    print(f"suggested learning rate: {found.suggestion:.2g}")
    try:
        found.plot(out)
    except ValueError as error:  # a suffix that is no format of pictures
        raise ConfigError(f"the curve cannot be written to {out}: {error}") from None
    print(f"the curve is in {out}")


@app.command()
def eject(
    run: Run,
    rung: Annotated[int, typer.Option(min=1, max=7, help=RUNG_HELP)] = 7,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write the program here, not to the screen")] = None,
) -> None:
    """Print a run as one plain PyTorch program without clearloop in it."""
    from clearloop.eject import eject as eject_run

    program = eject_run(run, rung)
    if out is not None:
        program.write(out)
        say(f"wrote {out}")
        return
    if program.weights is not None:
        raise ConfigError(
            "the run's first weights came from outside, and go into a file beside the program: use --out FILE.py"
        )
    sys.stdout.write(program.text)


@app.command()
def verify(run: Run, rung: Annotated[int, typer.Option(min=1, max=7, help=RUNG_HELP)] = 7) -> None:
    """Run the ejected program where clearloop cannot be imported, and compare every number with the run's."""
    from clearloop.verify import verify as verify_run

    comparisons = verify_run(run, rung)
    for comparison in comparisons:
        mark = "same" if comparison.same else f"DIFFERS: the program has {comparison.program}"
        print(f"{comparison.what:28} {comparison.run:64} {mark}")
    if not all(comparison.same for comparison in comparisons):
        raise typer.Exit(1)
    print("the program and the run agree to the bit")


@app.command()
def notebook2script(
    notebooks: Annotated[list[Path], typer.Argument(help="notebooks (.ipynb) with cells that begin with #export")],
) -> None:
    """Write the marked cells of notebooks as modules: 03_minibatch.ipynb becomes exp/nb_03.py beside it."""
    from clearloop.notebook2script import notebook2script

    notebook2script(*notebooks)


# -- runs -------------------------------------------------------------------------------------------------------------


def check_plan(learn: Learner, plan: Plan) -> None:
    """Look at options, model, loss and data together, before a folder is made."""
    from clearloop.preflight import check_options

    check_options(learn.model, plan.lr, learn.clip, learn.accumulate, plan.epochs)
    learn.prepared()


def fit_plan(learn: Learner, plan: Plan) -> None:
    """Train as planned."""
    learn.fit(plan.epochs, plan.lr, schedule=plan.schedule(learn.steps_per_epoch), quiet=True)


def compare_with_baseline(learn: Learner) -> None:
    """For a table, what one would reach without looking at the inputs."""
    if getattr(learn.dls, "table", None) is not None:
        from clearloop.baselines import baseline

        print(f"without the inputs: {baseline(learn.dls, learn.loss_func, learn.metrics)}")


@contextlib.contextmanager
def new_run(out: Path | None, data: str, learn: Learner, checks: Checkpoints) -> Iterator[None]:
    """A new folder for the checkpoints, `out` or runs/NAME-1, -2, …; it goes again if an error comes before a step."""
    from clearloop.rundir import RunDirectory

    there = out is not None and out.exists()
    name = re.sub(r"[^\w.-]+", "-", "mnist" if data == "mnist" else Path(data).resolve().stem).strip("-.") or "run"
    run = RunDirectory.numbered("runs", name) if out is None else RunDirectory.create(out)
    checks.path = run.path
    try:
        yield
    except (ClearloopError, OSError):
        with contextlib.suppress(RunError), run.lock():  # not where another process has begun the same folder
            if not learn.history.steps and not run.checkpoints():
                for path in [*run.path.iterdir()] if there else [run.path]:  # it was empty: all in it is ours
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        raise


def run_and_report(learn: Learner, work: Callable[[], None], quiet: bool) -> None:
    """Train, with the table on the screen and in the run's log; draw the curves, also when it is interrupted."""
    from clearloop.callbacks.progress import Progress

    waiting: list[str] = []  # the table's header comes before the run's folder is opened

    def log(line: str) -> None:
        waiting.append(line)
        while waiting and learn.run is not None:
            learn.run.run.log(waiting.pop(0))

    learn.cbs.append(Progress(io.StringIO() if quiet else None, log))
    try:
        quietly_warned(work)
    except ClearloopError as error:
        log(f"error: {one_line(error)}")
        raise
    finally:
        draw_curves(learn)
    assert learn.run is not None
    last = learn.history.epochs[-1]
    if learn.stop_reason:
        say(f"stopped early: {learn.stop_reason}")
        log(f"stopped early: {learn.stop_reason}")
    numbers = {"train_loss": last.train_loss, "valid_loss": last.valid_loss, **last.metrics}
    say("  ".join(f"{name} {value:.4f}" for name, value in numbers.items() if value is not None))
    compare_with_baseline(learn)
    draw_looks(learn)
    say(f"saved in {learn.run.path}; next: clearloop predict {learn.run.path} {example(learn)}", quiet)


def draw_curves(learn: Learner) -> None:
    """plots/loss.png in the run's folder; a disk that refuses it is no reason to lose the error before."""
    if learn.run is None or not learn.history.losses:
        return
    try:
        learn.plot_loss(learn.run.path / "plots" / "loss.png")
    except OSError as error:
        print(f"note: the curves are not drawn ({error})", file=sys.stderr)


def draw_looks(learn: Learner) -> None:
    """Pictures of what the model gets right and wrong, in plots/; without them a run is as good."""
    from clearloop.interpret import write_plots

    assert learn.run is not None
    folder = learn.run.path / "plots"
    try:
        quietly_warned(lambda: write_plots(learn, folder))
    except (ClearloopError, OSError, RuntimeError) as error:
        print(f"note: the model's plots are not drawn ({one_line(error)})", file=sys.stderr)


def example(learn: Learner) -> str:
    """What a model of this run takes."""
    if getattr(learn.dls, "table", None) is not None:
        return "ROWS.csv"
    return "ITEMS.npy" if learn.dls.image_size is None else "PICTURE.png"


def quietly_warned(work: Callable[[], Any]) -> Any:
    """Run `work`; its warnings become single lines without a source position."""
    import warnings

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: print(f"note: {message}", file=sys.stderr)
        return work()


def predict_table(predictor: Predictor, items: list[Path], out: Path | None) -> None:
    """The rows of a table with their predictions, as CSV on the screen or in a file."""
    import tempfile

    from clearloop.row_predictions import predict_rows

    if len(items) != 1 or items[0].suffix not in TABLES:
        raise ConfigError(
            f"expected one table with rows to predict, .csv or .parquet, got {', '.join(map(str, items))}"
        )
    if out is not None:
        predict_rows(predictor, items[0], out)
        say(f"wrote {out}")
        return
    with tempfile.TemporaryDirectory() as folder:
        predict_rows(predictor, items[0], Path(folder) / "rows.csv")
        sys.stdout.write((Path(folder) / "rows.csv").read_text())


def items_in(path: Path, predictor: Predictor) -> Any:
    """(name, item) for a picture or an array file with one item, or for each row of one with many."""
    from clearloop.data.arrays import read_npy, read_npz
    from clearloop.errors import DataError

    if path.suffix not in (".npy", ".npz"):
        yield str(path), path
        return
    arrays = {"x": read_npy(path)} if path.suffix == ".npy" else read_npz(path)
    if "x" not in arrays:
        raise DataError(f"{path}: expected an array named x, got {sorted(arrays)}")
    array, size = arrays["x"], predictor.image_size
    if size is None:
        one = array.ndim <= len(predictor.input_shape)
    else:  # flat pixels, a grey picture or one in colour; rows of flat pixels are many
        one = array.ndim < 2 or array.ndim == 2 and array.shape[1] != size[0] * size[1]
        one = one or array.ndim == 3 and array.shape[2] in (3, 4)
    yield from [(str(path), array)] if one else ((f"{path}[{row}]", item) for row, item in enumerate(array))


def short(description: Any) -> str:
    """A component of a recipe in a few words."""
    if not isinstance(description, dict):
        return "?"
    name = str(description.get("path", description.get("name", "?"))).split(":")[-1].split(".")[-1]
    arguments = ", ".join(str(argument) for argument in description.get("args", []) if not isinstance(argument, str))
    return f"{name}({arguments})" if arguments else name


def say(line: str, quiet: bool = False) -> None:
    """Print a line, unless told to be quiet."""
    if not quiet:
        print(line, flush=True)


def main() -> None:
    """The entry point: errors that the library raises on purpose become one line, and an exit code.

    2: input that cannot work; 1: training or a comparison failed; 130 and 143: stopped by Ctrl-C and SIGTERM.
    """
    try:
        app()
    except NonFiniteError as error:
        fail(error, 1)
    except (ClearloopError, OSError) as error:
        fail(error, 2)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(error: Exception, code: int) -> None:
    """Print an error as one line and leave."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(code)


def one_line(error: Exception) -> str:
    """An error's message without line breaks and control codes."""
    return printable(" ".join(str(error).split()))


def printable(text: str) -> str:
    """Text without control codes, which names in files may hold."""
    return "".join(character if character.isprintable() else "?" for character in text)


if __name__ == "__main__":
    main()

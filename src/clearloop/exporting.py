"""A trained model as one file for other programs: ONNX, or torch.export; checked on real data before it is written."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from clearloop import durable, environment, rng
from clearloop.data.dataset import Subset
from clearloop.data.loader import DataLoader, as_loader
from clearloop.deployed import (
    Deployed,
    OwnTransform,
    Pictures,
    Preparation,
    Rows,
    Stored,
    own_transform,
    preparation_of,
)
from clearloop.errors import CheckpointError, ClearloopError, ConfigError, DataError, ModelError, RunError
from clearloop.interpretation import data_in_order, spread
from clearloop.learner import Learner
from clearloop.predictor import Predictor
from clearloop.step import pair

Format = Literal["onnx", "torch"]
Run = Callable[[Tensor], list[Tensor]]  # a batch through an exported file

SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt2": "torch"}
ABOUT = "clearloop.json"  # the extra file of a .pt2 that says what it is
KEY = "clearloop"  # the entry of an ONNX file's metadata that does
BATCH = 64  # samples that are checked together
TOLERANCE = 1e-4  # largest difference, as a share of the largest output
LARGEST = 2**31 - 2**20  # bytes that an ONNX file may have in one piece


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it did against the model on real data; printed, two lines.

    `differences`: the largest of each output, between file and model. `about`: what the file says of itself.
    `checked_in`: what ran the file. `samples` were checked, of `available` in the validation set.
    """

    path: Path
    about: dict[str, Any]
    size: int
    checked_in: str
    samples: int
    available: int | None
    differences: dict[str, float]

    def __str__(self) -> str:
        given = self.about["input"]
        outputs = ", ".join(f"{one['name']} {shape_text(one['shape'])}" for one in self.about["outputs"])
        of = "" if self.available in (None, self.samples) else f" of {self.available:,}"
        largest = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        classes = "; every class the same" if self.about["classes"] else ""
        return (
            f"{self.path} ({self.size / 1e6:.1f} MB): {given['name']} {given['dtype']} {shape_text(given['shape'])} -> "
            f"{outputs}\nchecked on {self.samples:,}{of} validation samples in {self.checked_in}, "
            f"largest differences: {largest}{classes}"
        )


def export(
    what: Learner | str | Path,
    path: str | Path | None = None,
    format: Format | None = None,
    *,
    samples: int = 1000,
    prepared: bool = False,
) -> Exported:
    """Write a model with its preprocessing and class names as one file that needs no clearloop.

    The file takes what a user has: for a model of pictures uint8 pixels, (batch, H, W) if grey or (batch, 3, H, W);
    for one of tables numbers and codes, as its metadata say; otherwise inputs as the data set gives them. A batch may
    have any size. It gives logits and probabilities, or values, or reconstruction and code. What is to be known of it
    (names of classes, size and scaling of pictures, columns) is in it as JSON.

    Args:
        what: a run's folder, whose predictor is taken, or a Learner, as it is evaluated now.
        path: the file; `model.onnx` or `model.pt2` in the run's folder when None.
        format: "onnx" or "torch" (`torch.export`); by the suffix of `path`, or ONNX, when None.
        samples: of the validation set, from all over it, on which file and model are compared before it is written.
        prepared: leave out a transform of your own that the data set has; the file then takes what it would give.

    Raises: ModelError where file and model differ, or the model cannot be exported; ConfigError for options that
    cannot work and packages that are missing; DataError without validation data; RunError for a run without predictor.
    """
    chosen, target = destination(what, path, format)
    require_packages(chosen)
    learn, predictor = parts_of(what)
    own = None if prepared else own_transform(learn.dls.valid)
    pieces = list(check_batches(learn, samples, own))
    with torch.no_grad(), rng.preserved():
        deployed = Deployed(predictor, pieces[0][0], preparation_for(predictor, own)).eval()
        given = [deployed.prepare.undone(inputs) if stored is None else stored for inputs, stored in pieces]
        for (inputs, _), one in zip(pieces, given, strict=True):
            require_fitting(deployed.prepare, inputs, one)
        program = traced(deployed, given[-1])
        about = description(predictor, deployed, given[0])
        data = onnx_bytes(program, about) if chosen == "onnx" else torch_bytes(program, about)
        runner, checked_in = onnx_runner(data, about) if chosen == "onnx" else torch_runner(data)
        differences = compared(deployed, runner, given, checked_in)
    durable.make_directory(target.parent)
    durable.write_file(target, data)
    available = len(learn.dls.valid.dataset) if isinstance(learn.dls.valid, DataLoader) else None
    return Exported(target, about, len(data), checked_in, sum(map(len, given)), available, differences)


# -- what is asked for -------------------------------------------------------------------------------------------------


def destination(what: Any, path: str | Path | None, format: Format | None) -> tuple[Format, Path]:
    """The format, and the file to write."""
    if format is not None and format not in get_args(Format):
        raise ConfigError(f'format must be "onnx" or "torch", got {format!r}')
    if path is None:
        folder = Path(what) if isinstance(what, (str, Path)) else None if what.run is None else what.run.path
        if folder is None:
            raise ConfigError("expected a file to write, got none, for a Learner that was not saved; give path")
        chosen = format or "onnx"
        return chosen, folder / ("model.onnx" if chosen == "onnx" else "model.pt2")
    suffix = Path(path).suffix
    found = format or SUFFIXES.get(suffix)
    if found is None or SUFFIXES.get(suffix, found) != found:
        raise ConfigError(
            f"expected a file that ends in .onnx, or in .pt2 for torch, got {path} and format {format!r}; correct one"
        )
    return found, Path(path)


def require_packages(format: Format) -> None:
    """Raise ConfigError where the packages are missing that write and run ONNX files."""
    names = ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ()
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f'ONNX files need more packages ({", ".join(missing)}): pip install "clearloop[export]"')


def parts_of(what: Learner | str | Path) -> tuple[Learner, Predictor]:
    """A Learner for its data, and the predictor: that of a run's folder, or of the Learner as it is evaluated now."""
    if isinstance(what, Learner):
        learn, predictor = what, Predictor.of(what)
    else:
        try:
            predictor = Predictor.load(what)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # whether it could go on to the bit does not matter here
                learn = Learner.load(what, model=predictor.model, device="cpu")
        except CheckpointError:
            raise
        except (RunError, ConfigError) as error:
            remedy = "for a model or data of your own: export(Learner.load(RUN, model=..., dls=...), FILE) in Python"
            raise type(error)(f"{error}; {remedy}") from error
    if learn.dls.valid is None:
        raise DataError("expected validation data, on which the file is checked, got none; give the Learner some")
    return learn, predictor


def preparation_for(predictor: Predictor, own: OwnTransform | None) -> Preparation:
    """What comes before the model: a transform of the user's own, or what the predictor does."""
    if own is None:
        return preparation_of(predictor)
    targets = pair(own[0].gather(slice(1)))[1]
    return Stored(own[1], targets if isinstance(targets, Tensor) else None)


# -- the file ----------------------------------------------------------------------------------------------------------


def traced(module: nn.Module, given: Tensor) -> Any:
    """The module as a torch.export program for batches of any size, without example inputs or paths of this machine."""
    if len(given) < 2:
        given = torch.cat([given, given])  # a batch of one is traced as one that is always one
    batch = torch.export.Dim("batch", min=1)
    try:
        with quiet():
            program = torch.export.export(module, (given,), dynamic_shapes=({0: batch},))
    except Exception as error:  # it raises nearly anything over code that it cannot follow
        reason = " ".join(str(error).split())[:300]
        if isinstance(module, Deployed) and isinstance(module.prepare, Stored):
            name = getattr(module.prepare.transform, "__qualname__", type(module.prepare.transform).__name__)
            raise ModelError(
                f"the model with the data's own transform {name} cannot be exported: {reason}; write it as torch "
                "operations on whole batches, or leave it out with prepared=True"
            ) from error
        raise ModelError(f"the model cannot be exported for batches of any size: {reason}") from error
    program.example_inputs = None  # they would go into the file, pickled
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def description(predictor: Predictor, deployed: Deployed, given: Tensor) -> dict[str, Any]:
    """What an exported file says of itself: plain data."""
    preparation: Preparation = deployed.prepare
    outputs = [("batch", *output.shape[1:]) for output in deployed(given[:1])]
    about: dict[str, Any] = {
        "format": 1,
        "clearloop": environment.clearloop_version(),
        "torch": str(torch.__version__),
        "input": {
            "name": preparation.name,
            "dtype": str(given.dtype).removeprefix("torch."),
            "shape": ["batch", *given.shape[1:]],
            "how": preparation.how,
        },
        "outputs": [{"name": name, "shape": list(shape)} for name, shape in zip(deployed.names, outputs, strict=True)],
        "classes": None if predictor.classes is None else list(predictor.classes),
    }
    if isinstance(preparation, Pictures):
        normalize = predictor.normalize
        about["image_size"] = list(preparation.image_size)
        about["inside"] = {"scale": 255}  # what the file does with pixels: divide, then normalise
        if normalize is not None:
            about["inside"] |= {"mean": list(normalize.mean), "std": list(normalize.std)}
    if isinstance(preparation, Rows):
        about["target"] = preparation.spec.target
        about["columns"] = [
            {"name": column.name, "kind": column.kind}
            | ({"categories": list(column.categories)} if column.kind == "category" else {})
            for column in preparation.spec.columns
        ]
    return about


def onnx_bytes(program: Any, about: dict[str, Any]) -> bytes:
    """The program as ONNX, its weights inside, with `about` in its metadata."""
    names = [output["name"] for output in about["outputs"]]
    try:
        with quiet():
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=[about["input"]["name"]], output_names=names
            )
            assert made is not None
            proto = made.model_proto
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f'the model cannot be written as ONNX: {reason}; format="torch" may take it') from error
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]  # notes of the exporter's, several times as long as the graph
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]  # with names of torch's for the batch
    proto.producer_name, proto.producer_version = "clearloop", about["clearloop"]
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(about, ensure_ascii=False)
    if proto.ByteSize() > LARGEST:
        raise ModelError(f'expected a model below 2 GB for one ONNX file, got {proto.ByteSize():,}; use format="torch"')
    data: bytes = proto.SerializeToString()
    return data


def torch_bytes(program: Any, about: dict[str, Any]) -> bytes:
    """The program as `torch.export.save` writes it, with `about` as an extra file."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(about, ensure_ascii=False)})
    return buffer.getvalue()


@contextmanager
def quiet() -> Iterator[None]:
    """A block in which torch's exporters neither warn nor log: their notes are for those who work on them."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# -- the check ---------------------------------------------------------------------------------------------------------


def check_batches(learn: Learner, samples: int, own: OwnTransform | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Inputs of the model from all over the validation set, and as the data set stores them where `own` is asked for.

    The first batch is of one sample, so that more than one size of a batch is seen to work.
    """
    if samples < 1:
        raise ConfigError(f"samples must be 1 or more, got {samples}")
    loader = as_loader(learn.dls.valid)
    data = own[0] if own is not None else data_in_order(loader)
    if data is not None:
        rows = spread(len(data), samples)
        for part in (rows[:1], *(rows[at : at + BATCH] for at in range(1, len(rows), BATCH))):
            stored = pair(data.gather(torch.tensor(part)))
            if own is not None:
                yield pair(own[1](stored))[0], stored[0]
            else:
                yield next(iter(pair(batch)[0] for batch in DataLoader(Subset(data, part), BATCH).batches(0))), None
        return
    count = 0
    for inputs, _ in map(pair, loader.batches(0, device=torch.device("cpu"))):
        parts = inputs.split([1, len(inputs) - 1]) if not count and len(inputs) > 1 else [inputs]
        yield from ((part, None) for part in parts)
        count += len(inputs)
        if count >= samples:
            return


def require_fitting(preparation: Preparation, inputs: Tensor, given: Tensor) -> None:
    """Raise DataError where what the file would prepare is not what the model sees of the validation data."""
    prepared = preparation(given)
    if prepared.shape == inputs.shape:
        limit = 1e-5 * max(1.0, float(inputs.double().abs().max()))
        if isinstance(preparation, Pictures):
            limit += 0.5 / 255 / float(preparation.std.min())  # half a step of a byte
        if float((prepared.double() - inputs.double()).abs().max()) <= limit:
            return
    low, high = (f"{float(edge):.3g}" for edge in torch.aminmax(inputs))
    raise DataError(
        f"expected validation data that the file can prepare ({preparation.name}: {preparation.how}), got inputs of "
        f"{tuple(inputs.shape)} from {low} to {high}, which it would make {tuple(prepared.shape)} or other numbers of; "
        "give DataLoaders the normalize that they use, or leave out image_size"
    )


def onnx_runner(data: bytes, about: dict[str, Any]) -> tuple[Run, str]:
    """What runs the bytes of an ONNX file, and its name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"onnxruntime refuses the file: {' '.join(str(error).split())[:300]}") from error
    name = about["input"]["name"]

    def run(given: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, {name: given.numpy()})]

    return run, f"onnxruntime {onnxruntime.__version__}"


def torch_runner(data: bytes) -> tuple[Run, str]:
    """What runs the bytes of a .pt2 file, loaded again, and its name."""
    with quiet():
        module = torch.export.load(io.BytesIO(data)).module()
    return lambda given: list(module(given)), f"torch {torch.__version__} after torch.export.load"


def compared(deployed: Deployed, runner: Run, batches: list[Tensor], where: str) -> dict[str, float]:
    """The largest difference of each output. Raises ModelError for one beyond `TOLERANCE`, or another class."""
    largest = dict.fromkeys(deployed.names, 0.0)
    scale = dict.fromkeys(deployed.names, 0.0)
    for given in batches:
        try:
            found = runner(given)
        except ClearloopError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"the exported file fails in {where} on a batch of {len(given)}: {reason}") from error
        for name, one, other in zip(deployed.names, found, deployed(given), strict=True):
            if one.shape != other.shape:
                raise ModelError(
                    f"{name}: the file gives {tuple(one.shape)}, the model {tuple(other.shape)}; not written"
                )
            apart = (one.double() - other.double()).abs()
            largest[name] = max(largest[name], float(apart.nan_to_num(nan=math.inf).max()))
            scale[name] = max(scale[name], float(other.abs().max()))
            if name == "probabilities" and not torch.equal(one.argmax(dim=1), other.argmax(dim=1)):
                raise ModelError(f"in {where} the file gives other classes than the model; nothing was written")
    wrong = [name for name in largest if largest[name] > TOLERANCE * (scale[name] or 1.0)]
    if wrong:
        raise ModelError(
            f"in {where} the file's {wrong[0]} differ from the model's by up to {largest[wrong[0]]:.3g}, expected at "
            f"most {TOLERANCE:g} of {scale[wrong[0]]:.3g}; nothing was written. A model that draws random numbers or "
            "looks at other samples of the batch cannot be exported"
        )
    return largest


def shape_text(shape: list[Any]) -> str:
    """A shape as it is written.

    >>> shape_text(["batch", 10])
    '(batch, 10)'
    """
    return f"({', '.join(map(str, shape))})"

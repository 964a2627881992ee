"""Runs, the programs that they are printed as, and what these print."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file

import clearloop as cl
from clearloop import models
from cli_tools import process


def sha256_of(run):
    """SHA-256 over the weights in the newest checkpoint, by name: computed here, not by the library."""
    newest = max((run / "checkpoints").glob("step-*"))
    digest = hashlib.sha256()
    for name, array in sorted(load_file(newest / "model.safetensors").items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def printed_by(run):
    """What the ejected program has to print: the run's own losses and metrics, and the hash of its weights."""
    records = map(json.loads, (run / "history.jsonl").read_text().splitlines())
    lines = []
    for record in (record for record in records if record["kind"] == "epoch"):
        values = {"train_loss": record["train_loss"], "valid_loss": record["valid_loss"], **record["metrics"]}
        lines.append("  ".join([f"epoch {record['epoch']}", *(f"{name} {value!r}" for name, value in values.items())]))
    return [*lines, f"sha256 {sha256_of(run)}"]


RUNNER = """
import contextlib, io, json, os, runpy, sys, traceback, warnings

found = {}
for program, *arguments in json.load(sys.stdin):
    sys.argv, out = [program, *arguments], io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(open(program).read(), program, "exec")
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(program, run_name="__main__")
    except BaseException:
        out.write(traceback.format_exc())
    found[" ".join(sys.argv)] = out.getvalue().splitlines()
assert not any(name.split(".")[0] == "clearloop" for name in sys.modules)
json.dump(found, sys.stdout)
"""


def run_programs(commands, folder):
    """What each program prints, all in one process in which clearloop cannot be imported."""
    (folder / "clearloop.py").write_text('raise ImportError("not here")\n')
    runner = folder / "runner.py"
    runner.write_text(RUNNER)
    commands = [[*map(str, command)] for command in commands]
    done = process(runner, input=json.dumps(commands), cwd=folder, env={"PYTHONPATH": str(folder)})
    assert done.code == 0, done.err
    found = json.loads(done.out)
    return [found[" ".join(command)] for command in commands]


def fitted(data, path, *, model=None, seed=0, epochs=1, schedule=None, loss_func=F.cross_entropy, dls=None, **options):
    """A small run of the Learner; by default its weights come from its seed."""
    torch.set_num_threads(1)
    loaders = cl.DataLoaders.idx(data / "idx", 250, seed=7, valid=100) if dls is None else dls(data)
    torch.manual_seed(seed)
    learn = cl.Learner(
        loaders,
        models.mlp(784, 8, 10) if model is None else model(),
        loss_func,
        seed=seed,
        device="cpu",
        **{"metrics": cl.accuracy, **options, "cbs": [*options.get("cbs", []), cl.Checkpoints(path)]},
    )
    learn.fit(epochs, 0.1, schedule=schedule, quiet=True)
    return learn

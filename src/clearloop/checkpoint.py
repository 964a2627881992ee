"""The state that training changes as named values, and back; `packing` takes it to a directory."""

from __future__ import annotations

from typing import Any

from clearloop.errors import CheckpointError
from clearloop.step import TrainState
from clearloop.weights import load_tensors, named_tensors


def train_state(state: TrainState) -> dict[str, Any]:
    """Model, optimizer and scaler as nested plain containers; optimizer state goes by parameter name.

    Model tensors are the parameters and all buffers, those that `state_dict` leaves out too; tied ones by each name.
    """
    saved, names = state.opt.state_dict(), _parameter_names(state)
    groups = [{**group, "params": [names[i] for i in group["params"]]} for group in saved["param_groups"]]
    kind, values = type(state.opt).__name__, {names[i]: values for i, values in saved["state"].items()}
    optim = {"kind": kind, "state": values, "groups": groups}
    scaler = None if state.scaler is None else state.scaler.state_dict()
    return {"model": named_tensors(state.model), "optim": optim, "scaler": scaler}


def load_train_state(state: TrainState, saved: dict[str, Any]) -> None:
    """Copy what `train_state` gave into the model and the optimizer; CheckpointError if names or shapes differ."""
    optim = saved["optim"]
    load_tensors(state.model, saved["model"])
    number = {name: i for i, name in enumerate(_parameter_names(state))}
    if optim["kind"] != type(state.opt).__name__:
        kinds = f"{optim['kind']}, this Learner has {type(state.opt).__name__}"
        raise CheckpointError(f"the checkpoint is of a run with the optimizer {kinds}; give it the former as opt_func")
    if {name for group in optim["groups"] for name in group["params"]} != set(number):
        raise CheckpointError("the saved optimizer does not train the parameters that this one trains")
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in optim["groups"]]
    state.opt.load_state_dict({"state": {number[k]: v for k, v in optim["state"].items()}, "param_groups": groups})
    if state.scaler is not None and saved["scaler"] is not None:
        state.scaler.load_state_dict(saved["scaler"])


def _parameter_names(state: TrainState) -> list[str]:
    by_id = {id(parameter): name for name, parameter in state.model.named_parameters()}
    return [by_id[id(parameter)] for group in state.opt.param_groups for parameter in group["params"]]

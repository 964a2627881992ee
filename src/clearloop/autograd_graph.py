"""The autograd graph of a tensor: what PyTorch recorded while it was computed, as nodes and edges and as a picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clearloop.drawing import Drawing
from clearloop.errors import ConfigError
from clearloop.sketch import Edge, Node

BLUE, GREY, GREEN, YELLOW = "#bfdcf5", "#e4e4e4", "#c5e8b7", "#fdf1c7"

Roots = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Params = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]


def graph(tensor: Roots, params: Params | None = None, *, saved: bool = False) -> Drawing:
    """Draw what autograd recorded while `tensor` was computed: the way that `backward` will go, the other way round.

    Edges lead in the direction of the computation: from the leaves (blue: tensors that require a gradient and were not
    computed) through the operations (grey) to the tensor itself (green). What needs no gradient was not recorded and is
    not there: inputs, targets, constants, a parameter whose `requires_grad` is off. Nothing is computed or changed, and
    the drawing keeps no tensor alive.

    Args:
        tensor: a loss or any other tensor; or several, in a list, a tuple or a mapping of names.
        params: names for leaves, say `dict(model.named_parameters())`; without one a leaf shows its shape alone. Names
            of computed tensors are written beside the operation that made them; tensors not in the graph are ignored.
        saved: also draw, yellow and dashed, the tensors that operations keep for their gradient until `backward`.

    Returns:
        A Drawing: shown by a notebook, written by `render("graph.svg")`, with `nodes` and `edges` as data. The kind of
        a node is "leaf", "operation", "root" or "saved". A leaf that is given as `tensor` is a graph of one node.

    Raises:
        ConfigError: something else than a tensor came, or a tensor that autograd did not record; the message says why.

    >>> w = torch.ones(3, requires_grad=True)
    >>> drawing = graph((w * 2).sum(), {"w": w})
    >>> [(node.kind, node.label) for node in drawing.nodes]
    [('leaf', 'w\\n(3,)'), ('operation', 'mul'), ('operation', 'sum'), ('root', '()')]
    >>> [(edge.tail, edge.head) for edge in drawing.edges]
    [('0', '1'), ('1', '2'), ('2', '3')]
    """
    roots = _roots(tensor)
    walk = _Walk(_names(params), saved)
    walk.note_made({id(root) for _, root in roots})
    for key, root in roots:
        walk.add_root(key, root)
    return walk.drawing()


def _roots(tensor: Roots) -> list[tuple[str, Tensor]]:
    """The tensors whose graph is drawn, each with a name if it came with one."""
    if isinstance(tensor, Mapping):
        roots: list[tuple[str, Any]] = [(str(key), value) for key, value in tensor.items()]
    else:
        several = isinstance(tensor, (list, tuple))
        roots = [("", value) for value in (tensor if several else [tensor])]
    if not roots:
        raise ConfigError(f"expected a tensor or several, got an empty {type(tensor).__name__}")
    for number, (key, root) in enumerate(roots):
        which = "" if isinstance(tensor, Tensor) else f" as {key!r}" if key else f" at {number}"
        if not isinstance(root, Tensor):
            raise ConfigError(f"expected a tensor such as a loss, got {type(root).__name__}{which}")
        if not root.requires_grad:
            raise ConfigError(_why_not(root, which))
    return roots


def _why_not(tensor: Tensor, which: str) -> str:
    """Why autograd recorded nothing for a tensor, as far as the tensor shows it."""
    got = f"expected a tensor that autograd recorded, got one of shape {tuple(tensor.shape)}{which} without grad_fn: "
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return got + f"{tensor.dtype} has no gradient; give the loss, or what it was computed from"
    if tensor.is_inference():
        return got + "it was made under torch.inference_mode(); compute it outside"
    return got + (
        "it was computed under torch.no_grad(), or detached, or nothing that it was computed from requires a gradient; "
        "give a tensor computed from parameters with requires_grad=True, with gradients on"
    )


def _names(params: Params | None) -> dict[int, tuple[Tensor, str]]:
    """The name of each tensor, by identity; the tensor is kept so that no other one can get its identity."""
    found: dict[int, tuple[Tensor, str]] = {}
    remedy = "give dict(model.named_parameters())"
    try:
        named = {} if params is None else dict(params)
    except (TypeError, ValueError, RuntimeError):  # not pairs; the last from a tensor
        got = type(params).__name__
        raise ConfigError(f"expected params as names and tensors, got {got}; {remedy}") from None
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            got = f"{type(tensor).__name__} as {str(name)!r}"
            raise ConfigError(f"expected params as names and tensors, got {got}; {remedy}")
        before = found.get(id(tensor))
        found[id(tensor)] = (tensor, f"{before[1]}, {name}" if before else str(name))
    return found


@dataclass
class _Walk:
    """Collects nodes, each after those that it was computed from; steps of backward are known by identity."""

    names: dict[int, tuple[Tensor, str]]
    saved: bool
    nodes: list[Node] = field(default_factory=list)
    edges: list[tuple[str, str, bool]] = field(default_factory=list)
    steps: dict[Any, str] = field(default_factory=dict)  # node of the backward graph: the name of ours
    leaves: dict[int, tuple[Tensor, str]] = field(default_factory=dict)
    made: dict[Any, list[str]] = field(default_factory=dict)  # names of the tensors that an operation made

    def note_made(self, roots: set[int]) -> None:
        """Note which operation made a tensor that has a name; roots show their own."""
        for tensor, name in self.names.values():
            if tensor.grad_fn is not None and id(tensor) not in roots:
                self.made.setdefault(tensor.grad_fn, []).append(f"{name} {describe(tensor)}")

    def node(self, label: str, kind: str, fill: str) -> str:
        name = str(len(self.nodes))
        self.nodes.append(Node(name, label, kind, fill=fill))
        return name

    def add_root(self, key: str, tensor: Tensor) -> None:
        """A leaf is drawn as one; a computed tensor hangs below the operation that made it."""
        if tensor.grad_fn is None:
            self.leaf(tensor)
            return
        self.walk(tensor.grad_fn)
        name = key or self.names.get(id(tensor), (tensor, ""))[1]
        root = self.node(f"{name}\n{describe(tensor)}".lstrip("\n"), "root", GREEN)
        self.edges.append((self.steps[tensor.grad_fn], root, False))

    def walk(self, last: Any) -> None:
        """All steps that lead to `last`, in the order of the computation. A loop: graphs are deeper than the stack."""
        stack = [(last, iter(inputs_of(last)))]
        while stack and last not in self.steps:
            step, inputs = stack[-1]
            new = next((one for one in inputs if one not in self.steps), None)
            if new is None:
                stack.pop()
                self.steps[step] = self.step(step)
            else:
                stack.append((new, iter(inputs_of(new))))

    def step(self, step: Any) -> str:
        """The node of one step of backward; those that it goes on to are there already."""
        if type(step).__name__ == "AccumulateGrad":  # where the gradient of a leaf arrives
            return self.leaf(step.variable)
        name = self.node("\n".join([operation_name(step), *self.made.get(step, [])]), "operation", GREY)
        self.edges += [(self.steps[one], name, False) for one in inputs_of(step)]
        if self.saved:
            for label, tensor in saved_by(step):
                kept = self.node(f"{label}\n{describe(tensor)}", "saved", YELLOW)
                self.edges.append((kept, name, True))
        return name

    def leaf(self, tensor: Tensor) -> str:
        if id(tensor) not in self.leaves:
            name = self.names.get(id(tensor), (tensor, ""))[1]
            self.leaves[id(tensor)] = (tensor, self.node(f"{name}\n{describe(tensor)}".lstrip("\n"), "leaf", BLUE))
        return self.leaves[id(tensor)][1]

    def drawing(self) -> Drawing:
        return Drawing(tuple(self.nodes), tuple(Edge(tail, head, dashed=dashed) for tail, head, dashed in self.edges))


def inputs_of(step: Any) -> list[Any]:
    """The steps that backward goes on to, one for each input that needs a gradient, in the order of the inputs."""
    return [one for one, _ in step.next_functions if one is not None]


def describe(tensor: Tensor) -> str:
    """Shape, and what is not usual: `(3, 4)`, `() float64`, `(2,) on cuda:0`.

    >>> describe(torch.zeros(3, 4)), describe(torch.zeros((), dtype=torch.float64))
    ('(3, 4)', '() float64')
    """
    dtype = "" if tensor.dtype == torch.float32 else f" {str(tensor.dtype).removeprefix('torch.')}"
    device = "" if tensor.device.type == "cpu" else f" on {tensor.device}"
    return f"{tuple(tensor.shape)}{dtype}{device}"


def operation_name(step: Any) -> str:
    """The operation whose gradient a step of backward computes, as it is written in a program.

    >>> operation_name(torch.ones(1, requires_grad=True).log_softmax(0).grad_fn)
    'log_softmax'
    """
    name = re.sub(r"Backward\d*$", "", step.name())
    if isinstance(step, torch.autograd.function.BackwardCFunction):
        return name  # a class that somebody wrote, under its own name
    name = name.rsplit("::", 1)[-1]  # C++ namespaces
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z\d])(?=[A-Z][a-z])", "_", name).lower()


def saved_by(step: Any) -> list[tuple[str, Tensor]]:
    """The tensors that a step keeps until backward has passed, with the names under which it keeps them."""
    found: list[tuple[str, Any]] = []
    names = [name for name in dir(step) if name.startswith("_saved_")]
    if isinstance(step, torch.autograd.function.BackwardCFunction):
        names = ["saved_tensors"]
    for name in names:
        try:
            value = getattr(step, name)
        except RuntimeError:  # backward has passed: what was kept is gone
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        found += [(name.removeprefix("_saved_"), one) for one in values]
    return [(name, value) for name, value in found if isinstance(value, Tensor)]

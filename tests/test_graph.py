"""The autograd graph: the same steps as torch's own, whatever was computed; names, kinds, and refusals."""

from __future__ import annotations

import gc
import sys
import weakref
import xml.etree.ElementTree as ET
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import clearloop as cl
from clearloop import graph
from clearloop.autograd_graph import BLUE, GREEN, GREY, operation_name
from clearloop.drawing import Drawing
from clearloop.errors import ConfigError


class Cube(torch.autograd.Function):
    """An operation of our own; the attribute `variable` must not make it a leaf."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.variable = x
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        [x] = ctx.saved_tensors
        return 3 * x * x * grads[0]


def leaf(*shape: int, **options: Any) -> Tensor:
    return torch.ones(shape, requires_grad=True, **options)


def labels(drawing: Drawing, kind: str) -> list[str]:
    return [node.label for node in drawing.nodes if node.kind == kind]


def inputs(drawing: Drawing, label: str) -> list[str]:
    """The labels of what leads to the one node with this label."""
    by_name = {node.name: node for node in drawing.nodes}
    [name] = [node.name for node in drawing.nodes if node.label == label]
    return [by_name[edge.tail].label for edge in drawing.edges if edge.head == name]


def by_torch(tensor: Tensor) -> tuple[int, Counter[tuple[str, str]]]:
    """How many steps backward has, and how often it goes from a step of one name to one of another."""
    seen = {tensor.grad_fn}
    steps = [tensor.grad_fn]
    found: Counter[tuple[str, str]] = Counter()
    for step in steps:
        for following, _ in step.next_functions:
            if following is None:
                continue
            found[step.name(), following.name()] += 1
            if following not in seen:
                seen.add(following)
                steps.append(following)
    return len(steps), found


def same_as_torch(tensor: Tensor) -> None:
    """As many nodes and edges as torch has, one root apart, in the order of the computation."""
    drawing = graph(tensor)
    count, going = by_torch(tensor)
    assert len(drawing.nodes) == count + 1
    assert len(drawing.edges) == going.total() + 1
    place = {node.name: number for number, node in enumerate(drawing.nodes)}
    assert len(place) == len(drawing.nodes)
    assert all(place[edge.tail] < place[edge.head] for edge in drawing.edges)
    leaves = sum(times for (_, name), times in going.items() if name.endswith("AccumulateGrad"))
    kinds = {node.name: node.kind for node in drawing.nodes}
    assert sum(kinds[edge.tail] == "leaf" for edge in drawing.edges) == leaves
    assert [node.kind for node in drawing.nodes].count("root") == 1


# -- what is in it ---------------------------------------------------------------------------------------------------


def test_a_line_and_its_loss():
    b, w, x, y = leaf(1), leaf(1), torch.randn(80, 1), torch.randn(80, 1)
    error = b + w * x - y
    drawing = graph((error**2).mean(), {"b": b, "w": w, "x": x})
    assert labels(drawing, "leaf") == ["b\n(1,)", "w\n(1,)"]
    assert labels(drawing, "operation") == ["mul", "add", "sub", "pow", "mean"]
    assert labels(drawing, "root") == ["()"]
    assert inputs(drawing, "mul") == ["w\n(1,)"]
    assert inputs(drawing, "add") == ["b\n(1,)", "mul"]
    assert inputs(drawing, "sub") == ["add"]
    assert inputs(drawing, "()") == ["mean"]
    assert {node.kind: node.fill for node in drawing.nodes} == {"leaf": BLUE, "operation": GREY, "root": GREEN}


def test_with_its_gradient_turned_off_a_leaf_is_gone_and_so_is_what_only_it_led_to():
    b, w, x = leaf(1), leaf(1), torch.randn(80, 1)
    w.requires_grad_(False)
    drawing = graph((b + w * x).sum(), {"b": b, "w": w})
    assert labels(drawing, "leaf") == ["b\n(1,)"]
    assert labels(drawing, "operation") == ["add", "sum"]


def test_a_frozen_layer_is_gone():
    model = nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
    images, digits = torch.randn(8, 784), torch.randint(0, 10, (8,))
    whole = graph(F.cross_entropy(model(images), digits), dict(model.named_parameters()))
    assert sorted(labels(whole, "leaf")) == [
        "0.bias\n(50,)",
        "0.weight\n(50, 784)",
        "2.bias\n(10,)",
        "2.weight\n(10, 50)",
    ]
    assert Counter(labels(whole, "operation")) == Counter(
        ["t", "addmm", "relu", "t", "addmm", "log_softmax", "nll_loss"]
    )
    model[0].requires_grad_(False)
    half = graph(F.cross_entropy(model(images), digits), dict(model.named_parameters()))
    assert sorted(labels(half, "leaf")) == ["2.bias\n(10,)", "2.weight\n(10, 50)"]
    assert labels(half, "operation") == ["t", "addmm", "log_softmax", "nll_loss"]


@pytest.mark.parametrize(("start", "ran"), [(1.0, ["mul", "exp"]), (-1.0, ["mul", "sin", "sin", "sin"])])
def test_control_flow_shows_what_really_ran(start, ran):
    w = leaf()
    x = w * start
    if x > 0:
        x = x.exp()
    else:
        while x < -0.7:
            x = x.sin()
    assert labels(graph(x), "operation") == ran


def test_a_tensor_that_is_used_twice_is_there_once_with_two_edges():
    w = leaf(2)
    drawing = graph((w * w + w).sum(), {"w": w})
    assert labels(drawing, "leaf") == ["w\n(2,)"]
    assert inputs(drawing, "mul") == ["w\n(2,)", "w\n(2,)"]
    assert inputs(drawing, "add") == ["mul", "w\n(2,)"]


def test_a_shared_parameter_is_there_once_under_both_names():
    encoder, decoder = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    decoder.weight = encoder.weight
    drawing = graph(decoder(encoder(torch.randn(2, 4))), {"encoder": encoder.weight, "decoder": decoder.weight})
    assert labels(drawing, "leaf") == ["encoder, decoder\n(4, 4)"]


def test_without_names_leaves_show_their_shape_alone():
    assert labels(graph(leaf(3, 4).sum()), "leaf") == ["(3, 4)"]
    assert labels(graph(leaf(3, 4).sum(), {"other": leaf(1)}), "leaf") == ["(3, 4)"]


def test_names_may_come_as_pairs():
    model = nn.Linear(2, 1)
    loss = model(torch.randn(3, 2)).sum()
    assert graph(loss, model.named_parameters()) == graph(loss, dict(model.named_parameters()))


def test_a_computed_tensor_with_a_name_is_named_at_the_operation_that_made_it():
    w = leaf(2, 3)
    hidden = w.relu()
    hidden.retain_grad()
    loss = hidden.sum()
    drawing = graph(loss, {"hidden": hidden, "loss": loss})
    assert labels(drawing, "operation") == ["relu\nhidden (2, 3)", "sum"]
    assert labels(drawing, "root") == ["loss\n()"]


def test_what_is_not_float32_says_so():
    w = leaf(2, dtype=torch.complex64)
    drawing = graph((w * 1j).abs().double().sum(), {"w": w})
    assert labels(drawing, "leaf") == ["w\n(2,) complex64"]
    assert labels(drawing, "root") == ["() float64"]


def test_several_tensors_share_one_drawing():
    w = leaf(3)
    hidden = w * 2
    drawing = graph({"sum": hidden.sum(), "hidden": hidden})
    assert labels(drawing, "root") == ["sum\n()", "hidden\n(3,)"]
    assert labels(drawing, "operation") == ["mul", "sum"]
    assert len(drawing.edges) == 4
    assert labels(graph([w, hidden]), "leaf") == ["(3,)"]
    assert labels(graph([hidden, hidden.mean()]), "root") == ["(3,)", "()"]
    assert labels(graph(w.split(2), {"w": w}), "operation") == ["split"]


def test_a_leaf_alone_is_a_graph_of_one_node():
    w = leaf(3)
    drawing = graph(w, {"w": w})
    assert [(node.kind, node.label) for node in drawing.nodes] == [("leaf", "w\n(3,)")]
    assert not drawing.edges


def test_saved_tensors_are_there_until_backward_has_passed():
    w, x = leaf(2, 3), torch.randn(3, 4)
    loss = Cube.apply(w @ x).sum()
    drawing = graph(loss, {"w": w}, saved=True)
    assert labels(drawing, "saved") == ["mat2\n(3, 4)", "saved_tensors\n(2, 4)"]
    assert sum(edge.dashed for edge in drawing.edges) == 2
    assert not labels(graph(loss), "saved")
    loss.backward()
    assert not labels(graph(loss, saved=True), "saved")
    assert labels(graph(loss), "operation") == ["mm", "Cube", "sum"]  # the steps stay


# -- as torch has it -------------------------------------------------------------------------------------------------


def in_place(x: Tensor) -> Tensor:
    y = x * 2
    y[0] = 1.0
    y[:, 1].mul_(3)
    y.add_(x)
    return y


COMPUTATIONS = {
    "in place, through views": in_place,
    "views": lambda x: x.view(-1)[2:5].unsqueeze(0).expand(4, 3).t(),
    "a function of one's own": lambda x: Cube.apply(Cube.apply(x) + x),
    "several results": lambda x: torch.cat([*x.unbind(0), *x.split(2)[0], x.max(0).values]),
    "a part detached": lambda x: x * x.detach() + x.detach().exp(),
    "complex": lambda x: torch.view_as_real(torch.fft.fft(x.to(torch.complex64))).pow(2),
    "convolution": lambda x: F.max_pool2d(F.conv2d(x[None, None], torch.ones(2, 1, 2, 2)), 2),
    "recurrent": lambda x: nn.GRU(4, 3)(x)[0],
    "normalised": lambda x: F.layer_norm(F.batch_norm(x, None, None, training=True), (4,)),
    "second derivative": lambda x: torch.autograd.grad((x**3).sum(), x, create_graph=True)[0] * x,
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
}


@pytest.mark.parametrize("compute", COMPUTATIONS.values(), ids=COMPUTATIONS.keys())
def test_the_graph_has_torchs_steps(compute):
    x = torch.rand(4, 4, requires_grad=True)
    same_as_torch(compute(x))
    same_as_torch(compute(x).sum())


@given(st.lists(st.tuples(st.sampled_from("+*@r"), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=25))
def test_the_graph_of_any_computation_has_torchs_steps(program):
    made = [leaf(2, 2), leaf(2, 2), torch.ones(2, 2)]
    for operation, first, second in program:
        a, b = made[first % len(made)], made[second % len(made)]
        made.append({"+": a + b, "*": a * b, "@": a @ b, "r": a.relu()}[operation])
    if made[-1].grad_fn is not None:
        same_as_torch(made[-1])


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda x: x.log_softmax(0), "log_softmax"),
        (lambda x: F.linear(x, x, x[0]), "addmm"),
        (lambda x: F.max_pool2d(x[None], 2), "max_pool2d_with_indices"),
        (lambda x: F.binary_cross_entropy_with_logits(x, x.detach()), "binary_cross_entropy_with_logits"),
        (lambda x: x.t(), "t"),
        (lambda x: x.log1p(), "log1p"),
        (lambda x: Cube.apply(x), "Cube"),
    ],
)
def test_operations_have_the_names_that_programs_use(made, name):
    assert operation_name(made(leaf(4, 4)).grad_fn) == name


# -- size, and no traces ---------------------------------------------------------------------------------------------


def test_a_graph_deeper_than_the_stack_is_drawn():
    depth = 3 * sys.getrecursionlimit()
    w = leaf(1)
    x = w
    for _ in range(depth):
        x = x * 1.0
    drawing = graph(x, {"w": w})
    assert len(drawing.nodes) == depth + 2
    groups = [group for group in ET.fromstring(drawing.svg).iter() if group.get("class") == "node"]
    assert len(groups) == depth + 2


def test_a_drawing_keeps_no_tensor_alive_and_changes_nothing():
    w = leaf(3)
    loss = (w * 2).sum()
    drawing = graph(loss, {"w": w}, saved=True)
    assert w.grad is None
    loss.backward()
    assert w.grad is not None
    tensor = weakref.ref(w)
    del w, loss
    gc.collect()
    assert tensor() is None
    assert "mul" in drawing.dot


def test_the_same_computation_gives_the_same_bytes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    drawings = [graph(model(torch.randn(5, 3)).mean(), dict(model.named_parameters())) for _ in range(2)]
    assert drawings[0] == drawings[1]
    assert drawings[0].svg == drawings[1].svg
    assert drawings[0].png == drawings[1].png


def test_a_picture_of_a_loss_can_be_written(tmp_path):
    model = nn.Linear(3, 1)
    drawing = cl.graph(model(torch.randn(5, 3)).mean(), dict(model.named_parameters()))
    assert "weight" in drawing.render(tmp_path / "loss.svg").read_text(encoding="utf-8")
    assert drawing.render(tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


# -- refusals --------------------------------------------------------------------------------------------------------


def under_no_grad() -> Tensor:
    with torch.no_grad():
        return leaf(2) * 2


def under_inference_mode() -> Tensor:
    with torch.inference_mode():
        return leaf(2) * 2


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (under_no_grad, r"shape \(2,\) without grad_fn: it was computed under torch\.no_grad\(\), or detached"),
        (lambda: (leaf(2) * 2).detach(), "detached"),
        (lambda: torch.ones(3), "nothing that it was computed from requires a gradient"),
        (under_inference_mode, r"torch\.inference_mode"),
        (lambda: leaf(3).argmax(), "torch.int64 has no gradient"),
        (lambda: [leaf(3), torch.ones(3)], "at 1 without grad_fn"),
        (lambda: {"a": leaf(3), "b": 3}, "got int as 'b'"),
        (lambda: [], "got an empty list"),
        (lambda: nn.Linear(1, 1), "expected a tensor such as a loss, got Linear"),
        (lambda: None, "got NoneType"),
        (lambda: leaf(1).grad_fn, "got NoneType"),
    ],
)
def test_what_has_no_graph_is_refused_with_the_reason(make, problem):
    with pytest.raises(ConfigError, match=problem):
        graph(make())


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (leaf(1), "got Tensor; give dict"),
        ({"w": 3}, "got int as 'w'"),
        ({"w": None}, "got NoneType as 'w'"),
        ([1, 2], "expected params as names and tensors, got list"),
        (nn.Linear(1, 1), "expected params as names and tensors, got Linear"),
        (nn.Linear(1, 1).parameters(), "expected params as names and tensors, got generator"),
    ],
)
def test_names_that_are_none_are_refused(params, problem):
    with pytest.raises(ConfigError, match=problem):
        graph(leaf(1) * 2, params)

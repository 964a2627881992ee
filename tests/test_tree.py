"""Maps over nested batches keep their shape, and touch tensors alone."""

from __future__ import annotations

import itertools
from collections import namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearloop.tree import concatenate, detach, leaves, length, to_device, tree_map

Point = namedtuple("Point", "x y")
tensors = st.integers(0, 9).map(lambda n: torch.full((2, 3), float(n)))
trees = st.recursive(
    tensors | st.text(max_size=2) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.tuples(inner, inner).map(lambda pair: Point(*pair))
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(tree=trees)
def test_mapping_the_identity_changes_nothing(tree):
    assert same(tree_map(lambda tensor: tensor, tree), tree)
    assert same(detach(tree), tree)
    assert same(to_device(tree, torch.device("cpu")), tree)


@given(tree=trees)
def test_maps_compose(tree):
    one = tree_map(lambda tensor: tensor * 2 + 1, tree)
    two = tree_map(lambda tensor: tensor + 1, tree_map(lambda tensor: tensor * 2, tree))
    assert same(one, two)


@given(tree=trees)
def test_leaves_come_in_the_order_in_which_a_map_meets_them(tree):
    met: list[torch.Tensor] = []
    tree_map(lambda tensor: met.append(tensor) or tensor, tree)
    found = [leaf for leaf in leaves(tree) if isinstance(leaf, torch.Tensor)]
    assert len(met) == len(found)
    assert all(a is b for a, b in zip(met, found, strict=True))


def test_detaching_cuts_the_graph_without_a_copy():
    weight = torch.ones(2, requires_grad=True)
    tree = {"a": [weight * 2, "text"]}
    cut = detach(tree)
    assert not cut["a"][0].requires_grad
    assert cut["a"][0].data_ptr() == tree["a"][0].data_ptr()


def test_tensors_that_are_on_the_device_are_not_copied():
    tensor = torch.ones(2)
    assert to_device((tensor,), torch.device("cpu"))[0] is tensor


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (torch.zeros(7, 3), 7),
        ((torch.tensor(1.0), torch.zeros(5)), 5),
        ({"name": "x", "values": [torch.zeros(4, 2)]}, 4),
        (torch.zeros(0, 2), 0),
    ],
)
def test_the_length_of_a_batch_is_that_of_its_first_tensor(tree, expected):
    assert length(tree) == expected


@pytest.mark.parametrize("tree", ["text", (), torch.tensor(1.0), [None, 3]])
def test_without_a_batch_dimension_there_is_no_length(tree):
    with pytest.raises(TypeError, match="a batch needs at least one tensor with a batch dimension, got"):
        length(tree)


@given(cuts=st.lists(st.integers(1, 9)))
def test_a_batch_cut_into_parts_and_joined_is_the_batch(cuts):
    batch = {"x": (torch.arange(20).view(10, 2), [torch.arange(10)]), "name": "digits"}
    edges = [0, *sorted(set(cuts)), 10]
    parts = [tree_map(lambda tensor, a=a, b=b: tensor[a:b], batch) for a, b in itertools.pairwise(edges)]
    assert same(concatenate(parts), batch)


def test_named_tuples_are_joined_field_by_field():
    joined = concatenate([Point(torch.zeros(1), torch.ones(2)), Point(torch.ones(1), torch.ones(1))])
    assert type(joined) is Point
    assert joined.x.tolist() == [0, 1]
    assert joined.y.tolist() == [1, 1, 1]

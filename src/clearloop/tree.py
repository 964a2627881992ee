"""Maps over nested batches: tuples, lists and dicts of tensors, to any depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Tree = Any  # a tensor, or a tuple, list or dict of trees; other leaves pass through untouched


def tree_map(fn: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """Apply `fn` to every tensor of `tree`; containers keep their type, other leaves are kept as they are.

    >>> tree_map(lambda t: t + 1, (torch.zeros(1), {"a": torch.ones(1)}, "label"))
    (tensor([1.]), {'a': tensor([2.])}, 'label')
    """
    if isinstance(tree, Tensor):
        return fn(tree)
    if isinstance(tree, dict):
        return {key: tree_map(fn, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple takes its fields one by one
        return type(tree)(*(tree_map(fn, value) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(tree_map(fn, value) for value in tree)
    return tree


def to_device(tree: Tree, device: torch.device) -> Tree:
    """Move every tensor to `device`; tensors that are there already are not copied."""
    apart = device.type != "cpu"  # what comes back to the CPU is read at once, and must be there
    return tree_map(lambda tensor: tensor.to(device, non_blocking=apart), tree)


def detach(tree: Tree) -> Tree:
    """Cut every tensor from the autograd graph, without a copy."""
    return tree_map(lambda tensor: tensor.detach(), tree)


def leaves(tree: Tree) -> list[Any]:
    """All leaves, in order.

    >>> leaves((torch.zeros(2), [1, {"a": "x"}]))
    [tensor([0., 0.]), 1, 'x']
    """
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, (tuple, list)):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


def length(tree: Tree) -> int:
    """The number of samples in a batch: the first dimension of its first tensor.

    >>> length((torch.zeros(7, 3), torch.zeros(7)))
    7
    """
    if isinstance(tree, Tensor) and tree.ndim:  # nearly always, and once a step
        return len(tree)
    for leaf in leaves(tree):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise TypeError(f"a batch needs at least one tensor with a batch dimension, got {type(tree).__name__}")


def concatenate(trees: list[Tree]) -> Tree:
    """Join batches of one shape along their first dimension, tensor by tensor; other leaves come from the first.

    >>> concatenate([(torch.zeros(2), "a"), (torch.ones(1), "a")])
    (tensor([0., 0., 1.]), 'a')
    """
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.cat(trees)
    if isinstance(first, dict):
        return {key: concatenate([tree[key] for tree in trees]) for key in first}
    if isinstance(first, (tuple, list)):
        columns = [concatenate(list(column)) for column in zip(*trees, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)
    return first


def first_tensor(tree: Tree) -> Tensor:
    """A tensor itself, or the first of a tuple: of a model's outputs, the one that is compared with the targets.

    >>> first_tensor((torch.ones(2), torch.zeros(3)))
    tensor([1., 1.])
    """
    first: Tensor = tree[0] if isinstance(tree, (tuple, list)) else tree
    return first

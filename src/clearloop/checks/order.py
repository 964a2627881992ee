"""Check of the order in which samples are visited."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from clearloop.checks.finding import Verdict, note, passed, skipped, warning
from clearloop.checks.subject import Subject
from clearloop.data.items import as_list
from clearloop.data.loader import DataLoader
from clearloop.data.sampler import SequentialSampler
from clearloop.preflight import stored_targets
from clearloop.step import pair

BATCHES = 20  # of an order that can only be seen by its batches
SIGMAS = 5.0  # standard errors above chance, and ...
EXCESS = 0.1  # ... so much above it in all, make an order sorted


def order_shuffled(subject: Subject) -> Verdict:
    """A new order every epoch; and whether like follows like, where there is none."""
    loader = subject.learn.dls.train
    if len(loader) < 2:
        return skipped("an epoch is one batch")
    first, second = order_of(subject, 0), order_of(subject, 1)
    seen = visited_targets(subject, first)
    sorted_targets = seen is not None and like_follows_like(seen, subject.kind == "classes")
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, SequentialSampler) or first is None:
        if sorted_targets:
            return note(
                "samples come in the order of the data, and like follows like",
                "neighbouring batches pull the weights now one way, now the other; the last ones are remembered best",
                "shuffle=True, unless this order is meant",
            )
        return passed("samples come in the order of the data, which is a mixed one")
    if sorted_targets:
        return warning(
            "like follows like in the order that the sampler gives",
            "batches of one kind pull the weights now one way, now the other",
            "let the sampler mix all samples before they are cut into batches",
        )
    if second is not None and torch.equal(first, second):
        return note(
            "the sampler gives every epoch the same order",
            "the same samples meet in a batch every time, which makes a little less of the data",
            "make the order a function of the epoch",
        )
    return passed("a new order every epoch")


def order_of(subject: Subject, epoch: int) -> Tensor | None:
    """The indices that an epoch visits, int64 (samples,); None for a loader that is not ours."""
    loader = subject.learn.dls.train
    if not isinstance(loader, DataLoader):
        return None
    return torch.cat([torch.as_tensor(as_list(batch)) for batch in loader.index_batches(epoch)])


def visited_targets(subject: Subject, order: Tensor | None) -> Tensor | None:
    """Targets in the order of the first epoch: (samples,); of its first batches where they are not in memory."""
    loader = subject.learn.dls.train
    stored = stored_targets(loader)
    if stored is not None and order is not None:
        targets = stored.cpu()[order]
    else:
        batches: Iterator[tuple[object, Tensor]] = map(pair, islice(loader.batches(0), BATCHES))
        found = [targets for _, targets in batches if isinstance(targets, Tensor)]
        if not found:
            return None
        targets = torch.cat([targets.cpu() for targets in found])
    return targets.reshape(len(targets), -1)[:, 0].double() if targets[:1].numel() == 1 else None


def like_follows_like(targets: Tensor, classes: bool) -> bool:
    """Whether neighbours are more alike than chance makes them.

    >>> like_follows_like(torch.arange(100.0), classes=False), like_follows_like(torch.arange(100.0) % 2, classes=True)
    (True, False)
    """
    samples = len(targets)
    if samples < 2 or not bool((targets != targets[0]).any()):
        return False
    if classes or len(targets.unique()) == 2:
        _, counts = targets.unique(return_counts=True)
        expected = float((counts / samples).square().sum())
        alike = float((targets[1:] == targets[:-1]).double().mean())
        error = (expected * (1 - expected) / samples) ** 0.5
        return bool(alike - expected > max(EXCESS, SIGMAS * error))
    centred = targets - targets.mean()
    alike = float((centred[1:] * centred[:-1]).sum() / centred.square().sum())
    return bool(alike > max(EXCESS, SIGMAS / samples**0.5))

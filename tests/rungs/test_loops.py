"""The seven loops end in the same weights, to the bit, from one seed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clearloop import get_data
from clearloop.rungs import loops
from clearloop.rungs.data import DataLoader, Dataset, Sampler, collate
from clearloop.rungs.fit import fit
from clearloop.rungs.modules import HandModel, ListModel, NamedModel, sequential_model

EPOCHS, BATCH_SIZE, LR = 2, 64, 0.5


@pytest.mark.parametrize("seed", [None, 5])
def test_all_seven_loops_end_in_the_same_bits(seed: int | None) -> None:
    x, y, x_valid, y_valid = (part[:1000] for part in get_data())
    data = Dataset(x, y)

    def ends(make, train) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = make(784, 50, 10)
        train(model)
        return [parameter.detach() for parameter in model.parameters()]

    def own_loader() -> DataLoader:
        return DataLoader(data, Sampler(len(data), BATCH_SIZE, seed), collate)

    class Batches(Sampler):
        """For torch's DataLoader, which wants lists of indices."""

        def __iter__(self):
            return (indices.tolist() for indices in super().__iter__())

    torch_loader = torch.utils.data.DataLoader(data, batch_sampler=Batches(len(data), BATCH_SIZE, seed))
    args = (EPOCHS, BATCH_SIZE, LR, seed)
    results = [
        ends(ListModel, lambda m: loops.raw_layers(m, F.cross_entropy, x, y, *args)),
        ends(HandModel, lambda m: loops.parameters(m, F.cross_entropy, x, y, *args)),
        ends(NamedModel, lambda m: loops.own_optimizer(m, F.cross_entropy, x, y, *args)),
        ends(sequential_model, lambda m: loops.torch_optimizer(m, F.cross_entropy, x, y, *args)),
        ends(sequential_model, lambda m: loops.with_dataset(m, F.cross_entropy, data, *args)),
        ends(sequential_model, lambda m: loops.with_loader(m, F.cross_entropy, own_loader(), EPOCHS, LR)),
        ends(sequential_model, lambda m: loops.with_loader(m, F.cross_entropy, torch_loader, EPOCHS, LR)),
        ends(
            sequential_model,
            lambda m: fit(
                EPOCHS, m, F.cross_entropy, torch.optim.SGD(m.parameters(), LR), own_loader(), [(x_valid, y_valid)]
            ),
        ),
    ]
    for result in results[1:]:
        for first, other in zip(results[0], result, strict=True):
            assert torch.equal(first, other)


def test_the_sampler_gives_a_new_order_every_epoch_and_each_sample_once() -> None:
    sampler = Sampler(10, 3, seed=1)
    first, second = torch.cat(list(sampler)), torch.cat(list(sampler))
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, torch.arange(10))
    assert torch.equal(second.sort().values, torch.arange(10))

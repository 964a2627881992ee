"""Orders of samples: permutations that depend on (seed, epoch) alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearloop import ConfigError
from clearloop.data.sampler import SequentialSampler, ShuffleSampler, WeightedSampler, shard, shuffled_order

SAMPLERS = {
    "sequential": lambda: SequentialSampler(37),
    "shuffle": lambda: ShuffleSampler(37, seed=5),
    "weighted": lambda: WeightedSampler(torch.arange(37.0), seed=5),
    "weighted, fewer draws": lambda: WeightedSampler(torch.arange(37.0), seed=5, draws=20),
}
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


@every_sampler
def test_the_order_of_an_epoch_is_the_same_whenever_and_however_often_it_is_asked_for(make):
    sampler = make()
    orders = [sampler.order(epoch) for epoch in range(4)]
    torch.manual_seed(1234)
    other = make()
    for epoch in (3, 1, 0, 2, 1):
        assert torch.equal(other.order(epoch), orders[epoch])


@every_sampler
def test_an_order_has_the_announced_length_and_indices_in_range(make):
    sampler = make()
    order = sampler.order(2)
    assert order.dtype == torch.int64
    assert order.shape == (len(sampler),)
    assert 0 <= int(order.min()) <= int(order.max()) < 37


@every_sampler
def test_asking_for_an_order_draws_nothing_from_the_callers_generator(make):
    before = torch.get_rng_state()
    make().order(0)
    assert torch.equal(torch.get_rng_state(), before)


@given(samples=st.integers(1, 300), seed=st.integers(0, 2**70), epoch=st.integers(0, 10**6))
def test_a_shuffle_is_a_permutation_that_its_arguments_decide(samples, seed, epoch):
    order = shuffled_order(samples, seed, epoch)
    assert torch.equal(order.sort().values, torch.arange(samples))
    assert torch.equal(order, shuffled_order(samples, seed, epoch))


def test_orders_differ_between_epochs_and_seeds_and_neighbours_do_not_meet():
    orders = {tuple(shuffled_order(50, seed, epoch).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100  # (seed 0, epoch 1) is not (seed 1, epoch 0), say


def test_every_sample_stands_at_every_place_equally_often():
    counts = torch.zeros(6, 6)
    epochs = 3000
    for epoch in range(epochs):
        counts[torch.arange(6), shuffled_order(6, 0, epoch)] += 1
    expected = epochs / 6
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 25 + 5 * math.sqrt(2 * 25)  # 25 degrees of freedom, five standard deviations


def test_the_shuffle_of_a_seed_stays_what_it_was_in_earlier_versions():
    assert shuffled_order(8, seed=0, epoch=0).tolist() == [3, 2, 5, 1, 7, 4, 6, 0]
    assert shuffled_order(8, seed=0, epoch=1).tolist() == [5, 6, 4, 3, 1, 7, 2, 0]


def test_weighted_draws_follow_the_weights():
    weights = torch.tensor([0.0, 1.0, 3.0])
    order = WeightedSampler(weights, seed=0, draws=40_000).order(0)
    shares = torch.bincount(order, minlength=3) / 40_000
    assert shares[0] == 0
    torch.testing.assert_close(shares, weights / 4, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [math.inf, 1.0], [[1.0], [1.0]]], ids=str
)
def test_weights_that_are_no_weights_are_refused(weights):
    with pytest.raises(ConfigError, match="weights must be one finite number >= 0 a sample, and not all 0"):
        WeightedSampler(torch.tensor(weights), seed=0)


@pytest.mark.parametrize("draws", [0, -1])
def test_no_draws_are_refused(draws):
    with pytest.raises(ConfigError, match="draws must be at least 1"):
        WeightedSampler(torch.ones(3), seed=0, draws=draws)


@given(size=st.integers(0, 50), world_size=st.integers(1, 9))
def test_the_shards_of_a_batch_joined_are_the_batch(size, world_size):
    batch = torch.arange(size)
    shards = [shard(batch, rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat(shards), batch)
    lengths = [len(part) for part in shards]
    assert max(lengths) - min(lengths) <= 1

"""Augmentation: random numbers that belong to (seed, epoch, sample), checked against the published algorithm."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clearloop import ConfigError
from clearloop.data.augment import GOLDEN, mix, random_flip, random_shift, sample_keys, uniform

WORD = 2**64
int64 = st.integers(-(2**63), 2**63 - 1)


def signed(number: int) -> int:
    return (number + 2**63) % WORD - 2**63


def splitmix_finaliser(number: int) -> int:
    """The output function of SplitMix64 in plain Python, on an unsigned 64-bit number."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % WORD
    return number ^ (number >> 31)


def key_of(seed: int, epoch: int, index: int) -> int:
    gamma = 0x9E3779B97F4A7C15
    run = splitmix_finaliser((seed + gamma) % WORD)
    of_epoch = splitmix_finaliser((run + (epoch + 1) * gamma) % WORD)
    return splitmix_finaliser((of_epoch + (index + 1) * gamma) % WORD)


def test_the_increment_is_that_of_splitmix64():
    assert GOLDEN % WORD == 0x9E3779B97F4A7C15


def test_the_first_outputs_of_splitmix64_from_seed_0_are_the_published_ones():
    states = torch.arange(1, 4) * GOLDEN
    assert [f"{number % WORD:016x}" for number in mix(states).tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


@given(numbers=st.lists(int64, min_size=1))
def test_mixing_equals_a_reference_in_plain_python(numbers):
    mixed = mix(torch.tensor(numbers, dtype=torch.int64)).tolist()
    assert mixed == [signed(splitmix_finaliser(number % WORD)) for number in numbers]


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10**6), indices=st.lists(st.integers(0, 10**9), min_size=1))
def test_keys_equal_a_reference_in_plain_python(seed, epoch, indices):
    keys = sample_keys(seed, epoch, torch.tensor(indices)).tolist()
    assert keys == [signed(key_of(seed, epoch, index)) for index in indices]


@given(keys=st.lists(int64, min_size=1), draw=st.integers(0, 1000))
def test_uniform_numbers_equal_a_reference_in_plain_python(keys, draw):
    numbers = uniform(torch.tensor(keys, dtype=torch.int64), draw)
    assert numbers.dtype == torch.float32
    mixed = [splitmix_finaliser((key + (draw + 1) * 0x9E3779B97F4A7C15) % WORD) for key in keys]
    assert numbers.tolist() == [(number >> 40) / 2**24 for number in mixed]
    assert all(0 <= number < 1 for number in numbers.tolist())


def test_mixing_never_maps_two_keys_to_one():
    assert len(mix(torch.arange(-50_000, 50_000)).unique()) == 100_000


@pytest.mark.parametrize("draw", [0, 1, 7])
def test_uniform_numbers_are_uniform(draw):
    samples = 100_000
    counts = torch.histc(uniform(sample_keys(3, 5, torch.arange(samples)), draw), bins=64, min=0, max=1)
    chi_square = float(((counts - samples / 64) ** 2 / (samples / 64)).sum())
    assert abs(chi_square - 63) < 5 * math.sqrt(2 * 63)


def test_draws_samples_epochs_and_seeds_are_independent_of_each_other():
    indices = torch.arange(20_000)
    columns = [
        uniform(sample_keys(0, 0, indices), 0),
        uniform(sample_keys(0, 0, indices), 1),
        uniform(sample_keys(0, 1, indices), 0),
        uniform(sample_keys(1, 0, indices), 0),
        uniform(sample_keys(0, 0, indices + 1), 0),
    ]
    correlations = torch.corrcoef(torch.stack(columns)) - torch.eye(5)
    assert float(correlations.abs().max()) < 5 / math.sqrt(20_000)
    assert len(torch.cat(columns[:4]).unique()) > 0.99 * 80_000


def test_the_random_numbers_of_a_sample_do_not_depend_on_its_batch():
    whole = uniform(sample_keys(1, 2, torch.arange(100)), 0)
    order = torch.randperm(100)
    assert torch.equal(uniform(sample_keys(1, 2, order), 0), whole[order])
    assert torch.equal(uniform(sample_keys(1, 2, torch.tensor([42])), 0), whole[42:43])


def images(samples: int = 200) -> torch.Tensor:
    return torch.arange(samples * 2 * 3 * 4, dtype=torch.float32).view(samples, 2, 3, 4)


def test_a_flip_mirrors_about_half_of_the_images_whole():
    given_images = images()
    flipped = random_flip(given_images, sample_keys(0, 0, torch.arange(200)))
    mirrored = given_images.flip(-1)
    kinds = [
        "same" if torch.equal(image, before) else "mirrored" if torch.equal(image, after) else "neither"
        for image, before, after in zip(flipped, given_images, mirrored, strict=True)
    ]
    assert set(kinds) == {"same", "mirrored"}
    assert 70 < kinds.count("mirrored") < 130


@pytest.mark.parametrize("pixels", [1, 2])
def test_a_shift_is_a_crop_of_the_padded_image_and_all_shifts_occur(pixels):
    given_images = images() + 1  # no pixel is 0, so that every crop differs
    keys = sample_keys(0, 0, torch.arange(200))
    moved = random_shift(pixels)(given_images, keys)
    padded = F.pad(given_images, (pixels,) * 4)
    crops = [
        padded[:, :, down : down + 3, right : right + 4]
        for down in range(2 * pixels + 1)
        for right in range(2 * pixels + 1)
    ]
    found = [[torch.equal(crop[i], moved[i]) for crop in crops].index(True) for i in range(200)]
    assert set(found) == set(range((2 * pixels + 1) ** 2))
    assert moved.shape == given_images.shape


@pytest.mark.parametrize("augment", [random_flip, random_shift(2)], ids=["flip", "shift"])
def test_augmentation_changes_nothing_in_place_and_draws_nothing(augment):
    given_images, before = images(), torch.get_rng_state()
    keys = sample_keys(0, 0, torch.arange(200))
    once = augment(given_images, keys)
    assert torch.equal(given_images, images())
    assert torch.equal(augment(given_images, keys), once)
    assert not torch.equal(augment(given_images, sample_keys(0, 1, torch.arange(200))), once)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shift_by_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least 1 pixel, got 0"):
        random_shift(0)

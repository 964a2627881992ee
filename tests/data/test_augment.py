"""Augmentation: random numbers that belong to (seed, epoch, sample), checked against the published algorithm."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clearloop import ConfigError, DataLoader, TensorDataset
from clearloop.buildable import build, is_augmentation
from clearloop.component import describe
from clearloop.data.augment import (
    GOLDEN,
    compose,
    mix,
    random_crop,
    random_erase,
    random_flip,
    random_rotate,
    random_shift,
    sample_keys,
    uniform,
)

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


@pytest.mark.parametrize("shape", [(6, 1, 5, 4), (6, 3, 4, 5), (1, 2, 1, 7), (0, 1, 4, 4)])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_a_shifted_batch_lies_channels_last_in_memory_which_convolutions_go_by(shape, form):
    given_images = torch.rand(shape).contiguous(memory_format=form)
    keys = sample_keys(0, 0, torch.arange(shape[0]))
    moved = random_shift(2)(given_images, keys)
    batch_size, channels, height, width = shape
    assert moved.stride() == torch.empty(batch_size, height, width, channels).movedim(-1, 1).stride()
    down, right = ((uniform(keys, draw) * 5).long().tolist() for draw in (1, 2))
    padded = F.pad(given_images, (2,) * 4)
    for i in range(batch_size):
        assert torch.equal(moved[i], padded[i, :, down[i] : down[i] + height, right[i] : right[i] + width])


AUGMENTS = {
    "flip": random_flip,
    "shift": random_shift(2),
    "crop": random_crop(0.2),
    "rotate": random_rotate(30),
    "erase": random_erase(0.3),
    "compose": compose(random_flip, random_shift(1), random_rotate(90), random_erase(0.2)),
}
every_augment = pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)


@every_augment
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


# -- to the bit, in any batch ------------------------------------------------------------------------------------------


@every_augment
@pytest.mark.parametrize("size", [(28, 28), (17, 23)])
def test_a_sample_is_augmented_to_the_same_bits_in_any_batch(augment, size):
    given_images = torch.rand(131, 3, *size)
    keys = sample_keys(4, 2, torch.arange(131))
    whole = augment(given_images, keys)
    assert whole.shape == given_images.shape
    assert whole.dtype == torch.float32
    order = torch.randperm(131)
    assert torch.equal(augment(given_images[order], keys[order]), whole[order])
    for batch_size in (1, 2, 7, 64):
        parts = zip(given_images.split(batch_size), keys.split(batch_size), strict=True)
        assert torch.equal(torch.cat([augment(*part) for part in parts]), whole)


@every_augment
def test_a_loader_augments_a_sample_alike_wherever_the_order_puts_it(augment):
    data = TensorDataset(torch.rand(50, 1, 9, 9), torch.arange(50))
    seen = []
    for batch_size in (7, 50):
        batches = list(DataLoader(data, batch_size, shuffle=True, seed=3, augment=augment).batches(1))
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        seen.append(images[labels.argsort()])
    assert torch.equal(*seen)


# -- against references ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(9, 9), (8, 8), (7, 12)])
def test_a_rotation_equals_torchs_affine_grid_about_the_middle_in_pixels(height, width):
    images, keys = torch.rand(40, 2, height, width), sample_keys(0, 0, torch.arange(40))
    angles = (uniform(keys, 3) * 2 - 1) * math.radians(50)
    cos, sin, none = angles.cos(), angles.sin(), torch.zeros(40)
    across, along = [cos, -sin * height / width, none], [sin * width / height, cos, none]
    matrices = torch.stack([torch.stack(across, -1), torch.stack(along, -1)], 1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    expected = F.grid_sample(images, grid, align_corners=False)
    assert torch.allclose(random_rotate(50)(images, keys), expected, atol=1e-5)


def test_a_rotation_by_a_quarter_is_that_of_rot90(monkeypatch):
    images = torch.rand(3, 2, 6, 6)
    for number, turns in ((1.0, 1), (0.0, -1)):
        monkeypatch.setattr("clearloop.data.augment.uniform", lambda keys, draw, n=number: torch.full((len(keys),), n))
        assert torch.allclose(random_rotate(90)(images, torch.arange(3)), images.rot90(turns, (-2, -1)), atol=1e-5)


# -- properties --------------------------------------------------------------------------------------------------------


def test_rotations_keep_the_middle_and_turn_either_way_as_often():
    point = torch.zeros(1, 1, 11, 11)
    point[0, 0, 5, 5], point[0, 0, 5, 9] = 1, 1  # the middle, and a point on its right
    turned = random_rotate(40)(point.expand(400, 1, 11, 11).contiguous(), sample_keys(0, 0, torch.arange(400)))
    assert torch.allclose(turned[:, 0, 5, 5], torch.ones(400), atol=1e-4)
    up = turned[:, 0, :5, 6:].sum(dim=(1, 2)) > turned[:, 0, 6:, 6:].sum(dim=(1, 2))
    assert 150 < int(up.sum()) < 250


@given(share=st.floats(0.01, 0.99), height=st.integers(1, 40), width=st.integers(1, 40))
def test_an_erased_part_is_one_rectangle_of_about_its_share(share, height, width):
    erased = random_erase(share)(torch.ones(8, 2, height, width), sample_keys(0, 0, torch.arange(8))) == 0
    for image in erased:
        assert torch.equal(image[0], image[1])  # every channel alike
        rows, columns = (image[0].any(dim=axis).nonzero().flatten() for axis in (1, 0))
        assert len(rows) * len(columns) == int(image[0].sum()) > 0
        assert int(rows[-1] - rows[0]) + 1 == len(rows)
        assert int(columns[-1] - columns[0]) + 1 == len(columns)
        assert abs(len(rows) * len(columns) - share * height * width) <= (height + width) / 2 + 1


def test_erased_parts_lie_everywhere_and_have_all_proportions():
    erased = random_erase(0.2)(torch.ones(2000, 1, 20, 20), sample_keys(0, 0, torch.arange(2000)))[:, 0] == 0
    often = erased.float().mean(dim=0)  # (20, 20)
    assert float(often.min()) > 0.002
    assert torch.allclose(often, often.flip(0), atol=0.08)
    assert torch.allclose(often, often.flip(1), atol=0.08)
    heights, widths = (erased.any(dim=axis).sum(dim=1) for axis in (2, 1))
    assert (int(heights.min()), int(heights.max())) == (int(widths.min()), int(widths.max())) == (6, 13)


def test_what_is_composed_is_done_in_order_each_with_its_own_numbers():
    images, keys = torch.rand(100, 1, 12, 12), sample_keys(0, 0, torch.arange(100))
    assert torch.equal(compose(random_shift(2))(images, keys), random_shift(2)(images, keys))
    black = (compose(random_erase(0.1), random_erase(0.1))(images, keys) == 0).flatten(1).sum(dim=1)
    assert int((black > 20).sum()) > 50  # two places, not one twice
    recorded = []

    def record(name):
        return lambda batch, keys: recorded.append((name, keys)) or batch

    compose(record("a"), record("b"))(images, keys)
    assert [name for name, _ in recorded] == ["a", "b"]
    assert not bool((recorded[0][1] == recorded[1][1]).any())


# -- as data, and refused ----------------------------------------------------------------------------------------------


@every_augment
def test_an_augmentation_is_written_down_as_data_that_makes_it_again(augment, tmp_path):
    described = json.loads(json.dumps(describe(augment)))
    assert is_augmentation(described)
    data = {"path": "clearloop.data.loaders:DataLoaders.mnist", "kwargs": {"seed": 0, "augment": described}}
    again = build(data, "data").train.augment
    images, keys = torch.rand(20, 1, 9, 9), sample_keys(0, 0, torch.arange(20))
    assert torch.equal(again(images, keys), augment(images, keys))


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        *[(random_rotate, angle, "above 0 and of at most 180") for angle in (0, -3, 181, math.nan)],
        *[(random_erase, share, r"share of the image in \(0, 1\)") for share in (0, 1, -0.5, math.nan)],
        *[(random_crop, share, r"share of the image in \(0, 1\)") for share in (0, 1, -0.5, math.nan)],
        (compose, 3, "one or more augmentations"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make, wrong, message):
    with pytest.raises(ConfigError, match=message):
        make(wrong)


def test_nothing_to_compose_is_refused():
    with pytest.raises(ConfigError, match="one or more augmentations"):
        compose()

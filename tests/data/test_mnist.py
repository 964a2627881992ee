"""The embedded digits are the canonical ones, byte for byte."""

from __future__ import annotations

import hashlib
import struct

import pytest
import torch

from clearloop import get_data

IMAGES, LABELS = 0x00000803, 0x00000801  # magic numbers of the canonical files
SHA256 = {
    "train_images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train_labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "test_images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "test_labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@pytest.mark.parametrize("name", SHA256)
def test_the_tensors_written_back_as_idx_have_the_hash_of_the_canonical_file(digits, name):
    tensor = getattr(digits, name)
    magic = IMAGES if tensor.ndim == 3 else LABELS
    file = struct.pack(f">I{tensor.ndim}I", magic, *tensor.shape) + tensor.to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(file).hexdigest() == SHA256[name]


def test_shapes_and_dtypes_are_those_of_70000_digits(digits):
    assert digits.train_images.shape == (60_000, 28, 28)
    assert digits.test_images.shape == (10_000, 28, 28)
    assert digits.train_images.dtype == digits.test_images.dtype == torch.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == torch.int64


def test_threes_and_sevens_are_as_many_as_they_should_be(digits):
    counts = [
        [int((labels == digit).sum()) for digit in (3, 7)] for labels in (digits.train_labels, digits.test_labels)
    ]
    assert counts == [[6131, 6265], [1010, 1028]]


def test_the_first_labels_are_5_0_4_1_9(digits):
    assert digits.train_labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_get_data_scales_and_splits_the_training_digits_in_their_order(digits):
    x_train, y_train, x_valid, y_valid = get_data()
    assert x_train.shape == (50_000, 784)
    assert x_valid.shape == (10_000, 784)
    assert x_train.dtype == torch.float32
    assert y_train.dtype == torch.int64
    assert float(x_train.min()) == 0
    assert float(x_train.max()) == 1
    assert torch.equal(torch.cat([y_train, y_valid]), digits.train_labels)
    assert torch.equal(x_train[7], digits.train_images[7].flatten() / 255)
    assert torch.equal(x_valid[0], digits.train_images[50_000].flatten() / 255)
    assert torch.equal((x_valid * 255).round().to(torch.uint8), digits.train_images[50_000:].flatten(1))

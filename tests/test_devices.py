"""Where a model runs and at which precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clearloop import ConfigError
from clearloop.devices import make_scaler, pick_device, under_autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["cpu", CPU])
def test_the_cpu_is_there(device):
    assert pick_device(device) == CPU


def test_auto_takes_a_gpu_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"


@pytest.mark.parametrize("device", ["meta", "cuda:77", "gpu", "", "cpu:x", 3.5])
def test_a_device_that_is_not_there_is_refused_with_the_reason_in_one_line(device):
    with pytest.raises(ConfigError, match=r'cannot be used here \(.+\); use "auto" or "cpu"$') as caught:
        pick_device(device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_only_fp16_needs_a_scaler(precision):
    assert make_scaler(precision, CPU) is None


def test_fp16_is_refused_on_the_cpu():
    with pytest.raises(ConfigError, match=r'precision="fp16" needs a CUDA GPU, the device is cpu; use "bf16" or None'):
        make_scaler("fp16", CPU)


@pytest.mark.parametrize("precision", ["fp32", "", "BF16", 16])
def test_other_precisions_are_refused(precision):
    with pytest.raises(ConfigError, match='precision must be None, "bf16" or "fp16", got'):
        make_scaler(precision, CPU)


def test_without_a_precision_the_forward_pass_is_the_model_itself():
    model = nn.Linear(2, 2)
    assert under_autocast(model, None, CPU) is model


def test_under_bf16_matrices_are_multiplied_in_16_bits_and_given_back_in_32():
    seen = []

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, inputs):
            outputs = self.linear(inputs)
            seen.append(outputs.dtype)
            return {"logits": outputs, "labels": outputs.argmax(1), "name": ["x"]}

    model, inputs = Nested(), torch.randn(4, 64)
    outputs = under_autocast(model, "bf16", CPU)(inputs)
    assert seen == [torch.bfloat16]
    assert outputs["logits"].dtype == torch.float32
    assert outputs["labels"].dtype == torch.int64
    assert outputs["name"] == ["x"]
    exact = model.linear(inputs)
    assert not torch.equal(outputs["logits"], exact)
    torch.testing.assert_close(outputs["logits"], exact, rtol=0.05, atol=0.05)
    outputs["logits"].sum().backward()
    assert model.linear.weight.grad.dtype == torch.float32

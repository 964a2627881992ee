"""What a GPU is doing: load, memory, temperature and power, by NVML (the extra `gpu`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

GB = 1e9


@dataclass(frozen=True)
class Reading:
    """A moment of a GPU. What its driver does not tell is None."""

    load_percent: float | None
    memory_gb: float | None
    memory_total_gb: float | None
    temperature_c: float | None
    power_w: float | None

    def __str__(self) -> str:
        """In a few words.

        >>> print(Reading(87.0, 5.1e0, 80.0, 61.0, None))
        GPU 87 % 5.1/80 GB 61 °C
        """
        parts = ["GPU"]
        if self.load_percent is not None:
            parts.append(f"{self.load_percent:.0f} %")
        if self.memory_gb is not None and self.memory_total_gb is not None:
            parts.append(f"{self.memory_gb:.1f}/{self.memory_total_gb:.0f} GB")
        if self.temperature_c is not None:
            parts.append(f"{self.temperature_c:.0f} °C")
        if self.power_w is not None:
            parts.append(f"{self.power_w:.0f} W")
        return " ".join(parts)

    def numbers(self) -> dict[str, float]:
        """What is known, by names with units.

        >>> Reading(87.0, None, None, 61.0, None).numbers()
        {'gpu_load_percent': 87.0, 'gpu_temperature_c': 61.0}
        """
        return {f"gpu_{name}": value for name, value in vars(self).items() if value is not None}


def read(device: torch.device) -> Reading | None:
    """The GPU that `device` is, now; None for other devices, and where NVML or its Python package is missing."""
    if device.type != "cuda":
        return None
    found = _handle(torch.cuda.current_device() if device.index is None else device.index)
    if found is None:
        return None
    nvml, handle = found

    def ask(question: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, question)(handle, *arguments)
        except nvml.NVMLError:  # not every card answers every question
            return None

    load, memory = ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMemoryInfo")
    celsius = ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    milliwatts = ask("nvmlDeviceGetPowerUsage")
    return Reading(
        None if load is None else float(load.gpu),
        None if memory is None else memory.used / GB,
        None if memory is None else memory.total / GB,
        None if celsius is None else float(celsius),
        None if milliwatts is None else milliwatts / 1000,
    )


@cache
def _handle(index: int) -> tuple[Any, Any] | None:
    """NVML and its handle of the GPU that torch calls `index`: they may count differently, so the UUID decides."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
    except pynvml.NVMLError:
        return None

"""What a run depends on besides its recipe: versions, the numerics of this machine, the source's git commit."""

from __future__ import annotations

import platform
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

CHANGES = "+changes"  # after a commit, where the working folder is not as it was committed


def clearloop_version() -> str:
    """The installed version of this package."""
    try:
        return version("clearloop")
    except PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    return {
        "clearloop": clearloop_version(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def numerics(device: torch.device, threads: int) -> dict[str, Any]:
    """What can change the bits of a result on the same recipe: compared when a run is resumed."""
    cuda = device.type == "cuda"
    return {
        "torch": str(torch.__version__),
        "threads": threads,
        "processes": processes(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": [_tf32(torch.backends.cuda.matmul), _tf32(torch.backends.cudnn)] if cuda else [],
        "cudnn_benchmark": torch.backends.cudnn.benchmark if cuda else False,
    }


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _tf32(backend: Any) -> str:
    """The precision of float32 products: torch's newer name for it, or its older one."""
    return str(backend.fp32_precision) if hasattr(backend, "fp32_precision") else str(backend.allow_tf32)


def warn_of_changes(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Say aloud that a resumed run will not be exact, where its numerics have changed."""
    changed = [f"{name}: {then[name]} -> {now.get(name)}" for name in then if then[name] != now.get(name)]
    if changed and not (processes() > 1 and dist.get_rank()):  # once, of several processes
        warnings.warn(f"the run goes on, but not to the bit, for this has changed: {'; '.join(changed)}", stacklevel=3)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads in a block: their number decides bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def git_commit() -> str | None:
    """The commit of the working folder, with `+changes` if it has any; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + (CHANGES if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def git_diff(limit: int = 2**18) -> str | None:
    """What has changed in the working folder since its commit, up to `limit` characters; None outside a repository."""
    try:
        diff = _git("diff", "HEAD", "--no-color", "--no-ext-diff")
    except (OSError, subprocess.SubprocessError):
        return None
    return diff if len(diff) <= limit else f"{diff[:limit]}\n… and {len(diff) - limit:,} more characters"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, timeout=5, check=True)
    return done.stdout.decode("utf-8", "replace").strip()

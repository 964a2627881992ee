"""An epoch of 784-50-10 on MNIST at batch 64 and 512: clearloop beside loops written by hand, in one process.

Each round times every contestant once, in turn, one epoch with validation; rounds repeat, medians and ratios are
printed. All contestants start from the same weights and see the same batches; that they end in the same weights, to
the bit, is checked before a time is printed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearloop import DataLoader, DataLoaders, Learner, TensorDataset, accuracy, get_data, mnist, models
from clearloop.data.loaders import scale_images
from clearloop.data.sampler import shuffled_order

ROUNDS = 9
LR = 0.1


def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Validation as one writes it by hand, in slices of 512."""
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for i in range(0, len(y), 512):
            preds = model(x[i : i + 512])
            loss += F.cross_entropy(preds, y[i : i + 512]).item() * len(preds)
            correct += int((preds.argmax(1) == y[i : i + 512]).sum())
    return loss / len(y), correct / len(y)


def by_hand(model: nn.Module, data: tuple[Tensor, ...], batch_size: int, seed: int, as_bytes: bool) -> None:
    """Gathered by hand: floats made once, or bytes made floats batch by batch."""
    x, y, x_valid, y_valid = data
    opt = torch.optim.SGD(model.parameters(), lr=LR)
    model.train()
    for indices in shuffled_order(len(y), seed, 0).split(batch_size):
        inputs, targets = x.index_select(0, indices), y.index_select(0, indices)
        if as_bytes:
            inputs = inputs.unsqueeze(1).float().div_(255)
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        opt.step()
        opt.zero_grad()
    if as_bytes:
        x_valid = x_valid.unsqueeze(1).float().div_(255)
    evaluate(model, x_valid, y_valid)


def with_torch_loader(model: nn.Module, data: tuple[Tensor, ...], batch_size: int, seed: int) -> None:
    """torch's DataLoader over a TensorDataset, as tutorials have it, in the same order."""
    x, y, x_valid, y_valid = data
    opt = torch.optim.SGD(model.parameters(), lr=LR)
    dataset = torch.utils.data.TensorDataset(x, y)
    order = shuffled_order(len(y), seed, 0).tolist()
    model.train()
    for inputs, targets in torch.utils.data.DataLoader(dataset, batch_size, sampler=order):
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        opt.step()
        opt.zero_grad()
    evaluate(model, x_valid, y_valid)


def learner(model: nn.Module, dls: DataLoaders, seed: int) -> float:
    """clearloop's default path; returns the seconds of its look at the data before the first fit, once a Learner."""
    learn = Learner(dls, model, F.cross_entropy, lr=LR, metrics=accuracy, seed=seed)
    started = time.perf_counter()
    learn.prepared()
    looked = time.perf_counter() - started
    learn.fit(1, quiet=True)
    return looked


def contestants(batch_size: int, seed: int) -> dict[str, Callable[[nn.Module], float | None]]:
    """The loops to compare, by name; each trains the model that it is given for one epoch.

    What a loop returns is no part of an epoch: seconds that are shown apart.
    """
    floats = get_data()
    digits = mnist()
    cut = 50_000
    images, labels = digits.train_images, digits.train_labels
    as_bytes = (images[:cut], labels[:cut], images[cut:], labels[cut:])
    float_dls = DataLoaders(
        DataLoader(TensorDataset(floats[0], floats[1]), batch_size, shuffle=True, seed=seed),
        DataLoader(TensorDataset(floats[2], floats[3]), 512),
    )
    byte_dls = DataLoaders(
        DataLoader(TensorDataset(*as_bytes[:2], transform=scale_images), batch_size, shuffle=True, seed=seed),
        DataLoader(TensorDataset(*as_bytes[2:], transform=scale_images), 512),
    )
    return {
        "by hand, floats": lambda model: by_hand(model, floats, batch_size, seed, as_bytes=False),
        "clearloop, floats": lambda model: learner(model, float_dls, seed),
        "by hand, bytes": lambda model: by_hand(model, as_bytes, batch_size, seed, as_bytes=True),
        "clearloop, bytes": lambda model: learner(model, byte_dls, seed),
        "torch DataLoader, floats": lambda model: with_torch_loader(model, floats, batch_size, seed),
    }


def main() -> None:
    """Print a table for each batch size."""
    torch.set_num_threads(1)
    for batch_size in (64, 512):
        loops = contestants(batch_size, seed=0)
        times: dict[str, list[float]] = {name: [] for name in loops}
        looks: dict[str, list[float]] = {name: [] for name in loops}
        ends = set()
        for round_number in range(ROUNDS + 1):
            for name, loop in loops.items():
                torch.manual_seed(0)
                model = models.mlp(784, 50, 10)
                started = time.perf_counter()
                looked = loop(model) or 0.0
                elapsed = time.perf_counter() - started - looked
                if round_number:  # the first warms up
                    times[name].append(elapsed)
                    looks[name].append(looked)
                ends.add(tuple(parameter.sum().item() for parameter in model.parameters()))
        assert len(ends) == 1, "the loops must end in the same weights"
        medians = {name: statistics.median(values) for name, values in times.items()}
        print(f"\nbatch {batch_size}: seconds an epoch, median of {ROUNDS}; all end in the same weights")
        for name, median in medians.items():
            base = medians["by hand, bytes" if "bytes" in name else "by hand, floats"]
            speed = 60_000 / median
            print(f"  {name:26} {median:7.3f}   {median / base:5.2f} of its loop by hand   {speed:9,.0f} samples/s")
        for name in ("clearloop, floats", "clearloop, bytes"):
            look = statistics.median(looks[name])
            print(f"  {name}: the look at the data before the first fit takes {look:.3f} s, once")
        ratio = medians["clearloop, floats"] / medians["torch DataLoader, floats"]
        print(f"  clearloop / torch DataLoader: {ratio:.2f} (floats)")


if __name__ == "__main__":
    main()

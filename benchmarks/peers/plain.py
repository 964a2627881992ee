"""Loops in plain PyTorch, and the floor under all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.peers.wire import Clock, Result, serve
from benchmarks.peers.workloads import Workload, torch_loaders

LARGE = 2000  # weights of a linear layer whose products are counted; smaller ones are calls more than work


def as_it_is(inputs: Tensor) -> Tensor:
    """Inputs that need no scaling."""
    return inputs


def scaled(images: Tensor) -> Tensor:
    """(B, H, W) bytes -> (B, 1, H, W) float32 in [0, 1]."""
    return images.unsqueeze(1).float().div_(255)


def by_hand(work: Workload, clock: Clock) -> Result:
    """Batches gathered by `index_select`."""
    return gathered_by_hand(work, clock, work.floats(), as_it_is)


def by_hand_bytes(work: Workload, clock: Clock) -> Result:
    """The same with images held as bytes, made floats batch by batch."""
    return gathered_by_hand(work, clock, work.bytes(), scaled)


def gathered_by_hand(
    work: Workload, clock: Clock, data: tuple[Tensor, ...], ready: Callable[[Tensor], Tensor]
) -> Result:
    """The loop that one writes for data in memory."""
    x, y, x_valid, y_valid = data
    model, loss_func, orders, steps = work.model(), work.loss_func(), work.orders(), 0
    opt = work.opt(model)
    clock.start()
    for order in orders:
        model.train()
        for indices in order.split(work.batch_size):
            loss = loss_func(model(ready(x.index_select(0, indices))), y.index_select(0, indices))
            loss.backward()
            opt.step()
            opt.zero_grad()
            steps += 1
        size = work.valid_batch_size
        starts = range(0, len(y_valid), size)
        batches = ((ready(x_valid[i : i + size]), y_valid[i : i + size]) for i in starts)
        valid_loss, accuracy = evaluate(work, model, batches)
        clock.lap()
    return Result(steps, valid_loss, accuracy, model.state_dict())


def with_torch_loader(work: Workload, clock: Clock) -> Result:
    """torch's DataLoader over a TensorDataset, as tutorials have it."""
    model, loss_func, steps = work.model(), work.loss_func(), 0
    opt = work.opt(model)
    train, valid = torch_loaders(work)
    clock.start()
    for _ in range(work.epochs):
        model.train()
        for inputs, targets in train:
            loss = loss_func(model(inputs), targets)
            loss.backward()
            opt.step()
            opt.zero_grad()
            steps += 1
        valid_loss, accuracy = evaluate(work, model, valid)
        clock.lap()
    return Result(steps, valid_loss, accuracy, model.state_dict())


def evaluate(work: Workload, model: nn.Module, batches: object) -> tuple[float, float | None]:
    """Loss and accuracy (of classes), as one writes it by hand."""
    model.eval()
    loss_func, loss, correct, samples = work.loss_func(), 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in batches:  # type: ignore[attr-defined]
            preds = model(inputs)
            loss += loss_func(preds, targets).item() * len(targets)
            if work.classifies:
                correct += int((preds.argmax(1) == targets).sum())
            samples += len(targets)
    return loss / samples, correct / samples if work.classifies else None


def floor(work: Workload, clock: Clock) -> None:
    """The large matrix products of an epoch of training, and nothing else.

    For each large linear layer: forward, and the weights' gradient; the inputs' gradient too, but of the first.
    """
    x, *_ = work.floats()
    x = x.flatten(1)
    layers = [layer.weight.detach() for layer in work.model().modules() if isinstance(layer, nn.Linear)]
    layers = [weight for weight in layers if weight.numel() >= LARGE]
    shapes = {size: operands(layers, size) for size in (work.batch_size, len(x) % work.batch_size) if size}
    with torch.no_grad():
        clock.start()
        for _ in range(work.epochs):
            for inputs in x.split(work.batch_size):
                for position, (given, weight, grad) in enumerate(shapes[len(inputs)]):
                    given = inputs if position == 0 else given
                    _ = given @ weight.T  # (B, in) @ (in, out)
                    _ = grad.T @ given  # (out, B) @ (B, in)
                    if position:
                        _ = grad @ weight  # (B, out) @ (out, in)
            clock.lap()


def operands(weights: list[Tensor], samples: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, weight and gradient of the outputs of each layer, for a batch of `samples`."""
    sides = [(torch.ones(samples, weight.shape[1]), torch.ones(samples, weight.shape[0])) for weight in weights]
    return [(given, weight, grad) for weight, (given, grad) in zip(weights, sides, strict=True)]


if __name__ == "__main__":
    trainers = {
        "hand": by_hand,
        "hand-bytes": by_hand_bytes,
        "loader": with_torch_loader,
        "floor": floor,
    }
    serve(trainers, torch.__version__)

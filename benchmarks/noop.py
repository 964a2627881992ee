"""What a step costs besides the model: a one-parameter model, microseconds a step, beside the loop by hand."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from clearloop import Callback, DataLoader, Learner, TensorDataset
from clearloop.data.sampler import shuffled_order

STEPS, ROUNDS = 4000, 15


class Tiny(nn.Module):
    """One parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scale the inputs."""
        return inputs * self.weight


def loss_func(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean error."""
    return (preds - targets).mean()


def by_hand(x: torch.Tensor, y: torch.Tensor) -> float:
    """Microseconds a step of the plain loop."""
    model = Tiny()
    opt = torch.optim.SGD(model.parameters(), lr=0.0)
    started = time.perf_counter()
    losses = []
    for indices in shuffled_order(len(y), 0, 0).split(1):
        loss = loss_func(model(x.index_select(0, indices)), y.index_select(0, indices))
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.detach())
    torch.stack(losses).tolist()
    return (time.perf_counter() - started) / STEPS * 1e6


def learner(x: torch.Tensor, y: torch.Tensor, callbacks: int) -> float:
    """Microseconds a step of the Learner, with idle callbacks."""
    loader = DataLoader(TensorDataset(x, y), 1, shuffle=True, seed=0)
    learn = Learner((loader, None), Tiny(), loss_func, cbs=[Callback() for _ in range(callbacks)], seed=0)
    learn.prepared()
    started = time.perf_counter()
    learn.fit(1, lr=0.0, quiet=True)
    return (time.perf_counter() - started) / STEPS * 1e6


def main() -> None:
    """Print the medians."""
    torch.set_num_threads(1)
    x, y = torch.zeros(STEPS, 1), torch.zeros(STEPS, 1)
    rounds = [(by_hand(x, y), learner(x, y, 0), learner(x, y, 20)) for _ in range(ROUNDS + 1)][1:]
    hand, bare, idle = (statistics.median(column) for column in zip(*rounds, strict=True))
    over = statistics.median(second - first for first, second, _ in rounds)
    more = statistics.median(third - second for _, second, third in rounds)
    print(f"by hand                     {hand:6.1f} microseconds a step (median of {ROUNDS} rounds)")
    print(f"Learner, no callbacks       {bare:6.1f}   {over:+.1f} over the loop by hand, in the same round")
    print(f"Learner, 20 idle callbacks  {idle:6.1f}   {more:+.1f} over no callbacks")


if __name__ == "__main__":
    main()

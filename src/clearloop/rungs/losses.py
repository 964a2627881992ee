"""Losses by hand: what `torch.nn.functional` computes, written out.

All take logits (`preds`) of shape (batch_size, classes) and class labels (`targets`, int64, shape (batch_size,)) unless
they say otherwise, and return a mean over samples, in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clearloop.errors import DataError


def sigmoid(x: Tensor) -> Tensor:
    """Squeeze any number into (0, 1), the odds into a probability.

    exp is only ever taken of numbers that are not positive, so that it cannot overflow.

    >>> sigmoid(torch.tensor([0.0, 1e4, -1e4]))
    tensor([0.5000, 1.0000, 0.0000])
    """
    # clamp, not abs, which has the slope 0 at 0, where sigmoid is steepest; what `where` leaves out gets no gradient
    falling, rising = torch.exp(-x.clamp(min=0)), torch.exp(x.clamp(max=0))
    return torch.where(x >= 0, 1 / (1 + falling), rising / (1 + rising))


def mnist_loss(preds: Tensor, targets: Tensor) -> Tensor:
    """For two classes: mean of 1 - p where the target is 1, and of p where it is 0, p being sigmoid(preds).

    Args: `preds`, logits, and `targets`, 0 or 1, of the same shape.

    Raises: DataError for shapes that differ.

    >>> mnist_loss(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
    tensor(0.5000)
    """
    check_shapes(preds, targets)
    p = sigmoid(preds)
    return torch.where(targets == 1, 1 - p, p).mean()


def softmax(x: Tensor) -> Tensor:
    """Probabilities from logits: each row is positive and sums to 1.

    Taking the largest logit off each row first changes nothing (it cancels), and keeps exp from overflowing.

    >>> softmax(torch.tensor([[0.0, 0.0], [1e4, 0.0]]))
    tensor([[0.5000, 0.5000],
            [1.0000, 0.0000]])
    """
    exp = torch.exp(x - x.amax(dim=-1, keepdim=True))
    return exp / exp.sum(dim=-1, keepdim=True)


def log_softmax_naive(x: Tensor) -> Tensor:
    """The definition, word for word: the logarithm of exp over the sum of exps. Overflows from logits of 89 on."""
    return (x.exp() / x.exp().sum(dim=-1, keepdim=True)).log()


def log_softmax_quotient(x: Tensor) -> Tensor:
    """The same with log(a / b) = log(a) - log(b): one division and one logarithm of exp less. Still overflows."""
    return x - x.exp().sum(dim=-1, keepdim=True).log()


def logsumexp(x: Tensor) -> Tensor:
    """log(sum(exp(x))) of each row, without overflow: the largest is taken out of the sum, and added again.

    >>> logsumexp(torch.tensor([[1e4, 1e4]]))
    tensor([10000.6934])
    """
    largest = x.detach().amax(dim=-1, keepdim=True)  # it cancels, so no gradient need pass through it
    # an infinite one stays in the sum: inf - inf is not a number, but exp(inf) is inf, and exp(-inf) is 0
    largest = torch.where(largest.isfinite(), largest, 0.0)
    return largest.squeeze(-1) + (x - largest).exp().sum(dim=-1).log()


def log_softmax(x: Tensor) -> Tensor:
    """The form to use: right for logits of any size.

    >>> log_softmax(torch.tensor([[1e4, 0.0]]))
    tensor([[     0., -10000.]])
    """
    return x - logsumexp(x).unsqueeze(-1)


def nll(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood: how surprised the model is by the right answer, on average.

    Probabilities are at most 1, so their logarithms are at most 0: the sign makes it a loss, small when good.
    """
    rows = torch.arange(len(targets), device=targets.device)
    return -log_probabilities[rows, targets].mean()


def cross_entropy(preds: Tensor, targets: Tensor) -> Tensor:
    """The loss of classification: nll of log_softmax. A model that knows nothing has log(classes).

    >>> cross_entropy(torch.zeros(4, 10), torch.tensor([3, 1, 4, 1]))
    tensor(2.3026)
    """
    return nll(log_softmax(preds), targets)


def cross_entropy_one_hot(preds: Tensor, targets: Tensor) -> Tensor:
    """The same as a dot product: a vector that is 1 at the right class picks its log-probability out of the row."""
    one_hot = torch.zeros_like(preds).scatter_(1, targets.unsqueeze(1), 1)  # (batch_size, classes)
    return -(one_hot * log_softmax(preds)).sum(dim=1).mean()


def mse(preds: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error; `preds` and `targets` have the same shape, or DataError is raised."""
    check_shapes(preds, targets)
    return (preds - targets).pow(2).mean()


def l1(preds: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error; `preds` and `targets` have the same shape, or DataError is raised."""
    check_shapes(preds, targets)
    return (preds - targets).abs().mean()


def check_shapes(preds: Tensor, targets: Tensor) -> None:
    """Refuse to broadcast: (n, 1) against (n,) would compare every prediction with every target, (n, n) of them."""
    if preds.shape != targets.shape:
        raise DataError(
            f"preds and targets must have the same shape, got {tuple(preds.shape)} and {tuple(targets.shape)}; "
            "reshape one of them, for instance with preds.squeeze(1) or targets.unsqueeze(1)"
        )

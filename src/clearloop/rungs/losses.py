"""Losses by hand: what `torch.nn.functional` computes, written out.

All take logits (`preds`) of shape (batch_size, classes) and class labels (`targets`, int64, shape (batch_size,)) unless
they say otherwise, and return a mean over samples, in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    """Squeeze any number into (0, 1), the odds into a probability.

    exp is only ever taken of numbers that are not positive, so that it cannot overflow.

    >>> sigmoid(torch.tensor([0.0, 1e4, -1e4]))
    tensor([0.5000, 1.0000, 0.0000])
    """
    small = torch.exp(-x.abs())
    return torch.where(x >= 0, 1 / (1 + small), small / (1 + small))


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
    largest = x.amax(dim=-1, keepdim=True)
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
    """Mean squared error; `preds` and `targets` have the same shape."""
    return (preds - targets).pow(2).mean()


def l1(preds: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error; `preds` and `targets` have the same shape."""
    return (preds - targets).abs().mean()

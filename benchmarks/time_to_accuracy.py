"""Seconds of training to 98 and to 99 % on MNIST's test images: clearloop beside loops written by hand, over ten seeds.

A recipe has a fixed length, chosen on the last 10,000 of the training images; nothing looks at the test images before
its last step. It trains on all 60,000 training images, which lie in memory, and is then tested once. The clock runs
from the model, which is built, to the last update: optimizer, loader and the Learner's look at the data are in it.

All contestants train the same model on the same batches with the same learning rates, in turn, seed by seed: that they
end in the same weights, to the bit, is checked before a time is printed. The tutorials' loop gets its images as floats,
which are made before its clock starts. The compiled engine, where there is one, rounds in another way: it is tested by
itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearloop import ConfigError, DataLoader, Learner, TensorDataset, mnist, one_cycle
from clearloop.data.loaders import scale_images
from clearloop.data.sampler import shuffled_order

SEEDS = range(10)
ENOUGH = 9  # of ten seeds must reach the target
SLOW = 1.5  # a compiled run that takes so many times as long as the default path is not repeated


@dataclass(frozen=True)
class Recipe:
    """How to train, and to which accuracy."""

    target: float
    layers: tuple[tuple[int, int, int], ...]  # feature maps, kernel, stride of each convolution
    batch_size: int
    epochs: int
    lr_max: float
    smoothing: float = 0.0

    def model(self) -> nn.Sequential:
        """Convolutions with batch norm and ReLU, then one linear layer: (B, 1, 28, 28) -> (B, 10)."""
        layers: list[nn.Module] = []
        channels, size = 1, 28
        for maps, kernel, stride in self.layers:
            convolution = nn.Conv2d(channels, maps, kernel, stride, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(maps), nn.ReLU()]
            channels, size = maps, (size - 1) // stride + 1
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 10))

    def optimizer(self) -> Callable[..., torch.optim.Optimizer]:
        """AdamW in one call a step."""
        return partial(torch.optim.AdamW, fused=True)

    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Cross-entropy, with smoothed labels perhaps."""
        return partial(F.cross_entropy, label_smoothing=self.smoothing)

    def rates(self, samples: int) -> Callable[[int], float]:
        """The learning rate of each step."""
        return one_cycle(self.lr_max, self.epochs * -(-samples // self.batch_size))

    def __str__(self) -> str:
        convolutions = ", ".join(f"{maps} maps {kernel}x{kernel}/{stride}" for maps, kernel, stride in self.layers)
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        smoothed = f", labels smoothed by {self.smoothing}" if self.smoothing else ""
        return (
            f"{self.target:.0%}: {convolutions}; {epochs} in batches of {self.batch_size}, "
            f"AdamW, one cycle to lr {self.lr_max}{smoothed}"
        )


RECIPES = (
    Recipe(0.98, ((12, 7, 4), (16, 3, 1)), batch_size=192, epochs=1, lr_max=0.03, smoothing=0.1),
    Recipe(0.99, ((16, 7, 3), (32, 3, 2), (64, 3, 2)), batch_size=128, epochs=2, lr_max=0.03, smoothing=0.1),
)

Data = tuple[Tensor, Tensor]  # images, uint8 (n, 28, 28) or float32 (n, 1, 28, 28); labels, int64 (n,)
Contestant = Callable[[nn.Module, int], object]  # trains a model with a seed


def learner(recipe: Recipe, data: Data, model: nn.Module, seed: int, fast: str = "off") -> Learner:
    """Clearloop, its default path unless `fast` names another engine."""
    dataset = TensorDataset(*data, transform=scale_images)
    loader = DataLoader(dataset, recipe.batch_size, shuffle=True, seed=seed)
    learn = Learner((loader, None), model, recipe.loss(), recipe.optimizer(), lr=recipe.lr_max, seed=seed, fast=fast)
    learn.fit_one_cycle(recipe.epochs, recipe.lr_max, quiet=True)
    return learn


def by_hand(recipe: Recipe, data: Data, model: nn.Module, seed: int) -> None:
    """Plain PyTorch, each batch gathered from the bytes by one call."""
    images, labels = data
    loss_func, rate = recipe.loss(), recipe.rates(len(labels))
    opt = recipe.optimizer()(model.parameters(), lr=recipe.lr_max)
    model.train()
    step = 0
    for epoch in range(recipe.epochs):
        for indices in shuffled_order(len(labels), seed, epoch).split(recipe.batch_size):
            opt.param_groups[0]["lr"] = rate(step)
            inputs = images.index_select(0, indices).unsqueeze(1).float().div_(255)  # (B, 28, 28) -> (B, 1, 28, 28)
            loss = loss_func(model(inputs), labels.index_select(0, indices))
            loss.backward()
            opt.step()
            opt.zero_grad()
            step += 1


def with_torch_loader(recipe: Recipe, data: Data, model: nn.Module, seed: int) -> None:
    """Plain PyTorch with its DataLoader over a TensorDataset, as tutorials have it, in the same order."""
    images, labels = data
    dataset = torch.utils.data.TensorDataset(images, labels)
    loss_func, rate = recipe.loss(), recipe.rates(len(labels))
    opt = recipe.optimizer()(model.parameters(), lr=recipe.lr_max)
    model.train()
    step = 0
    for epoch in range(recipe.epochs):
        order = shuffled_order(len(labels), seed, epoch).tolist()
        for inputs, targets in torch.utils.data.DataLoader(dataset, recipe.batch_size, sampler=order):
            opt.param_groups[0]["lr"] = rate(step)
            loss = loss_func(model(inputs), targets)
            loss.backward()
            opt.step()
            opt.zero_grad()
            step += 1


def accuracy_of(model: nn.Module, data: Data) -> float:
    """The share of images that are named right, in slices of 500."""
    images, labels = data
    model.eval()
    correct = 0
    with torch.no_grad():
        for i in range(0, len(labels), 500):
            preds = model(images[i : i + 500].unsqueeze(1).float().div_(255))
            correct += int((preds.argmax(1) == labels[i : i + 500]).sum())
    return correct / len(labels)


def trained(recipe: Recipe, train: Contestant, seed: int) -> tuple[nn.Module, float]:
    """A new model of that seed, trained, and the seconds that took."""
    torch.manual_seed(seed)
    model = recipe.model()
    started = time.perf_counter()
    train(model, seed)
    return model, time.perf_counter() - started


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether all parameters and buffers are equal to the bit."""
    others = second.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in first.state_dict().items())


def has_compiled_engine() -> bool:
    """Whether this version of clearloop has one."""
    few = DataLoader(TensorDataset(torch.zeros(2, 1), torch.zeros(2, 1)), 2)
    try:
        Learner((few, None), nn.Linear(1, 1), F.mse_loss, fast="compile")
    except ConfigError:
        return False
    return True


def faster_threads(recipe: Recipe, train: Contestant, rounds: int = 2) -> tuple[int, str]:
    """1 or 2 threads, whichever trains in less time here, and a few words about it; this warms up as well."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for threads, found in seconds.items():
            torch.set_num_threads(threads)
            found.append(trained(recipe, train, 0)[1])
    best = min(seconds, key=lambda threads: min(seconds[threads]))
    return best, ", ".join(f"{min(found):.2f} s with {threads}" for threads, found in seconds.items())


def line(name: str, seconds: list[float], base: list[float]) -> str:
    """A row of the table: median, least and most seconds, and the median of the ratios seed by seed."""
    ratio = statistics.median(mine / other for mine, other in zip(seconds, base, strict=True))
    figures = (statistics.median(seconds), min(seconds), max(seconds))
    return f"  {name:24} {' '.join(f'{figure:7.2f}' for figure in figures)}   {ratio:5.2f} of by hand"


def reached(accuracies: list[float], target: float) -> str:
    """What the accuracies of the seeds come to."""
    count = sum(accuracy >= target for accuracy in accuracies)
    verdict = "" if count >= ENOUGH * len(accuracies) / 10 else "  TOO FEW: the recipe is too short"
    spread = f"median {statistics.median(accuracies):.4f}, {min(accuracies):.4f} to {max(accuracies):.4f}"
    return f"{spread}; {count} of {len(accuracies)} seeds reach {target}{verdict}"


def compare(recipe: Recipe, train: Data, test: Data, seeds: range = SEEDS) -> None:
    """Print the table of a recipe."""
    floats = (train[0].unsqueeze(1).float().div_(255), train[1])
    contestants: dict[str, Contestant] = {
        "clearloop": partial(learner, recipe, train),
        "by hand, gathered": partial(by_hand, recipe, train),
        "by hand, DataLoader": partial(with_torch_loader, recipe, floats),
    }
    threads, words = faster_threads(recipe, contestants["clearloop"])
    torch.set_num_threads(threads)
    print(f"\n{recipe}\n  {threads} of 2 threads ({words})")
    fast = add_compiled(recipe, train, contestants)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    accuracies: list[float] = []
    fast_accuracies: list[float] = []
    for turn, seed in enumerate(seeds):
        names = list(contestants)
        models = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            models[name], elapsed = trained(recipe, contestants[name], seed)
            seconds[name].append(elapsed)
        if fast is not None:
            fast_accuracies.append(accuracy_of(models.pop(fast), test))
        for name, model in models.items():
            assert same_weights(models["by hand, gathered"], model), f"{name} must end in the weights of the others"
        accuracies.append(accuracy_of(models["clearloop"], test))
    print(f"  {'seconds of training':24} {'median':>7} {'min':>7} {'max':>7}   {len(seeds)} seeds")
    for name, found in seconds.items():
        print(line(name, found, seconds["by hand, gathered"]))
    print(f"  test accuracy, the same weights to the bit: {reached(accuracies, recipe.target)}")
    if fast is not None:
        print(f"  test accuracy, compiled engine: {reached(fast_accuracies, recipe.target)}")


def add_compiled(recipe: Recipe, train: Data, contestants: dict[str, Contestant]) -> str | None:
    """Put the compiled engine among the contestants, if it is there and pays; its name there, after a first run."""
    if not has_compiled_engine():
        print("  compiled engine: not in this version")
        return None
    compiled = partial(learner, recipe, train, fast="compile")
    default = trained(recipe, contestants["clearloop"], 0)[1]
    first, second = (trained(recipe, compiled, 0)[1] for _ in range(2))
    print(f"  compiled engine: {first:.2f} s the first time in a process, {second:.2f} s the second")
    if second > SLOW * default:
        print(f"  which is not run further: the default path takes {default:.2f} s")
        return None
    contestants["clearloop, compiled"] = compiled
    return "clearloop, compiled"


def main() -> None:
    """Print a table for each recipe."""
    digits = mnist()
    for recipe in RECIPES:
        compare(recipe, (digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels))


if __name__ == "__main__":
    main()

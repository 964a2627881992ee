"""Set-ups for the tests of `check`: good ones, and pairs of a good one and the same with one fault planted."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from clearloop import DataLoader, DataLoaders, Dataset, Learner, Subset, TableDataLoaders, TensorDataset, models
from clearloop.data.mnist import mnist
from clearloop.data.sampler import shuffled_order
from clearloop.tabular import table_learner

FEATURES, CLASSES = 8, 4
PAIRS: dict[str, tuple[Callable[[bool], Learner], str]] = {}  # fault -> (builder, the check that must tell of it)
GOOD: dict[str, Callable[[], Learner]] = {}


def plants(check: str):
    """Register a builder `(broken) -> Learner` whose fault a check must find; the fault is the function's name."""

    def register(build):
        PAIRS[build.__name__.replace("_", " ")] = build, check
        return build

    return register


def good(build):
    """Register a builder of a set-up of which there is nothing to say."""
    GOOD[build.__name__.replace("_", " ")] = build
    return build


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blobs(samples=600, seed=0):
    """Classes in clouds around points: float (samples, FEATURES), int64 (samples,)."""
    order = shuffled_order(samples, seed, 0)
    y = (torch.arange(samples) % CLASSES)[order]
    return drawn(samples, FEATURES, seed=seed) + 2 * drawn(CLASSES, FEATURES, seed=99)[y], y


def line(samples=600, seed=0):
    """A regression: float (samples, FEATURES), float (samples, 1) of deviation about 1."""
    x = drawn(samples, FEATURES, seed=seed)
    y = x @ drawn(FEATURES, 1, seed=98) / FEATURES**0.5 + 0.1 * drawn(samples, 1, seed=seed + 1)
    return x, y


def two(samples=600):
    """Two classes for one logit: targets float (samples, 1)."""
    x, _ = line(samples)
    return x, (x[:, :1] + 0.3 * drawn(samples, 1, seed=3) > 0).float()


read_once = functools.cache(mnist)


def digits(samples=600, scale=255.0):
    found = read_once()
    return found.train_images[:samples].unsqueeze(1).float() / scale, found.train_labels[:samples].long()


def net(outputs=CLASSES, *after):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, outputs), *after)


def learner(x, y, model, loss_func=None, held=None, opt_func=torch.optim.Adam, lr=0.01, **loader_options):
    """Four fifths to train on, the rest to validate with, unless `held` gives that."""
    cut = len(x) if held is not None else len(x) * 4 // 5
    held = held or (x[cut:], y[cut:])
    options = {"batch_size": 32, "shuffle": True, "seed": 0, **loader_options}
    dls = DataLoader(TensorDataset(x[:cut], y[:cut]), **options), DataLoader(TensorDataset(*held), 64)
    return Learner(dls, model, loss_func, opt_func, lr, seed=0, device="cpu")


def calling(forward, *layers):
    """A model of layers with a forward of one's own: `forward(model, x)`."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(layers or (nn.Linear(FEATURES, 32), nn.Linear(32, 32), nn.Linear(32, CLASSES)))

        def forward(self, x):
            return forward(self, x)

    return Net()


# -- data ------------------------------------------------------------------------------------------------------------


@plants("parts fit")
def labels_count_from_one(broken):
    x, y = blobs()
    return learner(x, y + broken, net())


@plants("classes balanced")
def labels_count_from_one_and_an_output_is_spare(broken):
    x, y = blobs()
    return learner(x, y + broken, net(CLASSES + broken))


@plants("targets follow inputs")
def labels_shifted_by_a_row(broken):
    x, y = blobs()
    return learner(x, y.roll(int(broken)), net())


@plants("targets follow inputs")
def inputs_sorted_without_their_values(broken):
    x, y = line()
    return learner(x[x[:, 0].argsort()] if broken else x, y, net(1))


@plants("targets follow inputs")
def pictures_shuffled_without_their_labels(broken):
    x, y = digits()
    return learner(x[shuffled_order(len(x), 5, 0)] if broken else x, y, models.mlp(784, 32, 10), lr=0.003)


@plants("parts fit")
def rows_of_nan(broken):
    x, y = blobs()
    x[[3, 17]] = float("nan") if broken else 0.0
    x[17] += 1
    return learner(x, y, net())


def log_of_first(batch):
    x, y = batch
    return torch.cat([x[:, :1].log(), x[:, 1:]], dim=1), y


@plants("finite numbers")
def a_transform_takes_the_logarithm_of_negative_numbers(broken):
    x, y = blobs()
    x = torch.cat([x[:, :1] if broken else x[:, :1].exp(), x[:, 1:]], dim=1)
    train, held = (TensorDataset(x[part], y[part], transform=log_of_first) for part in (slice(480), slice(480, 600)))
    dls = DataLoader(train, 32, shuffle=True, seed=0), DataLoader(held, 64)
    first = nn.BatchNorm1d(FEATURES)  # or the broken one is refused in the first forward pass
    return Learner(dls, nn.Sequential(first, net()), seed=0, lr=0.01, device="cpu")


class Pairs(Dataset):
    """Gathers, and may forget which samples it was asked for."""

    def __init__(self, x, y, forgets):
        self.x, self.y, self.forgets = x, y, forgets

    def __len__(self):
        return len(self.x)

    def gather(self, indices):
        x = self.x[indices]
        return (self.x[:1].expand_as(x).clone() if self.forgets else x), self.y[indices]


@plants("inputs vary")
def a_dataset_forgets_its_index(broken):
    x, y = blobs()
    dls = DataLoader(Pairs(x[:480], y[:480], broken), 32, True, seed=0), DataLoader(TensorDataset(x[480:], y[480:]), 64)
    return Learner(dls, net(), seed=0, lr=0.01, device="cpu")


@plants("inputs scaled")
def pictures_of_0_to_255(broken):
    x, y = digits(scale=1.0 if broken else 255.0)
    return learner(x, y, models.mlp(784, 32, 10), lr=0.003)


@plants("inputs scaled")
def one_column_in_millions(broken):
    x, y = blobs()
    x[:, 3] *= 1e6 if broken else 1
    return learner(x, y, net())


@plants("inputs scaled")
def one_column_in_millionths(broken):
    x, y = blobs()
    x[:, 3] *= 1e-6 if broken else 1
    return learner(x, y, net())


@plants("classes balanced")
def one_class_is_rare(broken):
    x, y = blobs(2000)
    kept = (y != 0) | (torch.arange(2000) % 40 == 0) if broken else y >= 0
    return learner(x[kept], y[kept], net())


@plants("classes balanced")
def a_class_is_in_validation_alone(broken):
    x, y = blobs()
    kept = y[:480] != 3 if broken else y[:480] >= 0
    return learner(x[:480][kept], y[:480][kept], net(), held=(x[480:], y[480:]))


@plants("validation like training")
def sorted_data_cut_in_two(broken):
    x, y = blobs(800)
    order = y.argsort(stable=True) if broken else torch.arange(800)
    cut = 640
    return learner(x[order][:cut], y[order][:cut], net(), held=(x[order][cut:], y[order][cut:]))


@plants("validation like training")
def validation_is_not_normalised(broken):
    x, y = blobs()
    held = 3 * x[480:] + 5 if broken else x[480:]
    return learner(x[:480], y[:480], net(), held=(held, y[480:]))


@plants("validation like training")
def validation_pictures_are_not_normalised(broken):
    x, y = digits()
    scaled = (x - 0.13) / 0.31
    held = x[480:] if broken else scaled[480:]
    return learner(scaled[:480], y[:480], models.mlp(784, 32, 10), held=(held, y[480:]), lr=0.003)


@plants("no overlap")
def validation_rows_are_trained_on(broken):
    x, y = blobs()
    kept = x if broken else x[:480]
    return learner(kept, y[: len(kept)], net(), held=(x[480:], y[480:]))


@plants("no overlap")
def a_share_of_pictures_is_on_both_sides(broken):
    x, y = digits()
    data, start = TensorDataset(x, y), 470 if broken else 480
    dls = DataLoader(Subset(data, range(480)), 32, True, seed=0), DataLoader(Subset(data, range(start, 600)), 64)
    return Learner(dls, models.mlp(784, 32, 10), opt_func=torch.optim.Adam, lr=0.003, seed=0, device="cpu")


@plants("no duplicates")
def copies_with_other_labels(broken):
    x, y = blobs()
    if broken:
        x[400:430], y[400:430] = x[:30], (y[:30] + 1) % CLASSES
    return learner(x, y, net())


class ByClass:
    """An order that draws whole classes in turn, a new one every epoch."""

    def __init__(self, labels, mixes):
        self.labels, self.mixes = labels, mixes

    def __len__(self):
        return len(self.labels)

    def order(self, epoch):
        order = shuffled_order(len(self.labels), 0, epoch)
        return order if self.mixes else order[self.labels[order].argsort(stable=True)]


@plants("order shuffled")
def a_sampler_goes_through_one_class_after_the_other(broken):
    x, y = blobs()
    return learner(x, y, net(), shuffle=False, sampler=ByClass(y[:480], not broken))


@plants("targets in range")
def minus_one_for_no(broken):
    x, y = two()
    return learner(x, 2 * y - 1 if broken else y, net(1), F.binary_cross_entropy_with_logits)


@plants("targets in range")
def a_relu_ends_a_regression_of_negative_values(broken):
    x, y = line()
    return learner(x, y, net(1, *([nn.ReLU()] if broken else [])))


@plants("targets in range")
def a_sigmoid_ends_a_net_for_normalised_pictures(broken):
    x, _ = digits()
    x = (x - 0.13) / 0.31 if broken else x
    net = models.autoencoder(784, 32, 8, output="sigmoid")
    return learner(x, x.flatten(1), net, F.mse_loss, lr=0.003)


@plants("targets scaled")
def prices_in_hundreds_of_thousands(broken):
    x, y = line()
    return learner(x, 1e5 * y if broken else y, net(1))


@plants("targets scaled")
def every_target_is_the_same(broken):
    x, y = line()
    return learner(x, y * 0 + 3 if broken else y, net(1))


# -- model and loss --------------------------------------------------------------------------------------------------


@plants("outputs fit the loss")
def softmax_before_cross_entropy(broken):
    return learner(*blobs(), net(CLASSES, *([nn.Softmax(1)] if broken else [])))


@plants("outputs fit the loss")
def softmax_before_a_loss_of_ones_own(broken):
    own = lambda preds, targets: -preds.log_softmax(1)[range(len(targets)), targets].mean()  # noqa: E731
    return learner(*blobs(), net(CLASSES, *([nn.Softmax(1)] if broken else [])), own)


@plants("outputs fit the loss")
def sigmoid_before_a_loss_that_takes_logits(broken):
    return learner(*two(), net(1, *([nn.Sigmoid()] if broken else [])), nn.BCEWithLogitsLoss())


@plants("outputs fit the loss")
def relu_before_cross_entropy(broken):
    return learner(*blobs(), net(CLASSES, *([nn.ReLU()] if broken else [])))


@plants("outputs fit the loss")
def plain_outputs_before_nll_loss(broken):
    return learner(*blobs(), net(CLASSES, *([] if broken else [nn.LogSoftmax(1)])), F.nll_loss)


@plants("loss is a mean")
def a_loss_that_sums(broken):
    def loss(preds, targets):
        total = ((preds - targets) ** 2).sum()
        return total if broken else total / len(targets)

    return learner(*line(), net(1), loss, lr=0.001)


@plants("parts fit")
def a_column_of_predictions_meets_a_row_of_targets(broken):
    x, y = line()
    return learner(x, y[:, 0] if broken else y, net(1), lambda preds, targets: ((preds - targets) ** 2).mean())


@plants("loss at the start")
def the_last_bias_is_far_off(broken):
    model = net()
    with torch.no_grad():
        model[2].bias[1] += 15.0 * broken
    return learner(*blobs(), model)


@plants("loss at the start")
def first_weights_are_far_too_large(broken):
    model = net()
    with torch.no_grad():
        model[2].weight *= 100.0 if broken else 1.0
    return learner(*blobs(), model)


@plants("samples kept apart")
def a_view_where_a_transpose_is_meant(broken):
    def forward(self, x):  # (B, 4, 2): by hand from features of (4, B, 2)
        x = x.view(-1, 4, 2).permute(1, 0, 2)  # (4, B, 2)
        x = x.reshape(-1, FEATURES) if broken else x.permute(1, 0, 2).reshape(-1, FEATURES)
        return self.layers[1](self.layers[0](x).relu())

    return learner(*blobs(), calling(forward, nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)))


@plants("samples kept apart")
def attention_over_the_batch(broken):
    def forward(self, x):
        hidden = self.layers[0](x).relu()
        return self.layers[1](hidden * hidden.softmax(0 if broken else 1))

    return learner(*blobs(), calling(forward, nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)))


@plants("evaluation by batch size")
def a_norm_that_takes_the_batch_in_evaluation_too(broken):
    norm = nn.BatchNorm1d(32, track_running_stats=not broken)
    torch.manual_seed(0)
    return learner(*blobs(), nn.Sequential(nn.Linear(FEATURES, 32), norm, nn.ReLU(), nn.Linear(32, CLASSES)))


@plants("evaluation by batch size")
def a_squeeze_that_takes_the_batch_away(broken):
    def forward(self, x):
        y = self.layers[1](self.layers[0](x).relu())
        return y.squeeze() if broken else y.squeeze(1)

    x, y = line()
    return learner(x, y[:, 0], calling(forward, nn.Linear(FEATURES, 32), nn.Linear(32, 1)), F.mse_loss)


@plants("evaluation repeatable")
def dropout_stays_on(broken):
    def forward(self, x):
        hidden = F.dropout(self.layers[0](x).relu(), 0.2, training=True if broken else self.training)
        return self.layers[1](hidden)

    return learner(*blobs(), calling(forward, nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)))


@plants("activations alive")
def relus_that_never_fire(broken):
    model = net()
    with torch.no_grad():
        model[0].bias[:24] -= 50.0 * broken
    return learner(*blobs(), model)


@plants("activations alive")
def functional_relus_that_never_fire(broken):
    model = calling(lambda self, x: self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x))))))
    with torch.no_grad():
        model.layers[1].bias[:24] -= 50.0 * broken
    return learner(*blobs(), model)


@plants("activations alive")
def sigmoids_at_their_ends(broken):
    model = calling(lambda self, x: self.layers[1](self.layers[0](x).sigmoid()),
                    nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES))  # fmt: skip
    with torch.no_grad():
        model.layers[0].bias += 100.0 * broken
    return learner(*blobs(), model)


# -- training --------------------------------------------------------------------------------------------------------


class Forgetful(torch.optim.SGD):
    def zero_grad(self, set_to_none=True):
        """Forgotten."""


@plants("gradients cleared")
def zero_grad_is_forgotten(broken):
    return learner(*blobs(), net(), opt_func=Forgetful if broken else torch.optim.SGD, lr=0.05)


class ByHand:
    """An optimizer as courses write it."""

    def __init__(self, parameters, lr, clears):
        self.param_groups = [{"params": list(parameters), "lr": lr}]
        self.cleared = self.param_groups[0]["params"] if clears else iter(())  # a generator that is used up
        self.cleared = self.cleared if clears else []

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            parameter -= self.param_groups[0]["lr"] * parameter.grad

    def zero_grad(self):
        for parameter in self.cleared:
            parameter.grad = None

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """Nothing to take back."""


@plants("gradients cleared")
def an_optimizer_by_hand_clears_nothing(broken):
    return learner(*blobs(), net(), opt_func=functools.partial(ByHand, clears=not broken), lr=0.05)


@plants("parameters trained")
def the_last_layer_is_frozen(broken):
    model = net()
    model[2].requires_grad_(not broken)
    return learner(*blobs(), model)


@plants("parameters trained")
def the_graph_is_cut(broken):
    def forward(self, x):
        hidden = self.layers[0](x).relu()
        return self.layers[2](self.layers[1](hidden.detach() if broken else hidden).relu())

    return learner(*blobs(), calling(forward))


@plants("parameters trained")
def a_layer_is_never_called(broken):
    def forward(self, x):
        hidden = self.layers[0](x).relu()
        return self.layers[2](hidden if broken else self.layers[1](hidden).relu())

    return learner(*blobs(), calling(forward))


@plants("parameters trained")
def the_optimizer_gets_some_parameters_only(broken):
    def opt_func(parameters, lr):
        return torch.optim.Adam(parameters[2:] if broken else parameters, lr)

    return learner(*blobs(), net(), opt_func=opt_func)


@plants("parameters trained")
def a_layer_is_multiplied_by_zero(broken):
    def forward(self, x):
        hidden = self.layers[0](x).relu()
        return self.layers[2](hidden + self.layers[1](hidden) * (0.0 if broken else 1.0))

    return learner(*blobs(), calling(forward))


@plants("parameters trained")
def a_loss_without_a_gradient(broken):
    def loss(preds, targets):
        return (preds.argmax(1) != targets).float().mean() if broken else F.cross_entropy(preds, targets)

    return learner(*blobs(), net(), loss)


@plants("gradients even")
def a_deep_net_of_sigmoids(broken):
    layers = [layer for _ in range(9) for layer in (nn.Linear(32, 32), nn.Sigmoid() if broken else nn.ReLU())]
    torch.manual_seed(0)
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="sigmoid" if broken else "relu")
    return learner(*blobs(), nn.Sequential(nn.Linear(FEATURES, 32), *layers, nn.Linear(32, CLASSES)), lr=0.001)


@plants("units differ")
def all_weights_begin_alike(broken):
    model = net()
    if broken:
        nn.init.constant_(model[0].weight, 0.1)
        nn.init.constant_(model[0].bias, 0.1)
        nn.init.constant_(model[2].weight, 0.1)
    return learner(*blobs(), model)


@plants("weights move")
def a_learning_rate_that_is_far_too_large(broken):
    return learner(*blobs(), net(), opt_func=torch.optim.SGD, lr=100.0 if broken else 0.05)


@plants("weights move")
def a_learning_rate_that_is_far_too_small(broken):
    return learner(*blobs(), net(), opt_func=torch.optim.SGD, lr=1e-8 if broken else 0.05)


@plants("batch over-fitted")
def logits_that_cannot_grow(broken):
    return learner(*blobs(), calling(lambda self, x: self.layers[1](self.layers[0](x).relu()).tanh() * 0.01
                                     if broken else self.layers[1](self.layers[0](x).relu()),
                                     nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)))  # fmt: skip


@plants("batch over-fitted")
def a_loss_of_the_wrong_sign(broken):
    def loss(preds, targets):
        return F.cross_entropy(preds, targets) * (-1 if broken else 1)

    return learner(*blobs(), net(), loss)


@plants("inputs matter")
def a_forward_that_overwrites_its_input(broken):
    def forward(self, x):
        x = torch.ones_like(x) if broken else x
        return self.layers[1](self.layers[0](x).relu())

    return learner(*blobs(), calling(forward, nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)))


class Both(nn.Module):
    """Takes two inputs, and may use the first alone."""

    def __init__(self, forgets):
        super().__init__()
        torch.manual_seed(0)
        self.forgets, self.layers = forgets, net()

    def forward(self, one, other):
        return self.layers(torch.cat([one, one if self.forgets else other], dim=1))


@plants("inputs matter")
def one_of_two_inputs_is_not_used(broken):
    x, y = blobs()
    parts = [TensorDataset(x[part, :4], x[part, 4:], y[part]) for part in (slice(480), slice(480, 600))]
    dls = DataLoader(parts[0], 32, shuffle=True, seed=0), DataLoader(parts[1], 64)
    return Learner(dls, Both(broken), opt_func=torch.optim.Adam, lr=0.01, seed=0, device="cpu")


# -- of which there is nothing to say --------------------------------------------------------------------------------


def mnist_learner(model, lr, opt_func=torch.optim.AdamW, **options):
    return Learner(DataLoaders.mnist(128, seed=0, **options), model, opt_func=opt_func, lr=lr, seed=0, device="cpu")


@good
def an_mlp_on_mnist():
    return mnist_learner(models.mlp(784, 64, 10), 0.003)


@good
def the_default_cnn_on_mnist():
    return mnist_learner(models.cnn(), 0.01)


@good
def a_linear_model_on_mnist_by_sgd():
    return mnist_learner(models.linear(784, 10), 0.1, torch.optim.SGD)


@good
def an_autoencoder_on_mnist():
    return mnist_learner(models.autoencoder(784, 128, 64, 32), 0.001, torch.optim.Adam, targets="inputs")


def rows(count=400):
    x, noise = drawn(count, 2), drawn(count, seed=1)
    towns = [("Ulm", "Bonn", "Jena")[number] for number in (torch.arange(count)[shuffled_order(count, 0, 0)] % 3)]
    shift = torch.tensor([len(town) for town in towns])
    size = 90 + 30 * x[:, 0]
    price = 2000 * size + 50000 * shift + 20000 * noise
    return {"size": size.tolist(), "age": (40 + 20 * x[:, 1]).tolist(), "town": towns, "price": price.tolist()}


@good
def prices_of_a_table():
    return table_learner(TableDataLoaders.from_table(rows(), "price", seed=0), hidden=(32,), device="cpu", lr=0.003)


@good
def classes_of_a_table():
    table = rows()
    table["dear"] = ["yes" if price > 350000 else "no" for price in table.pop("price")]
    return table_learner(TableDataLoaders.from_table(table, "dear", seed=0), hidden=(32,), device="cpu", lr=0.003)


@good
def one_logit_with_bce():
    return learner(*two(), net(1), F.binary_cross_entropy_with_logits)


@good
def a_regression_with_scaled_targets():
    x, y = line()
    y = 1e5 * y + 3e5
    return learner(x, (y - y.mean()) / y.std(), net(1))


@good
def class_weights_for_rare_classes():
    x, y = blobs(2000)
    kept = (y != 0) | (torch.arange(2000) % 40 == 0)
    counts = torch.bincount(y[kept], minlength=CLASSES)
    return learner(x[kept], y[kept], net(), nn.CrossEntropyLoss(weight=counts.sum() / (CLASSES * counts)))


@good
def dropout_and_batch_norm():
    x, y = digits(1000)
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    return learner(x, y, nn.Sequential(*layers), lr=0.003)


@good
def an_unshuffled_loader_of_mixed_data():
    return learner(*blobs(), net(), shuffle=False)


@good
def inputs_of_any_scale_before_a_norm():
    x, y = blobs()
    return learner(1000 * x + 50, y, nn.Sequential(nn.BatchNorm1d(FEATURES), net()))


@good
def several_labels_a_sample():
    x, _ = line()
    return learner(x, (x[:, :3] > 0).float(), net(3), nn.BCEWithLogitsLoss())


@good
def smoothed_labels():
    return learner(*blobs(), net(), nn.CrossEntropyLoss(label_smoothing=0.1))


@good
def a_linear_regression_of_three_columns():
    x, y = line()
    return learner(x[:, :3], x[:, :1] + 0.1 * y, nn.Linear(3, 1), opt_func=torch.optim.SGD, lr=0.1)


@good
def a_body_that_was_frozen():
    model = net()
    model[0].requires_grad_(False)
    return learner(*blobs(), model)


@good
def half_precision():
    x, y = blobs()
    dls = DataLoader(TensorDataset(x[:480], y[:480]), 32, True, seed=0), DataLoader(TensorDataset(x[480:], y[480:]), 64)
    return Learner(dls, net(), opt_func=torch.optim.Adam, lr=0.01, seed=0, device="cpu", precision="bf16")

"""Members of a sweep end as runs alone do; verdicts know noise; what cannot be stacked is refused."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import clearloop as cl
from clearloop import ConfigError, DataLoader, DataLoaders, Learner, TensorDataset, accuracy, models, schedules, sweep
from clearloop.data.augment import compose, random_flip, random_shift
from clearloop.data.sampler import WeightedSampler
from clearloop.errors import ModelError
from clearloop.metrics import mae, r2_score
from clearloop.sweeping.results import Member, Setting, Sweep
from clearloop.sweeping.stack import Stack, cross_entropies
from clearloop.sweeping.training import _Training, batch_seeds
from clearloop.sweeping.updates import stacked_update
from clearloop.sweeping.verdict import compare, difference, mean_and_spread


def data(n=50, pictures=False):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, *((1, 8, 8) if pictures else (6,)), generator=generator)
    labels = (x.flatten(1)[:, :3].sum(1) > 0).long() + (x.flatten(1)[:, 3] > 0.5).long()
    return TensorDataset(x, labels)


def loaders(seed=0, pictures=False, augment=None, shuffle=True):
    train = DataLoader(data(50, pictures), 16, shuffle=shuffle, seed=seed, augment=augment)
    return DataLoaders(train, DataLoader(data(30, pictures), 16))


# No biases before batch norm: their gradient is 0 but for rounding, which Adam blows up to steps of full size.
def batch_normed():
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def convolving():
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def learner(make=batch_normed, opt_func=torch.optim.SGD, seed=0, loss_func=F.cross_entropy, **options):
    dls = options.pop("dls", None) or loaders(seed, pictures=make is convolving)
    torch.manual_seed(seed)
    return Learner(dls, make(), loss_func, opt_func, metrics=accuracy, seed=seed, device="cpu", **options)


def alone(make, opt_func, lr, seed, epochs, shape="constant", **options):
    """The run that a member is to equal."""
    learn = learner(make, opt_func, seed, **options)
    total = epochs * len(learn.dls.train)
    kinds = {"one-cycle": schedules.one_cycle, "cosine": schedules.cosine}
    learn.fit(epochs, lr, schedule=kinds[shape](lr, total) if shape in kinds else None, quiet=True)
    return learn


OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "SGD with decay": partial(torch.optim.SGD, weight_decay=0.01),
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "Nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.001),
    "Adam": torch.optim.Adam,
    "Adam with decay": partial(torch.optim.Adam, weight_decay=0.01, betas=(0.8, 0.99), eps=1e-7),
    "AdamW": torch.optim.AdamW,
}


# -- a member is a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [batch_normed, convolving], ids=["batch norm", "convolutions"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_member_ends_as_its_run_alone(name, make):
    opt_func, lrs, seeds = OPTIMIZERS[name], [0.003, 0.03], [0, 5]
    found = sweep(learner(make, opt_func), 2, lr=lrs, seeds=seeds, model=make, quiet=True)
    assert [(member.setting.lr, member.seed) for member in found.members] == [(a, b) for a in lrs for b in seeds]
    for member in found.members:
        run = alone(make, opt_func, member.setting.lr, member.seed, 2)
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)
        for key, tensor in run.model.state_dict().items():
            assert torch.allclose(member.weights[key].float(), tensor.float(), atol=2e-5), key


@pytest.mark.parametrize("shape", ["constant", "one-cycle", "cosine"])
def test_schedules_clipping_and_file_order_are_those_of_a_run_alone(shape):
    options = {"clip": 0.05, "dls": loaders(shuffle=False)}
    found = sweep(learner(**options), 2, lr=[0.1, 0.5], schedule=shape, model=batch_normed, quiet=True)
    for member in found.members:
        run = alone(batch_normed, torch.optim.SGD, member.setting.lr, 0, 2, shape, **options)
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)


def test_augmentation_is_that_of_a_run_alone():
    some = compose(random_flip, random_shift(1))
    found = sweep(learner(convolving, dls=loaders(pictures=True, augment=some)), 2, lr=0.1, seeds=[0, 3],
                  model=convolving, quiet=True)  # fmt: skip
    for member in found.members:
        dls = loaders(member.seed, pictures=True, augment=some)
        run = alone(convolving, torch.optim.SGD, 0.1, member.seed, 2, dls=dls)
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)


def test_class_weights_are_divided_by_as_in_a_run_alone():
    loss_func = partial(F.cross_entropy, weight=torch.tensor([1.0, 5.0, 0.2]))
    found = sweep(learner(loss_func=loss_func), 2, lr=[0.1, 0.2], model=batch_normed, quiet=True)
    for member in found.members:
        run = alone(batch_normed, torch.optim.SGD, member.setting.lr, 0, 2, loss_func=loss_func)
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)


def test_decay_and_momentum_are_swept_too():
    found = sweep(learner(), 1, lr=0.1, weight_decay=[0.0, 0.1], momentum=[0.0, 0.9], model=batch_normed, quiet=True)
    assert len(found.members) == 4
    for member in found.members:
        made = partial(torch.optim.SGD, weight_decay=member.setting.weight_decay, momentum=member.setting.momentum)
        run = alone(batch_normed, made, 0.1, 0, 1)
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)


def test_dropout_masks_differ_between_members_and_come_back_with_the_same_seed():
    def make():
        return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3))

    def once():
        torch.manual_seed(0)
        learn = Learner(loaders(), make(), F.cross_entropy, seed=0, device="cpu")
        same = sweep(learn, 1, lr=[0.1, 0.1000001], model=make, quiet=True)
        return [member.values[0][0] for member in same.members]

    first = once()
    assert first == once()
    assert abs(first[0] - first[1]) > 1e-4  # the same weights and batches, other masks


def test_the_learner_and_the_random_states_are_left_as_they_are():
    learn = learner()
    before, state = {k: v.clone() for k, v in learn.model.state_dict().items()}, torch.get_rng_state()
    sweep(learn, 1, lr=[0.1, 1.0], seeds=2, model=batch_normed, quiet=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in learn.model.state_dict().items())
    assert (learn.epoch, learn.history.steps, learn.model.training) == (0, 0, True)


def test_models_of_the_library_need_no_factory_and_repeat_to_the_bit():
    def once():
        torch.manual_seed(0)
        learn = Learner(loaders(), models.mlp(6, 8, 3), F.cross_entropy, metrics=accuracy, device="cpu", seed=0)
        return sweep(learn, 2, lr=[0.1, 0.3], seeds=2, quiet=True)

    first, second = once(), once()
    assert [member.values for member in first.members] == [member.values for member in second.members]


def test_members_whose_loss_is_lost_are_dropped_and_the_others_go_on():
    found = sweep(learner(), 3, lr=[0.05, 1e18], seeds=2, model=batch_normed, quiet=True)
    fine, lost = found.members[:2], found.members[2:]
    assert [member.diverged for member in fine] == [None, None]
    assert all(member.diverged is not None and not member.weights for member in lost)
    for member in fine:
        run = alone(batch_normed, torch.optim.SGD, 0.05, member.seed, 3)
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)
    assert found.best.lr == 0.05
    assert "2 diverged" in found.table()


def test_where_all_diverge_there_is_no_best(capsys):
    found = sweep(learner(), 2, lr=1e18, model=batch_normed)
    assert found.ranking == []
    with pytest.raises(ConfigError, match="every member of the sweep diverged"):
        _ = found.best
    assert "every member diverged" in capsys.readouterr().out


def test_a_frozen_layer_stays_as_it_is():
    def make():
        model = batch_normed()
        model[0].weight.requires_grad_(False)
        return model

    found = sweep(learner(make), 1, lr=[0.1, 0.2], model=make, quiet=True)
    for member in found.members:
        run = alone(make, torch.optim.SGD, member.setting.lr, 0, 1)
        assert torch.equal(member.weights["0.weight"], run.model[0].weight)
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)


class Tied(nn.Module):
    """Two layers with one weight, and a buffer that is not stored."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(1.5), persistent=False)

    def forward(self, x):
        return self.last(self.second(torch.relu(self.first(x))) * self.scale)


def test_tied_weights_stay_tied_and_a_members_weights_go_into_a_model():
    found = sweep(learner(Tied), 2, lr=0.1, seeds=2, model=Tied, quiet=True)
    for member in found.members:
        run = alone(Tied, torch.optim.SGD, 0.1, member.seed, 2)
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)
        model = Tied()
        model.load_state_dict(member.weights)
        assert torch.allclose(model.first.weight, run.model.first.weight, atol=2e-5)


@pytest.mark.parametrize("drop_last", [False, True])
def test_weighted_draws_are_by_each_members_seed(drop_last):
    def drawn(seed):
        sampler = WeightedSampler(torch.arange(50.0), seed, draws=40)
        train = DataLoader(data(50), 16, sampler=sampler, seed=seed, drop_last=drop_last)
        return DataLoaders(train, DataLoader(data(30), 16))

    found = sweep(learner(dls=drawn(0)), 2, lr=0.1, seeds=[0, 3], model=batch_normed, quiet=True)
    for member in found.members:
        run = alone(batch_normed, torch.optim.SGD, 0.1, member.seed, 2, dls=drawn(member.seed))
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)


class Table(nn.Module):
    """Codes and numbers, two inputs."""

    def __init__(self):
        super().__init__()
        self.codes, self.layers = (
            nn.Embedding(5, 3),
            nn.Sequential(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU()),
        )
        self.last = nn.Linear(8, 1)

    def forward(self, codes, numbers):
        return self.last(self.layers(torch.cat([self.codes(codes), numbers], dim=1)))


def test_a_regression_on_codes_and_numbers_ends_as_its_run_alone():
    def table(seed):
        generator = torch.Generator().manual_seed(3)
        codes, numbers = torch.randint(5, (50,), generator=generator), torch.randn(50, 2, generator=generator)
        rows = TensorDataset(codes, numbers, (codes - 2 + numbers[:, 0])[:, None])
        return DataLoaders(DataLoader(rows, 16, shuffle=True, seed=seed), DataLoader(rows, 20))

    def made(seed):
        torch.manual_seed(seed)
        return Learner(table(seed), Table(), F.mse_loss, torch.optim.Adam, 0.01, metrics=[r2_score, mae], seed=seed,
                       device="cpu")  # fmt: skip

    found = sweep(made(0), 2, seeds=[0, 4], model=Table, quiet=True)
    for member in found.members:
        run = made(member.seed)
        run.fit(2, quiet=True)
        assert np.allclose(member.values, run.recorder.values, atol=1e-4)


def test_a_fit_after_a_sweep_is_the_one_without_it():
    def fitted(swept):
        def make():
            return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3))

        learn = learner(make)
        if swept:
            sweep(learn, 1, lr=0.1, seeds=2, model=make, quiet=True)
        learn.fit(1, 0.1, quiet=True)
        return learn.recorder.values

    assert fitted(swept=True) == fitted(swept=False)


def test_metrics_that_vmap_cannot_follow_are_measured_all_the_same():
    def by_numpy(preds, targets):
        return float((preds.argmax(1).numpy() == targets.numpy()).mean())

    learn = learner()
    learn = Learner(learn.dls, batch_normed(), F.cross_entropy, metrics=[accuracy, by_numpy], seed=0, device="cpu")
    found = sweep(learn, 1, lr=[0.1, 0.5], model=batch_normed, quiet=True)
    for member in found.members:
        assert member.values[0][2] == pytest.approx(member.values[0][3])


def test_values_may_be_an_array_and_callbacks_that_would_not_act_are_named():
    learn = learner()
    assert len(sweep(learn, 1, lr=np.array([0.1, 0.2]), model=batch_normed, quiet=True).members) == 2
    learn.cbs = [cl.EMA()]
    with pytest.warns(UserWarning, match="calls no callbacks, so EMA will not act"):
        sweep(learn, 1, lr=0.1, model=batch_normed, quiet=True)


def test_any_number_of_threads_gives_the_runs_alone_and_the_same_number_the_same_bits():
    seen = set()

    def watched(preds, targets):
        seen.add(torch.get_num_threads())
        return F.cross_entropy(preds, targets)

    def once(threads):
        learn = learner(loss_func=watched)
        learn.prepared()
        seen.clear()
        return sweep(learn, 2, lr=[0.1, 0.3], seeds=2, model=batch_normed, threads=threads, quiet=True)

    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        first, second = once(threads), once(threads)
        assert (first.threads, seen, torch.get_num_threads()) == (threads, {threads}, before)
        for member, other in zip(first.members, second.members, strict=True):
            assert member.values == other.values
            assert all(torch.equal(tensor, other.weights[key]) for key, tensor in member.weights.items())
            run = alone(batch_normed, torch.optim.SGD, member.setting.lr, member.seed, 2)
            assert np.allclose(member.values, run.recorder.values, atol=2e-5)


def test_the_learners_own_number_of_threads_is_taken_where_none_is_given():
    learn = learner()
    learn.threads = 3
    assert sweep(learn, lr=0.1, model=batch_normed, quiet=True).threads == 3


def test_without_a_number_of_epochs_it_is_one():
    found = sweep(learner(), lr=[0.1, 0.3], seeds=2, model=batch_normed, quiet=True)
    assert [len(member.values) for member in found.members] == [1] * 4


FAULTS = """
import resource, torch
from clearloop.sweeping.training import keep_freed_memory
keep_freed_memory()
def step():
    return [torch.ones(5 * 2**18) for _ in range(4)]  # 5 MiB each
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory by other rules")
def test_the_memory_of_a_step_is_kept_for_the_next():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # pages that the system gave anew; 50,000 if the memory went back to it


# -- batches that members share ----------------------------------------------------------------------------------------


def test_members_of_a_seed_share_their_batches_and_all_do_where_no_seed_decides_the_order():
    shuffled, in_order = loaders().train, loaders(shuffle=False).train
    assert batch_seeds(shuffled, [0, 0, 5, 5]) == [0, 5]
    assert batch_seeds(shuffled, [0, 0, 5]) == [0, 0, 5]  # one of them was dropped
    assert batch_seeds(in_order, [0, 0, 5]) == [0]
    assert batch_seeds(loaders(augment=random_flip, shuffle=False).train, [0, 0, 5]) == [0, 0, 5]
    drawn = DataLoader(data(), 16, sampler=WeightedSampler(torch.ones(50), 0))
    assert batch_seeds(drawn, [0, 0, 5]) == [0, 0, 5]


def test_where_members_were_dropped_here_and_there_the_others_still_end_as_their_runs_alone():
    left = [Member(Setting(0.1), 5), Member(Setting(0.1), 0), Member(Setting(0.3), 0)]
    learn = learner()
    _Training(learn, left, batch_normed, "constant", 2).run(1, lambda line: None)
    for member in left:
        run = alone(batch_normed, torch.optim.SGD, member.setting.lr, member.seed, 2)
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)


class Attends(nn.Module):
    """Attention, whose linear layers are used without being called."""

    def __init__(self):
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.attention(x, x, x, need_weights=False)[0].mean(1))


LAYERS = {
    "linear": (lambda: nn.Linear(4, 2), (4,)),
    "linear without bias, of sequences": (
        lambda: nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(15, 2)),
        (5, 4),
    ),
    "norms": (
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)),
        (4,),
    ),
    "in place": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3), nn.ReLU(inplace=True)), (4,)),
    "convolutions": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 4, 2, groups=4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)),
        ),
        (1, 8, 8),
    ),
    "convolutions there and back": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.PReLU(3), nn.ConvTranspose1d(3, 1, 2), nn.Flatten()),
        (2, 5),
    ),
    "attention": (Attends, (3, 4)),
}
LOSSES = {
    "cross-entropy": F.cross_entropy,
    "smoothed": partial(F.cross_entropy, label_smoothing=0.1),
    "weighted": partial(F.cross_entropy, weight=torch.tensor([0.5, 2.0])),
    "squares": F.mse_loss,
    "Huber's": F.huber_loss,
    "distances": F.l1_loss,
}


def compare_stacks(make, inputs, loss_func, targets):
    """Members that share a batch, two by two, against a model of each alone, which autograd goes through."""
    torch.manual_seed(0)
    made = [make() for _ in range(2 * len(inputs))]
    stack = Stack(made, loss_func)
    found, losses = stack.gradients(inputs.clone(), targets)
    for number, model in enumerate(made):
        loss = loss_func(model(inputs[number // 2].clone()), targets[number // 2])
        loss.backward()
        assert torch.allclose(losses[number], loss, atol=1e-5)
        for name, parameter in model.named_parameters():
            assert torch.allclose(found[name][number], parameter.grad, atol=1e-5), name
        for name, buffer in model.named_buffers():
            assert torch.allclose(stack.buffers[name][number].float(), buffer.float(), atol=1e-5), name


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, of attention
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_a_shared_batch_as_each_would_alone(name, batches):
    make, shape = LAYERS[name]
    inputs = torch.randn(batches, 6, *shape, generator=torch.Generator().manual_seed(1))
    targets = inputs.flatten(2)[:, :, :1].clone()
    compare_stacks(make, inputs, lambda preds, targets: (preds - targets).square().mean(), targets)


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_shared_targets_as_each_would_alone(name, batches):
    loss_func, generator = LOSSES[name], torch.Generator().manual_seed(1)
    by_class = name in ("cross-entropy", "smoothed", "weighted")
    targets = torch.randint(2, (batches, 6), generator=generator) if by_class else torch.randn(batches, 6, 2)
    compare_stacks(lambda: nn.Linear(4, 2), torch.randn(batches, 6, 4, generator=generator), loss_func, targets)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(2, 5), st.integers(0, 1000))
def test_stacked_cross_entropies_are_torchs_also_where_targets_are_left_out(members, samples, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    preds = torch.randn(members, samples, classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (members, samples), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.3] = -100
    expected = torch.stack([F.cross_entropy(*pair) for pair in zip(preds, targets, strict=True)])
    assert torch.allclose(cross_entropies(preds, targets), expected, equal_nan=True)


def test_a_weight_that_no_loss_depends_on_stays_as_it_is_decay_or_not():
    class Idle(nn.Linear):
        def __init__(self):
            super().__init__(6, 3)
            self.idle = nn.Parameter(torch.ones(2))

    opt_func = partial(torch.optim.SGD, weight_decay=0.5)
    found = sweep(learner(Idle, opt_func), 1, lr=[0.1, 0.2], seeds=2, model=Idle, quiet=True)
    for member in found.members:
        run = alone(Idle, opt_func, member.setting.lr, member.seed, 1)
        assert torch.equal(member.weights["idle"], run.model.idle)
        assert np.allclose(member.values, run.recorder.values, atol=2e-5)


# -- what cannot be swept ----------------------------------------------------------------------------------------------


class Branches(nn.Linear):
    def forward(self, x):
        preds = super().forward(x)
        return preds if preds.sum().item() > 0 else -preds


class Recurs(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.last = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.cells(x[:, :, None])[0][:, -1])


@pytest.mark.parametrize(
    ("options", "kwargs", "error", "said"),
    [
        ({}, {"lr": []}, ConfigError, "at least one seed"),
        ({}, {"lr": [0.1, 0.1]}, ConfigError, "none of them twice"),
        ({}, {"seeds": 0}, ConfigError, "at least one seed"),
        ({}, {"lr": -1.0}, ConfigError, "lr must be a finite number"),
        ({}, {"lr": math.nan}, ConfigError, "lr must be a finite number"),
        ({}, {"momentum": 1.0}, ConfigError, "momentum must be"),
        ({}, {"schedule": "steps"}, ConfigError, "schedule must be"),
        ({}, {"by": "f1"}, ConfigError, "by must be one of train_loss, valid_loss, accuracy"),
        ({}, {"model": lambda: nn.Linear(6, 3)}, ConfigError, "another architecture"),
        ({}, {"threads": 0}, ConfigError, "threads must be 1 or more, got 0"),
        ({}, {"seeds": [-1]}, ConfigError, "seeds must be whole numbers of 0 or more"),
        ({"accumulate": 2}, {}, ConfigError, "accumulate=2"),
        ({"opt_func": torch.optim.RMSprop}, {}, ConfigError, "knows torch's SGD, Adam and AdamW, got RMSprop"),
        ({"opt_func": partial(torch.optim.Adam, amsgrad=True)}, {}, ConfigError, "does not know Adam's amsgrad"),
        ({"opt_func": torch.optim.Adam}, {"momentum": 0.9}, ConfigError, "momentum is swept with SGD"),
        ({"make": lambda: Branches(6, 3)}, {}, ModelError, "cannot be trained as a stack"),
        ({"make": Recurs}, {}, ModelError, "Batching rule not implemented for aten::gru.*train its members one by one"),
    ],
)
def test_what_cannot_be_swept_is_refused(options, kwargs, error, said):
    learn = learner(**options)
    kwargs = {"lr": 0.1, "model": options.get("make", batch_normed), "quiet": True, **kwargs}
    with pytest.raises(error, match=said):
        sweep(learn, 1, **kwargs)


def test_data_that_cannot_be_gathered_are_refused():
    dls = DataLoaders(DataLoader([(torch.ones(6), 1)] * 8, 4), None)
    learn = Learner(dls, batch_normed(), F.cross_entropy, device="cpu")
    with pytest.raises(cl.DataError, match="give data that can be gathered"):
        sweep(learn, 1, model=batch_normed, quiet=True)


def test_a_model_of_ones_own_asks_for_a_factory():
    class Own(nn.Linear):
        pass

    learn = Learner(loaders(), Own(6, 3), F.cross_entropy, device="cpu")
    with pytest.raises(ConfigError, match="model"):
        sweep(learn, 1, quiet=True)


# -- updates, as properties --------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(OPTIMIZERS)), st.integers(0, 1000), st.integers(1, 4))
def test_stacked_updates_follow_torchs_optimizers(name, seed, steps):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    lrs = torch.rand(3, generator=generator, dtype=torch.float64)
    gradients = [torch.randn(3, 4, 2, generator=generator, dtype=torch.float64) for _ in range(steps)]
    weights = {"w": first.clone()}
    update = stacked_update(OPTIMIZERS[name], [None] * 3, [None] * 3, first)
    for gradient in gradients:
        update(weights, {"w": gradient}, lrs)
    for member in range(3):
        parameter = nn.Parameter(first[member].clone())
        opt = OPTIMIZERS[name]([parameter], lr=float(lrs[member]))
        for gradient in gradients:
            parameter.grad = gradient[member].clone()
            opt.step()
        assert torch.allclose(weights["w"][member], parameter, atol=1e-12)


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_differences_agree_with_a_paired_t_test():
    from scipy import stats

    rng = np.random.default_rng(0)
    for n in (2, 3, 8, 20, 31, 40):
        a, b = rng.normal(size=n), rng.normal(size=n)
        gap, half = difference(list(a), list(b))
        low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
        assert gap == pytest.approx((low + high) / 2)
        assert half == pytest.approx((high - low) / 2, rel=1e-3 if n < 32 else 0.05)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12))
def test_mean_and_spread_agree_with_numpy(values):
    mean, spread = mean_and_spread(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert spread == pytest.approx(np.std(values, ddof=1) if len(values) > 1 else 0.0, abs=1e-6)


def test_a_verdict_says_what_noise_allows():
    assert compare(("a", "b"), [0.95, 0.96], [0.90, 0.91], share=True).startswith("a beats b by 5.00 ± 0.00 points")
    assert "cannot be told apart" in compare(("a", "b"), [0.95, 0.90], [0.90, 0.94], share=True)
    assert "with one seed" in compare(("a", "b"), [0.95], [0.90], share=True)


def made(values, by="accuracy"):
    members = [Member(Setting(lr), seed, [[0.5, 0.5, value]]) for (lr, seed), value in values.items()]
    return Sweep(members, ["train_loss", "valid_loss", by], by)


def test_the_best_setting_is_best_in_the_mean_in_the_direction_of_what_decides():
    values = {(0.1, 0): 0.9, (0.1, 1): 0.8, (0.3, 0): 0.99, (0.3, 1): 0.5}
    assert made(values).best == Setting(0.1)
    assert made(values, "rmse").best == Setting(0.3)


@pytest.mark.parametrize("by", ["valid_loss", "mean_absolute_error", "perplexity", "hamming_distance"])
def test_of_what_is_small_when_it_is_good_the_smaller_is_better(by):
    members = [Member(Setting(lr), 0, [[0.5, value]]) for lr, value in ((0.1, 7.0), (0.3, 2.0))]
    found = Sweep(members, ["train_loss", by], by)
    assert found.best == Setting(0.3)
    assert "points" not in found.verdict


def test_a_verdict_compares_the_same_seeds_also_where_each_setting_lost_another():
    found = made({(lr, seed): seed / 10 + lr / 100 for lr in (0.1, 0.3) for seed in range(4)})
    found.members[0].diverged = found.members[7].diverged = 0  # seed 0 of lr 0.1, seed 3 of lr 0.3
    assert "0.20 ± 0.00 points, 2 seeds" in found.verdict


def test_a_mean_that_is_no_number_is_not_the_best():
    assert made({(0.1, 0): math.nan, (0.3, 0): 0.5}).best == Setting(0.3)


def test_a_sweep_is_drawn(tmp_path):
    found = made({(lr, seed): 0.9 + 0.01 * seed - lr / 100 for lr in (0.1, 0.3) for seed in range(3)})
    found.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5000

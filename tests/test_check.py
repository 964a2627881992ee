"""`check` finds each planted fault, says nothing of good set-ups, and leaves the Learner as it was."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import data as torch_data

import check_setups as setups
from clearloop import DataLoader, DataLoaders, Learner, TensorDataset, check, checking, models, rng
from clearloop.checks import trial
from clearloop.checks.activations import Activations
from clearloop.checks.finding import CheckReport, Finding
from clearloop.checks.losses import guessing, meaning_of
from clearloop.checks.order import like_follows_like
from clearloop.tree import leaves
from clearloop.vision import vision_learner
from cli_tools import clearloop, write_idx

PAIRS, GOOD = sorted(setups.PAIRS), sorted(setups.GOOD)


def looked(learn, **options):
    return check(learn, quiet=True, **options)


def said(report):
    """What there is to say, for messages of failed tests."""
    return [(finding.name, finding.found) for finding in report.of("warning", "failed")]


def could_not(report):
    """Checks that raised."""
    return [finding for finding in report.findings if "could not be made" in finding.found]


# -- faults ----------------------------------------------------------------------------------------------------------


def test_there_are_at_least_twenty_faults_and_ten_good_set_ups():
    assert len(PAIRS) >= 20
    assert len(GOOD) >= 10


@pytest.mark.parametrize("fault", PAIRS)
def test_a_planted_fault_is_found_by_its_check_and_without_it_nothing_is(fault):
    build, name = setups.PAIRS[fault]
    good, broken = looked(build(False)), looked(build(True))
    assert not said(good)
    assert not could_not(good)
    assert broken[name].status in ("warning", "failed")
    assert broken[name].found
    assert broken[name].meaning
    assert broken[name].remedy


def test_every_check_finds_some_fault():
    assert {name for _, name in setups.PAIRS.values()} == {"parts fit", *checking.CHECKS}


@pytest.mark.parametrize("name", GOOD)
def test_of_a_good_set_up_there_is_nothing_to_say(name):
    report = looked(setups.GOOD[name]())
    assert not said(report)
    assert not could_not(report)
    assert report.ok


def test_a_residual_net_on_a_few_pictures_is_fine(monkeypatch):
    monkeypatch.setattr(trial, "STEPS", 4)  # each takes long
    x, y = setups.digits(200)
    dls = DataLoader(TensorDataset(x[:160], y[:160]), 32, True, seed=0), DataLoader(TensorDataset(x[160:], y[160:]), 40)
    learn = vision_learner(dls, models.resnet18, opt_func=torch.optim.AdamW, lr=0.003, seed=0, device="cpu")
    report = looked(learn)
    assert not said(report)
    assert not could_not(report)


def test_sorted_data_that_nobody_shuffles_get_a_note_and_no_failure():
    x, y = setups.blobs()
    order = y[:480].argsort(stable=True)
    report = looked(
        setups.learner(x[:480][order], y[:480][order], setups.net(), held=(x[480:], y[480:]), shuffle=False)
    )
    assert report["order shuffled"].status == "note"
    assert "shuffle=True" in report["order shuffled"].remedy
    assert report.ok
    assert not said(report)


def test_an_order_that_is_the_same_every_epoch_gets_a_note():
    class Fixed(setups.ByClass):
        def order(self, epoch):
            return super().order(0)

    x, y = setups.blobs()
    report = looked(setups.learner(x, y, setups.net(), shuffle=False, sampler=Fixed(y[:480], mixes=True)))
    assert report["order shuffled"].status == "note"


# -- all kinds of data and models -------------------------------------------------------------------------------------


def test_loaders_of_torch_are_looked_at_by_their_batches_and_go_on_where_they_were():
    x, y = setups.blobs()
    train = torch_data.DataLoader(
        torch_data.TensorDataset(x[:480], y[:480]), 32, shuffle=True, generator=torch.Generator().manual_seed(3)
    )
    learn = Learner((train, torch_data.DataLoader(torch_data.TensorDataset(x[480:], y[480:]), 64)), setups.net(),
                    opt_func=torch.optim.Adam, lr=0.01, seed=0, device="cpu")  # fmt: skip
    state = train.generator.get_state()
    report = looked(learn)
    assert not said(report)
    assert not could_not(report)
    assert report["parts fit"].status == "note"
    assert "order" in report["parts fit"].found
    assert torch.equal(train.generator.get_state(), state)


def test_samples_that_are_asked_for_one_by_one_and_inputs_by_name_are_looked_at():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = setups.net()

        def forward(self, left, right):
            return self.layers(torch.cat([left, right], dim=1))

    x, y = setups.blobs()
    items = [({"left": row[:4], "right": row[4:]}, int(label)) for row, label in zip(x, y, strict=True)]
    dls = DataLoader(items[:480], 32, shuffle=True, seed=0), DataLoader(items[480:], 64, seed=0)
    report = looked(Learner(dls, Named(), opt_func=torch.optim.Adam, lr=0.01, seed=0, device="cpu"))
    assert not said(report)
    assert not could_not(report)
    assert "256 training samples" in report["no duplicates"].found.replace("of 480 ", "")


def test_a_class_for_every_pixel_is_looked_at():
    x, _ = setups.digits(200)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    report = looked(setups.learner(x, (x[:, 0] > 0.5).long(), model, F.cross_entropy))
    assert not said(report)
    assert not could_not(report)


def test_outputs_that_are_pairs_are_looked_at():
    loss_func = functools.partial(models.sparse_mse, penalty=0.001)
    x, _ = setups.digits(300)
    model = models.autoencoder(784, 32, 8, with_code=True)
    report = looked(setups.learner(x, x.flatten(1), model, loss_func, lr=0.003))
    assert not said(report)
    assert not could_not(report)


@pytest.mark.parametrize("samples", [2, 10])
def test_next_to_no_samples_do_no_harm(samples):
    x, y = setups.blobs()
    learn = setups.learner(x[:samples], y[:samples], setups.net(), held=(x[500:502], y[500:502]))
    assert not could_not(looked(learn))


def test_without_a_validation_set_its_checks_say_that_there_is_none():
    x, y = setups.blobs()
    learn = Learner((DataLoader(TensorDataset(x, y), 32, shuffle=True, seed=0), None), setups.net(), lr=0.05, seed=0,
                    device="cpu")  # fmt: skip
    report = looked(learn)
    assert [report[name].status for name in ("no overlap", "validation like training")] == ["skipped"] * 2
    assert report["no overlap"].found == "there is no validation set"


def test_a_model_that_cannot_be_copied_skips_what_needs_a_copy():
    model = setups.net()
    model.twice = model[0].weight * 2
    report = looked(setups.learner(*setups.blobs(), model))
    assert report.ok
    assert report["batch over-fitted"].status == "skipped"
    assert "cannot be copied" in report["batch over-fitted"].found
    assert not could_not(report)
    assert report["samples kept apart"].status == "passed"


def test_a_last_layer_that_begins_at_zero_is_fine():
    model = setups.net()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    assert not said(looked(setups.learner(*setups.blobs(), model)))


def test_the_same_is_said_after_some_training():
    learn = setups.learner(*setups.blobs(), setups.net())
    learn.fit(2, quiet=True)
    report = looked(learn)
    assert not said(report)
    assert report["loss at the start"].status == "passed"


def test_the_learning_rate_that_is_judged_is_given_or_that_of_the_last_fit():
    learn = setups.learner(*setups.blobs(), setups.net(), opt_func=torch.optim.SGD, lr=0.05)
    assert "at lr 0.05" in looked(learn)["weights move"].found
    assert looked(learn, lr=1e-9)["weights move"].status == "warning"
    learn.fit(1, 0.03, quiet=True)
    assert "at lr 0.03" in looked(learn)["weights move"].found
    with pytest.raises(ValueError, match="lr must be a finite number"):
        looked(learn, lr=float("nan"))


# -- no trace ---------------------------------------------------------------------------------------------------------


def everything(learn):
    """All that training goes on from, as copies: states, gradients, modes, history, and the caller's random states."""
    grads = [None if p.grad is None else p.grad.clone() for p in learn.model.parameters()]
    modes = [module.training for module in learn.model.modules()]
    states = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves(learn.state_dict())]
    return [*states, *grads, *modes, learn.history.steps, learn.step, learn.epoch, *leaves(rng.capture())]


def same(one, other):
    def alike(a, b):
        if isinstance(a, torch.Tensor):
            return isinstance(b, torch.Tensor) and torch.equal(a, b)
        return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b

    return len(one) == len(other) and all(map(alike, one, other))


def normed(penalty=False):
    """A Learner with batch norm, dropout, an optimizer with state, and perhaps a loss that reaches the weights."""
    torch.manual_seed(0)
    layers = (nn.Linear(setups.FEATURES, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))
    model = nn.Sequential(*layers)

    def loss(preds, targets):
        return F.cross_entropy(preds, targets) + 1e-3 * sum(weight.square().sum() for weight in model.parameters())

    return setups.learner(*setups.blobs(), model, loss if penalty else None)


@pytest.mark.parametrize("penalty", [False, True])
def test_a_check_leaves_the_learner_as_it_was(penalty):
    learn = normed(penalty)
    learn.fit(1, quiet=True)
    for parameter in learn.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    learn.model[3].eval()  # a mode of its own
    before = everything(learn)
    assert looked(learn).ok
    assert same(before, everything(learn))


def test_training_goes_on_to_the_same_bits_with_and_without_a_check():
    plain, seen = normed(), normed()
    for learn in (plain, seen):
        if learn is seen:
            looked(learn)
        learn.fit(1, quiet=True)
        if learn is seen:
            looked(learn)
        learn.fit(1, quiet=True)
    assert plain.history.losses == seen.history.losses
    assert same(leaves(plain.state_dict()), leaves(seen.state_dict()))


def test_an_interrupt_in_the_middle_leaves_no_trace_either(monkeypatch):
    def interrupt(subject):
        subject.trial  # noqa: B018  # steps on copies
        torch.rand(3)
        subject.learn.model.train()
        raise KeyboardInterrupt

    learn = normed()
    before = everything(learn)
    monkeypatch.setitem(checking.CHECKS, "units differ", interrupt)
    with pytest.raises(KeyboardInterrupt):
        looked(learn)
    assert same(before, everything(learn))


def test_a_check_that_raises_is_skipped_with_its_reason_and_the_others_are_made(monkeypatch):
    def burst(subject):
        raise ZeroDivisionError("no reason")

    monkeypatch.setitem(checking.CHECKS, "units differ", burst)
    report = looked(normed())
    assert report["units differ"].status == "skipped"
    assert report["units differ"].found == "it could not be made: ZeroDivisionError: no reason"
    assert report["inputs matter"].status == "passed"


def test_two_checks_say_the_same():
    learn = normed()
    torch.rand(5)
    assert looked(learn) == looked(learn)


def test_parts_that_do_not_fit_are_the_only_finding():
    x, y = setups.blobs()
    report = looked(setups.learner(x[:, :3], y, setups.net()))
    assert [finding.status for finding in report.findings] == ["failed", "skipped"]
    assert "does not take inputs" in report["parts fit"].found


# -- the report -------------------------------------------------------------------------------------------------------


def test_a_report_is_printed_as_a_table_with_meaning_and_remedy(capsys):
    report = check(setups.PAIRS["softmax before cross entropy"][0](True))
    printed = " ".join(capsys.readouterr().out.split())
    finding = report["outputs fit the loss"]
    assert "failed outputs fit the loss" in printed
    for part in (finding.meaning, "-> leave out the softmax", report.summary):
        assert part.split(":")[0][:40] in printed
    assert finding.remedy in str(report)
    assert str(report).endswith(report.summary)
    assert repr(report) == f"CheckReport({report.summary})"


def test_only_what_failed_makes_a_report_not_ok():
    found = [Finding(status, "", name=status) for status in ("passed", "note", "warning", "skipped")]
    assert CheckReport(tuple(found)).ok
    report = CheckReport((*found, Finding("failed", "", name="x")))
    assert not report.ok
    assert report.of("failed") == (report["x"],)
    assert report.summary == "1 passed, 1 failed, 1 warning, 1 note, 1 skipped"


# -- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 3.0, 4.0])])
def test_guessing_costs_the_logarithm_of_the_number_of_classes(weights):
    _, y = setups.blobs(40)
    loss = nn.CrossEntropyLoss(weight=weights)
    value, what = guessing("cross_entropy", loss, torch.zeros(40, 4), y)
    assert value == pytest.approx(np.log(4), rel=1e-4)
    assert what == "ln 4"


@pytest.mark.parametrize(
    ("loss_func", "shape", "targets", "meaning"),
    [
        (F.cross_entropy, (5, 4), torch.tensor([0, 1, 2, 3, 0]), "cross_entropy"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), (5, 4), torch.tensor([0, 1, 2, 3, 0]), "cross_entropy"),
        (lambda p, t: F.nll_loss(p.log_softmax(1), t), (5, 4), torch.tensor([0, 1, 2, 3, 0]), "cross_entropy"),
        (
            lambda p, t: F.binary_cross_entropy(p.sigmoid(), t),
            (3, 1),
            torch.tensor([[0.0], [1.0], [0.0]]),
            "bce_logits",
        ),
        (lambda p, t: (p - t).abs().mean(), (3, 1), torch.tensor([[0.5], [1.0], [0.0]]), "l1"),
        (lambda p, t: (p - t).abs().max(), (3, 1), torch.tensor([[0.5], [1.0], [0.0]]), "own"),
    ],
)
def test_what_a_loss_takes_outputs_for_is_seen_from_its_values(loss_func, shape, targets, meaning):
    assert meaning_of(loss_func, torch.zeros(shape), targets) == meaning


@pytest.mark.parametrize("relu", [F.relu, torch.relu, torch.Tensor.relu, nn.ReLU(), nn.ReLU(inplace=True)])
def test_activations_are_seen_however_they_are_called(relu):
    with Activations() as seen:
        relu(torch.tensor([[-1.0, 1.0], [-2.0, -1.0]]))
    assert [layer.kind for layer in seen.layers] == ["relu"]
    assert seen.layers[0].flat.tolist() == [True, False]


@pytest.mark.parametrize("seed", range(5))
def test_a_shuffled_order_is_not_taken_for_a_sorted_one(seed):
    classes = (torch.arange(300) % 10)[rng_order(300, seed)].double()
    assert not like_follows_like(classes, classes=True)
    assert not like_follows_like(torch.arange(300.0)[rng_order(300, seed)], classes=False)
    assert like_follows_like(classes.sort().values, classes=True)


def rng_order(samples, seed):
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed))


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_idx(tmp_path_factory.mktemp("data") / "idx")


def test_the_command_ends_with_0_where_nothing_failed(folder):
    done = clearloop("check", folder, "--model", "mlp", "--hidden", "32")
    assert done.code == 0, done.err
    assert "weights move" in done.out
    assert "at lr 0.003" in " ".join(done.out.split())


def test_the_command_ends_with_1_where_something_failed(folder):
    done = clearloop("check", folder, "--model", "mlp", "--opt", "sgd", "--lr", "1e6", "--json")
    found = {finding["name"]: finding for finding in json.loads(done.out)["findings"]}
    assert done.code == 1
    assert json.loads(done.out)["ok"] is False
    assert found["weights move"]["status"] == "failed"
    assert found["weights move"]["remedy"]


def test_the_command_takes_arrays_and_gives_nothing_but_json(tmp_path):
    x, y = setups.blobs()
    np.savez(tmp_path / "d.npz", x=x.numpy(), y=y.numpy())
    done = clearloop("check", tmp_path / "d.npz", "--json")
    assert done.code == 0
    assert {finding["status"] for finding in json.loads(done.out)["findings"]} <= {"passed", "skipped", "note"}


def test_the_command_refuses_what_cannot_be_read(tmp_path):
    assert clearloop("check", tmp_path / "nothing.npz").code == 2


def test_a_check_of_mnist_takes_seconds():
    learn = Learner(DataLoaders.mnist(128, seed=0), models.linear(784, 10), lr=0.1, seed=0, device="cpu")
    report = looked(learn)
    assert "10,000 validation samples are among 50,000 training samples" in report["no overlap"].found
    assert "1,024 of 50,000 samples" in report["finite numbers"].found


def test_a_learner_checks_itself(capsys):
    learn = Learner(DataLoaders.mnist(seed=0), models.mlp(784, 16, 10), F.cross_entropy, seed=0, device="cpu")
    assert learn.check(lr=0.1).ok
    assert "passed" in capsys.readouterr().out


# -- no alarm where nothing is wrong -----------------------------------------------------------------------------------


def test_twins_across_the_split_are_no_overlap_where_training_samples_have_as_many_as_chance_gives():
    generator = torch.Generator().manual_seed(0)
    tokens = (torch.arange(20)[None] * 3 + torch.randint(0, 200, (600, 1), generator=generator)) % 200
    parts = [TensorDataset(part[:, :-1], part[:, -1] // 100) for part in (tokens[:500], tokens[500:])]
    model = nn.Sequential(nn.EmbeddingBag(200, 16), nn.Linear(16, 2))
    dls = (DataLoader(parts[0], 32, shuffle=True, seed=0), DataLoader(parts[1], 100))
    report = check(Learner(dls, model, F.cross_entropy, lr=0.1, seed=0, device="cpu"), quiet=True)
    assert report["no overlap"].status == "note"


def test_a_regression_on_large_values_is_warned_of_once_and_does_not_fail():
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    dls = DataLoaders.arrays(x, 1e5 * x[:, :1] + 3e5, seed=0)
    torch.manual_seed(0)
    report = check(Learner(dls, nn.Linear(5, 1), F.mse_loss, lr=0.1, seed=0, device="cpu"), quiet=True)
    assert report["targets scaled"].status == "warning"
    assert report["batch over-fitted"].status == "skipped"
    assert report.ok

"""What happens between fits, saves, loads and evaluations: each leaves the others as they were."""

from __future__ import annotations

import functools
import math
import signal

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from clearloop import Checkpoints, DataLoader, EarlyStopping, Learner, TensorDataset, accuracy, models
from clearloop.errors import ConfigError, EjectError, ModelError, NonFiniteError, RunError
from clearloop.weights import named_tensors


def data(samples: int = 40) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(samples, 3, generator=generator), torch.arange(samples) % 2)


def loaders(samples: int = 40):
    return DataLoader(data(samples), 8, shuffle=True, seed=1), DataLoader(data(samples), 16)


def learner(model: nn.Module | None = None, **options) -> Learner:
    torch.manual_seed(0)
    model = models.mlp(3, 4, 2, dropout=0.5) if model is None else model
    return Learner(options.pop("dls", None) or loaders(), model, seed=0, **options)


def same(first: Learner, second: Learner) -> bool:
    pairs = zip(named_tensors(first.model).values(), named_tensors(second.model).values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_validation_on_a_torch_loader_leaves_no_trace_in_training():
    train, _ = loaders()
    torch_loader = torch.utils.data.DataLoader(data(), 16)
    without, with_it = learner(dls=(train, None)), learner(dls=(train, torch_loader))
    without.fit(2, 0.1, quiet=True)
    with_it.fit(2, 0.1, quiet=True)
    assert same(without, with_it)
    before = torch.get_rng_state()
    with_it.validate()
    assert torch.equal(before, torch.get_rng_state())


def test_gradients_that_others_left_take_no_part_in_the_first_step():
    clean, stained = learner(), learner()
    (F.cross_entropy(stained.model(torch.randn(4, 3)), torch.tensor([0, 1, 0, 1])) * 1000).backward()
    clean.fit(1, 0.1, quiet=True)
    stained.fit(1, 0.1, quiet=True)
    assert same(clean, stained)


@pytest.mark.parametrize("change", ["a layer", "a freeze"])
def test_a_model_that_was_changed_after_it_was_built_is_not_rebuilt_unchanged(change, tmp_path):
    from clearloop.eject import eject

    model = models.mlp(3, 4, 2)
    if change == "a layer":
        model[2] = nn.Tanh()
    else:
        model[1].requires_grad_(False)
    learn = learner(model, cbs=Checkpoints(tmp_path / "run"))
    learn.fit(1, 0.1, quiet=True)
    with pytest.raises(ConfigError, match="model="):
        Learner.load(tmp_path / "run", dls=loaders())
    with pytest.raises(EjectError, match="model"):
        eject(tmp_path / "run")


def test_parts_that_a_load_changed_are_those_of_the_next_load(tmp_path):
    learn = learner()
    learn.fit(1, 0.1, quiet=True)
    learn.save(tmp_path / "run")
    again = Learner.load(tmp_path / "run", dls=loaders(), cbs=[Checkpoints(tmp_path / "run", keep=3)])
    again.fit(1, 0.1, quiet=True)
    assert [callback.keep for callback in Learner.load(tmp_path / "run", dls=loaders()).cbs] == [3]


def test_what_ended_inside_a_step_is_not_saved_as_if_it_were_whole(tmp_path):
    from clearloop import Callback

    class Fails(Callback):
        def after_step(self, learn):
            if learn.history.steps == 3:
                raise OSError("gone")

    learn = learner(cbs=Fails())
    with pytest.raises(OSError, match="gone"):
        learn.fit(1, 0.1, quiet=True)
    with pytest.raises(RunError, match="middle of a step"):
        learn.save(tmp_path / "run")


def test_a_save_elsewhere_does_not_move_the_run(tmp_path):
    learn = learner(cbs=Checkpoints(tmp_path / "a"))
    learn.fit(1, 0.1, quiet=True)
    learn.save(tmp_path / "b")
    learn.fit(1, 0.1, quiet=True)
    assert len(Learner.load(tmp_path / "a", dls=loaders()).history.epochs) == 2
    assert len(Learner.load(tmp_path / "b", dls=loaders()).history.epochs) == 1


def test_metrics_of_one_name_keep_apart():
    learn = learner(metrics=[accuracy, accuracy])
    learn.fit(1, 0.1, quiet=True)
    assert list(learn.history.epochs[0].metrics) == ["accuracy", "accuracy_2"]


def test_a_metric_that_cannot_be_computed_is_found_before_the_first_step():
    def typo(preds, targets):
        return preds.meann()

    with pytest.raises(ModelError, match="typo"):
        learner(metrics=typo).fit(1, 0.1, quiet=True)


def test_after_a_lost_loss_the_learner_can_begin_again():
    learn = learner(lr=0.1)
    learn.prepared()
    start = {name: tensor.clone() for name, tensor in named_tensors(learn.model).items()}
    with pytest.raises(NonFiniteError):
        learn.fit(3, 1e30, quiet=True)
    with torch.no_grad():
        for name, tensor in named_tensors(learn.model).items():
            tensor.copy_(start[name])
    with pytest.warns(UserWarning, match="was left at step"):
        learn.fit(1, 0.1, quiet=True)
    assert all(math.isfinite(loss) for loss in learn.history.losses)
    assert len(learn.history.losses) == len(learn.history.lrs) == len(learn.history.counts)


def test_a_second_fit_has_the_momentum_that_the_user_gave():
    learn = learner(opt_func=functools.partial(torch.optim.SGD, momentum=0.9))
    learn.fit(1, 0.1, schedule=functools.partial(OneCycleLR, max_lr=0.1, total_steps=10), quiet=True)
    assert learn.opt.param_groups[0]["momentum"] != 0.9
    learn.fit(1, 0.05, quiet=True)
    assert learn.opt.param_groups[0]["momentum"] == 0.9
    assert learn.opt.param_groups[0]["lr"] == 0.05


def test_groups_with_learning_rates_of_their_own_keep_their_ratio():
    def two_groups(parameters, lr):
        return torch.optim.SGD([{"params": parameters[:2], "lr": 0.0}, {"params": parameters[2:]}], lr=lr)

    learn = learner(models.mlp(3, 4, 2), opt_func=two_groups)
    before = learn.model[1].weight.detach().clone()
    learn.fit(1, 0.1, quiet=True)
    assert [group["lr"] for group in learn.opt.param_groups] == [0.0, 0.1]
    assert torch.equal(before, learn.model[1].weight)


def test_a_new_fit_has_all_its_patience():
    learn = learner(cbs=EarlyStopping(patience=2, min_delta=100.0))
    learn.fit(10, 0.1, quiet=True)
    stopped = learn.epoch
    learn.fit(10, 0.1, quiet=True)
    assert learn.epoch == stopped + 2


def test_an_interrupted_validation_leaves_nothing_in_metrics_with_a_state_of_their_own():
    class Right:
        def reset(self):
            self.right = self.seen = 0

        def update(self, preds, targets):
            self.right += int((preds.argmax(1) == targets).sum())
            self.seen += len(targets)

        def compute(self):
            return self.right / self.seen

    metric = Right()
    metric.reset()
    learn = learner(metrics=[metric, accuracy])

    def broken():
        yield data()[:16]
        raise KeyboardInterrupt

    class Broken:
        def __iter__(self):
            return broken()

    with pytest.raises(KeyboardInterrupt):
        learn.validate(Broken())
    _, ours, theirs = learn.validate()
    assert ours == theirs


def test_one_loader_alone_is_training_without_validation():
    learn = learner(dls=loaders()[0])
    learn.fit(1, 0.1, quiet=True)
    assert learn.history.epochs[0].valid_loss is None


def test_a_callback_class_in_place_of_an_object_is_refused():
    with pytest.raises(ConfigError, match="cbs takes callbacks"):
        learner(cbs=EarlyStopping)


def test_without_lr_the_optimizers_own_is_used():
    learn = learner(opt_func=torch.optim.Adam)
    learn.fit(1, quiet=True)
    assert learn.history.lrs[0] == 1e-3


def test_ignored_labels_are_left_out_of_every_mean():
    labels = torch.arange(40) % 2
    labels[::3] = -100
    inputs = data().tensors[0]
    values = []
    for batch_size in (5, 40):
        dataset = TensorDataset(inputs, labels)
        learn = learner(models.mlp(3, 4, 2), dls=(DataLoader(dataset, 8), DataLoader(dataset, batch_size)))
        values.append(learn.validate()[0])
    assert values[0] == pytest.approx(values[1], rel=1e-6)


class Deafness:
    """Items that say whether the process that makes them ignores Ctrl-C."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return int(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)


def test_workers_leave_ctrl_c_to_their_parent():
    assert torch.cat(list(DataLoader(Deafness(), 2, num_workers=1))).tolist() == [1, 1, 1, 1]
    assert torch.cat(list(DataLoader(Deafness(), 2))).tolist() == [0, 0, 0, 0]

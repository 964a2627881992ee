"""What loggers write is what happened, also where a run was killed and goes on; where the time went adds up."""

from __future__ import annotations

import csv
import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clearloop import (
    Checkpoints,
    ConfigError,
    CSVLogger,
    DataLoader,
    EarlyStopping,
    Learner,
    TensorBoard,
    TensorDataset,
    Timing,
    durable,
    nvml,
)
from clearloop.callback import Callback
from clearloop.callbacks.logger import Logger, package, settings
from clearloop.callbacks.timing import EpochTimes, read_times
from clearloop.errors import StorageError
from cli_tools import clearloop, write_idx
from test_callbacks import learner


class Memory(Logger):
    """Keeps what it is told."""

    def __init__(self, every=2):
        super().__init__(every)
        self.calls = []

    def open(self, learn):
        self.calls.append("open")

    def write(self, values, step, epoch):
        self.calls.append((step, epoch, values))

    def close(self, learn):
        self.calls.append("close")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# -- what every logger is told -----------------------------------------------------------------------------------------


def test_a_logger_hears_of_steps_at_its_interval_and_of_every_epoch():
    logger = Memory(every=2)
    learn = learner(logger)
    learn.fit(2, quiet=True)
    assert (logger.calls[0], logger.calls[-1]) == ("open", "close")
    steps = [(step, epoch) for step, epoch, values in logger.calls[1:-1] if "step_loss" in values]
    assert steps == [(2, 0), (4, 0), (6, 1), (8, 1)]
    losses, counts = learn.history.losses, learn.history.counts
    told = [values["step_loss"] for *_, values in logger.calls[1:-1] if "step_loss" in values]
    expected = [
        sum(loss * n for loss, n in zip(losses[i : i + 2], counts[i : i + 2], strict=True)) / sum(counts[i : i + 2])
        for i in (0, 2, 4, 6)
    ]
    assert told == pytest.approx(expected, abs=1e-12)
    epochs = [(step, epoch, values) for step, epoch, values in logger.calls[1:-1] if "train_loss" in values]
    assert [(step, epoch) for step, epoch, _ in epochs] == [(4, 0), (8, 1)]
    for (*_, values), record in zip(epochs, learn.history.epochs, strict=True):
        assert values["valid_loss"] == record.valid_loss
        assert values["accuracy"] == record.metrics["accuracy"]
        assert values["seconds"] == record.seconds


def test_without_an_interval_a_logger_hears_of_epochs_alone():
    logger = Memory(every=None)
    learner(logger, valid=False).fit(2, quiet=True)
    assert [sorted(values) for _, _, values in logger.calls[1:-1]] == [["seconds", "train_loss"]] * 2


def test_a_logger_is_closed_when_a_fit_fails_and_not_when_it_was_never_opened():
    class Fails(Callback):
        def after_epoch(self, learn):
            raise ZeroDivisionError

    class Refuses(Memory):
        def open(self, learn):
            raise ConfigError("no")

    logger = Memory()
    with pytest.raises(ZeroDivisionError):
        learner([logger, Fails()]).fit(1, quiet=True)
    assert logger.calls[-1] == "close"
    refused = Refuses()
    with pytest.raises(ConfigError, match="no"):
        learner(refused).fit(1, quiet=True)
    assert refused.calls == []


@pytest.mark.parametrize("every", [0, -1])
def test_an_interval_below_one_step_is_refused(every):
    with pytest.raises(ConfigError, match="every must be a number of steps"):
        Memory(every)


@pytest.mark.parametrize("make", [CSVLogger, TensorBoard])
def test_a_logger_without_a_folder_or_a_run_is_refused_before_the_first_step(make):
    learn = learner(make())
    with pytest.raises(ConfigError, match="knows no folder"):
        learn.fit(1, quiet=True)
    assert learn.history.steps == 0


def test_a_missing_package_says_what_to_install():
    with pytest.raises(ConfigError, match=r'pip install "clearloop\[wandb\]"'):
        package("no_such_package", "wandb")


def test_settings_are_flat_and_short():
    found = settings(learner())
    assert found["lr"] == 0.1
    assert found["batch_size"] == 8
    assert found["opt_func"] == "SGD"
    assert found["loss_func"] == "cross_entropy"
    assert found["parameters"] == sum(parameter.numel() for parameter in learner().model.parameters())
    assert all(isinstance(value, (int, float, str)) for value in found.values())


class Breaks(Memory):
    """Its target is gone after some calls."""

    def write(self, values, step, epoch):
        super().write(values, step, epoch)
        if len(self.calls) > 2:
            raise OSError(28, "No space left on device")

    def abandon(self):
        self.calls.append("abandon")


def test_a_logger_that_fails_while_training_ends_the_logging_and_not_the_run():
    logger = Breaks()
    learn = learner(logger)
    with pytest.warns(RuntimeWarning, match="Breaks logs no further .*No space left.*; training goes on") as said:
        learn.fit(2, quiet=True)
    assert (len(said), len(learn.history.epochs), learn.whole) == (1, 2, True)
    assert logger.calls[-1] == "abandon"
    assert len(logger.calls) == 4  # open, two writes, and no word after that


def test_a_target_that_fails_at_the_end_does_not_make_a_finished_fit_a_failed_one():
    class Ends(Memory):
        def close(self, learn):
            raise ConnectionError("gone")

    learn = learner(Ends())
    with pytest.warns(RuntimeWarning, match="Ends logs no further"):
        learn.fit(1, quiet=True)
    assert learn.failure is None


def test_a_logger_that_cannot_be_opened_lets_go_of_what_it_holds_and_the_fit_does_not_begin():
    class Half(Breaks):
        def open(self, learn):
            raise OSError("half way")

    logger = Half()
    learn = learner(logger)
    with pytest.raises(OSError, match="half way"):
        learn.fit(1, quiet=True)
    assert (logger.calls, learn.history.steps) == (["abandon"], 0)


# -- CSV ---------------------------------------------------------------------------------------------------------------


def test_the_csv_file_holds_the_history(tmp_path):
    learn = learner([CSVLogger(every=3), Checkpoints(tmp_path / "run")])
    learn.fit(2, quiet=True)
    found = rows(tmp_path / "run" / "metrics.csv")
    assert list(found[0]) == [
        *("step", "epoch", "step_loss", "lr", "train_loss", "valid_loss", "accuracy", "error_rate", "seconds")
    ]
    assert [row["step"] for row in found] == ["3", "4", "7", "8"]
    ends = [row for row in found if row["train_loss"]]
    for row, record in zip(ends, learn.history.epochs, strict=True):
        assert float(row["train_loss"]) == record.train_loss
        assert float(row["accuracy"]) == record.metrics["accuracy"]
        assert row["step_loss"] == ""
    assert float(found[0]["lr"]) == 0.1


def test_a_resumed_run_has_the_csv_file_of_the_run_that_never_stopped(tmp_path):
    class Dies(Callback):
        order = 200  # after what was logged and saved

        def after_step(self, learn):
            if learn.history.steps == 7:
                raise MemoryError

    whole = learner([CSVLogger(every=1), Checkpoints(tmp_path / "whole", every=2)])
    whole.fit(2, quiet=True)
    cut = learner([CSVLogger(every=1), Checkpoints(tmp_path / "cut", every=2), Dies()])
    with pytest.raises(MemoryError):
        cut.fit(2, quiet=True)
    assert rows(tmp_path / "cut" / "metrics.csv")[-1]["step"] == "7"  # and the newest checkpoint is of step 6
    with (tmp_path / "cut" / "metrics.csv").open("a") as file:
        file.write("8,1,0.")  # a row that was cut off
    again = learner([CSVLogger(every=1), Checkpoints(tmp_path / "cut", every=2)])
    loaded = Learner.load(tmp_path / "cut", dls=again.dls, model=again.model, cbs=again.cbs)
    assert loaded.history.steps == 6
    loaded.resume(quiet=True)
    for left, right in zip(
        rows(tmp_path / "cut" / "metrics.csv"), rows(tmp_path / "whole" / "metrics.csv"), strict=True
    ):
        assert {**left, "seconds": ""} == {**right, "seconds": ""}


def test_a_second_fit_goes_on_in_the_same_csv_file(tmp_path):
    learn = learner(CSVLogger(every=None, folder=tmp_path / "logs"))
    learn.fit(1, quiet=True)
    learn.fit(2, quiet=True)
    assert [row["epoch"] for row in rows(tmp_path / "logs" / "metrics.csv")] == ["0", "1", "2"]


def test_the_csv_file_of_another_run_is_not_overwritten(tmp_path):
    learner(CSVLogger(folder=tmp_path)).fit(1, quiet=True)
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(ConfigError, match="of another run"):
        learner(CSVLogger(folder=tmp_path)).fit(1, quiet=True)
    other = learner(metrics=())
    other.fit(1, quiet=True)
    other.cbs.append(CSVLogger(folder=tmp_path))
    with pytest.raises(ConfigError, match="has other columns"):
        other.fit(1, quiet=True)
    assert (tmp_path / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("text", [b"x,0", b"1", b"\xff,\xfe,1", b""])
def test_a_csv_file_that_is_no_log_is_refused_with_a_typed_error(tmp_path, text):
    learn = learner(CSVLogger(every=None, folder=tmp_path))
    learn.fit(1, quiet=True)
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes() + text + b"\n")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="other columns"):
        learn.fit(1, quiet=True)
    assert path.read_bytes() == before


def test_names_with_commas_quotes_and_newlines_are_columns_all_the_same(tmp_path):
    from clearloop.metrics import mean_metric

    name = '=odd, "name"\nof a metric'
    learn = learner(CSVLogger(every=2, folder=tmp_path), metrics=mean_metric(name, lambda preds, targets: 0.5))
    learn.fit(1, quiet=True)
    learn.fit(1, quiet=True)
    assert [row[name] for row in rows(tmp_path / "metrics.csv") if row["train_loss"]] == ["0.5", "0.5"]


def test_loggers_come_back_with_a_run_that_is_loaded_and_write_into_its_folder(tmp_path):
    from clearloop import DataLoaders, models
    from clearloop.saving import described

    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    learn = Learner(
        DataLoaders.arrays(x, (x[:, 0] > 0).long(), batch_size=8, seed=0), models.mlp(3, 4, 2), device="cpu"
    )
    learn.cbs = [CSVLogger(every=1, folder=tmp_path / "elsewhere"), TensorBoard(every=5, histograms=False)]
    recorded = described(learn)["callbacks"]
    assert recorded[0] == {"path": "clearloop.callbacks.csv_logger:CSVLogger", "kwargs": {"every": 1}}
    assert recorded[1]["kwargs"] == {"every": 5, "histograms": False}


# -- TensorBoard -------------------------------------------------------------------------------------------------------

pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sizes = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(folder / "tensorboard"), size_guidance=sizes).Reload()


def pictures(cbs, metrics=()):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(30, 1, 8, 8, generator=generator)
    data = TensorDataset(x, (x.mean(dim=(1, 2, 3)) > 0).long())
    dls = (DataLoader(data, 8, shuffle=True, seed=0), DataLoader(data, 16))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(72, 2))
    return Learner(dls, net, F.cross_entropy, lr=0.1, cbs=cbs, seed=0, device="cpu", metrics=metrics)


def test_tensorboard_reads_back_scalars_histograms_pictures_graph_and_settings(tmp_path):
    learn = pictures([TensorBoard(every=2, folder=tmp_path)])
    learn.fit(2, quiet=True)
    found = events(tmp_path)
    assert [event.step for event in found.Scalars("step_loss")] == [2, 4, 6, 8]
    for event, record in zip(found.Scalars("valid_loss"), learn.history.epochs, strict=True):
        assert event.value == pytest.approx(record.valid_loss, rel=1e-6)
        assert event.step == record.steps
    tags = found.Tags()
    assert tags["images"] == ["inputs"]  # one grid of eight
    assert tags["graph"]
    names = [name for name, _ in learn.model.named_parameters()]
    assert sorted(tags["histograms"]) == sorted(f"{kind}/{name}" for kind in ("weights", "gradients") for name in names)
    last = found.Histograms("weights/4.weight")[-1]
    weight = learn.model[4].weight
    assert (last.step, last.histogram_value.num) == (8, weight.numel())
    assert last.histogram_value.min == pytest.approx(weight.min().item())
    assert found.SummaryMetadata("_hparams_/session_start_info")


def test_gradients_in_tensorboard_are_those_of_the_epochs_first_batch(tmp_path):
    class Keeps(Callback):
        """Takes the same gradient by hand, before the first step of an epoch."""

        sums: list[float]

        def before_step(self, learn):
            if learn.step == 0:
                inputs, targets = learn.window[0]
                gradients = torch.autograd.grad(F.cross_entropy(learn.model(inputs), targets), learn.model[0].weight)
                self.sums.append(gradients[0].double().sum().item())

    keeps = Keeps()
    keeps.sums = []
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3))
    generator = torch.Generator().manual_seed(2)
    data = TensorDataset(torch.randn(30, 4, generator=generator), torch.randint(3, (30,), generator=generator))
    learn = Learner((DataLoader(data, 8), None), net, lr=0.1, cbs=[TensorBoard(folder=tmp_path), keeps], device="cpu")
    learn.fit(3, quiet=True)
    logged = [event.histogram_value.sum for event in events(tmp_path).Histograms("gradients/0.weight")]
    # by hand the hook fires too, so what is kept first is the same gradient twice
    assert logged == pytest.approx(keeps.sums, abs=1e-6)


def test_gradients_in_tensorboard_are_not_those_of_a_scaled_loss(tmp_path):
    logger = TensorBoard(folder=tmp_path)
    learn = learner(logger)
    learn.scaler = SimpleNamespace(get_scale=lambda: 1024.0)
    logger._writer = SimpleNamespace(add_histogram=lambda name, values, step: found.append((name, values)))
    logger._writer.flush = lambda: None
    found = []
    logger.before_epoch(learn)
    loss = learn.model(torch.ones(2, 4)).sum()
    gradient = torch.autograd.grad(loss, learn.model[0].bias, retain_graph=True)[0]
    (loss * 1024.0).backward()
    logger.look(learn)
    logger._let_go()
    assert torch.allclose(dict(found)["gradients/0.bias"], gradient)


def test_after_a_resume_tensorboard_shows_each_step_once(tmp_path):
    class Dies(Callback):
        order = 200

        def after_step(self, learn):
            if learn.history.steps == 7:
                raise MemoryError

    learn = pictures([TensorBoard(every=1), Checkpoints(tmp_path, every=2), Dies()])
    with pytest.raises(MemoryError):
        learn.fit(2, quiet=True)
    fresh = pictures([TensorBoard(every=1), Checkpoints(tmp_path, every=2)])
    loaded = Learner.load(tmp_path, dls=fresh.dls, model=fresh.model, cbs=fresh.cbs)
    loaded.resume(quiet=True)
    assert [event.step for event in events(tmp_path).Scalars("step_loss")] == list(range(1, 9))


def test_a_model_that_cannot_be_traced_is_trained_all_the_same(tmp_path):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x):
            if torch.jit.is_tracing():
                raise RuntimeError("not to be traced")
            return self.inner(x)

    learn = learner(TensorBoard(folder=tmp_path))
    learn.model = Branches()
    learn = Learner(learn.dls, Branches(), lr=0.1, cbs=TensorBoard(folder=tmp_path), device="cpu")
    learn.fit(1, quiet=True)
    assert not events(tmp_path).Tags()["graph"]


def test_weights_that_are_not_finite_are_left_out_of_tensorboard(tmp_path):
    class Spoils(Callback):
        order = 0

        def after_epoch(self, learn):
            with torch.no_grad():
                learn.model[0].bias[0] = torch.nan

    learn = learner([TensorBoard(folder=tmp_path), Spoils()])
    learn.fit(1, quiet=True)
    names = events(tmp_path).Tags()["histograms"]
    assert "weights/0.weight" in names
    assert "weights/0.bias" not in names


# -- where the time goes -----------------------------------------------------------------------------------------------


class Slow(Callback):
    def after_epoch(self, learn):
        time.sleep(0.05)


def slow_items():
    class Items:
        def __len__(self):
            return 16

        def __getitem__(self, index):
            time.sleep(0.01)
            return torch.ones(4), index % 3

    return Items()


@pytest.fixture(autouse=True)
def no_epoch_is_short(monkeypatch):
    monkeypatch.setattr("clearloop.callbacks.timing.SHORT_S", 0.0)


def times_of(train, valid=None, model=None, cbs=()):
    timing, lines = None, []
    timing = Timing(log=lines.append)
    learn = Learner((train, valid), model or nn.Linear(4, 3), F.cross_entropy, lr=0.1, cbs=[timing, *cbs], device="cpu")
    learn.fit(2, quiet=True)
    assert [record.epoch for record in timing.records] == [0, 1]
    return timing.records[1], lines[1], learn


def small():
    return TensorDataset(torch.randn(16, 4), torch.arange(16) % 3)


def test_time_spent_on_slow_items_is_datas():
    record, line, _ = times_of(DataLoader(slow_items(), 4))
    assert record.data > 0.1
    assert max(record.parts(), key=lambda part: record.parts()[part]) == "data"
    assert "num_workers" in line


def test_time_spent_in_a_callback_is_that_callbacks():
    record, line, learn = times_of(DataLoader(small(), 4), cbs=[Slow(), EarlyStopping("train_loss", 9)])
    assert record.callbacks["Slow"] > 0.04
    assert record.callbacks["EarlyStopping"] < 0.02
    assert "most of it in Slow" in line
    assert all("after_epoch" not in vars(callback) for callback in learn.cbs)  # measured no longer
    assert not {"batches", "load"} & vars(learn.dls.train).keys()


def test_time_spent_on_validation_is_validations():
    record, line, _ = times_of(DataLoader(small(), 16), DataLoader(slow_items(), 4))
    assert record.validation > 0.1
    assert "smaller validation set" in line


def test_a_validation_that_a_callback_asks_for_is_that_callbacks_time_once():
    class Looks(Callback):
        def after_epoch(self, learn):
            learn.validate(learn.dls.train)

    record, _, _ = times_of(DataLoader(slow_items(), 4), cbs=[Looks()])
    assert record.callbacks["Looks"] > 0.1
    assert 0.1 < record.data < 0.1 + record.callbacks["Looks"]
    assert record.validation < 0.05
    assert record.data < 1.6 * record.callbacks["Looks"]  # sixteen items each, not twice as many


def test_measuring_stops_with_the_fit_and_a_fit_inside_leaves_the_outer_one_its_measures():
    dls = (DataLoader(small(), 4), None)
    outer = Timing(log=lambda line: None)

    class Inner(Callback):
        def after_epoch(self, learn):
            Learner(dls, nn.Linear(4, 3), cbs=Timing(log=lambda line: None), device="cpu").fit(1, quiet=True)
            assert {"batches", "load"} & vars(learn.dls.train).keys()

    learn = Learner(dls, nn.Linear(4, 3), cbs=[outer, Inner()], device="cpu")
    learn.fit(2, quiet=True)
    assert outer.records[1].data > 0
    assert not {"batches", "load"} & vars(dls[0]).keys()


def test_a_training_that_stops_early_closes_the_loaders_batches():
    closed = []

    class Loader(DataLoader):
        def batches(self, *args, **kwargs):
            try:
                yield from super().batches(*args, **kwargs)
            finally:
                closed.append(True)

    class Dies(Callback):
        def after_step(self, learn):
            raise MemoryError

    learn = Learner((Loader(small(), 4), None), nn.Linear(4, 3), cbs=[Timing(), Dies()], device="cpu")
    measured = Timing(log=lambda line: None)
    batches = measured._timed_batches(learn.dls.train.batches)(0)
    next(batches)
    batches.close()
    assert closed == [True]
    with pytest.raises(MemoryError):
        learn.fit(1, quiet=True)
    assert not {"batches", "load"} & vars(learn.dls.train).keys()


def test_times_that_cannot_be_written_do_not_end_the_run(tmp_path, monkeypatch):
    def full(path, data, real=durable.write_file):
        if path.name == "times.jsonl":
            raise StorageError("no space left")
        real(path, data)

    monkeypatch.setattr(durable, "write_file", full)
    learn = learner([Timing(log=lambda line: None), Checkpoints(tmp_path / "run")])
    with pytest.warns(RuntimeWarning, match="Timing writes no further"):
        learn.fit(2, quiet=True)
    assert len(learn.history.epochs) == 2


def test_time_spent_in_the_model_is_computes():
    class Sleeps(nn.Linear):
        def forward(self, x):
            time.sleep(0.01)
            return super().forward(x)

    record, line, _ = times_of(DataLoader(small(), 2), model=Sleeps(4, 3))
    assert record.compute > 0.05
    assert "the model itself" in line


def test_an_epoch_that_is_over_at_once_needs_no_advice(monkeypatch):
    monkeypatch.setattr("clearloop.callbacks.timing.SHORT_S", 100.0)
    assert times_of(DataLoader(small(), 4))[1].endswith("too short to be worth a change")


def test_times_of_all_epochs_are_in_the_runs_folder_also_after_a_resume(tmp_path):
    class Dies(Callback):
        order = 2000

        def after_epoch(self, learn):
            if len(learn.history.epochs) == 2:
                raise MemoryError

    quiet = {"log": lambda line: None}
    learn = learner([Timing(**quiet), Checkpoints(tmp_path / "run"), Dies()])
    with pytest.raises(MemoryError):
        learn.fit(3, quiet=True)
    path = tmp_path / "run" / "times.jsonl"
    path.write_bytes(path.read_bytes() + b'{"epoch": 2, "da')  # a line that was cut off
    fresh = learner([Timing(**quiet), Checkpoints(tmp_path / "run")])
    loaded = Learner.load(tmp_path / "run", dls=fresh.dls, model=fresh.model, cbs=fresh.cbs)
    loaded.resume(quiet=True)
    times = read_times(path)
    assert [line["epoch"] for line in times] == [0, 1, 2]
    assert set(times[0]) == {"epoch", "data", "compute", "validation", "callbacks", "each"}
    assert times[2]["each"]["Checkpoints"] > 0


def test_the_parts_of_an_epoch_add_up_to_all_of_it():
    record = EpochTimes(0, 1.0, 2.0, 3.0, {"A": 0.5, "B": 0.5})
    assert record.total == 7.0
    assert str(record) == "data 14 %, compute 29 %, validation 43 %, callbacks 14 % of 7.0 s"


# -- what a GPU does ---------------------------------------------------------------------------------------------------


class FakeNVML(SimpleNamespace):
    """Answers as NVML would; a card that does not know its power."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        assert uuid == "GPU-1234"
        return "card"

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=87)

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(used=5.1e9, total=80e9)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 61

    def nvmlDeviceGetPowerUsage(self, handle):
        raise self.NVMLError


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNVML())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1234"))
    nvml._handle.cache_clear()
    yield
    nvml._handle.cache_clear()


def test_a_gpus_reading_has_what_its_driver_tells(card):
    reading = nvml.read(torch.device("cuda"))
    assert str(reading) == "GPU 87 % 5.1/80 GB 61 °C"
    assert reading.numbers() == {
        "gpu_load_percent": 87.0,
        "gpu_memory_gb": 5.1,
        "gpu_memory_total_gb": 80.0,
        "gpu_temperature_c": 61.0,
    }


def test_other_devices_have_no_reading(card):
    assert nvml.read(torch.device("cpu")) is None


def test_without_nvml_there_is_no_reading(monkeypatch):
    nvml._handle.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.read(torch.device("cuda:0")) is None
    nvml._handle.cache_clear()


def test_readings_of_a_gpu_go_to_the_loggers(card, monkeypatch):
    monkeypatch.setattr(nvml, "read", lambda device: nvml.Reading(50.0, 1.0, 2.0, 40.0, 100.0))
    logger = Memory(every=4)
    learner(logger).fit(1, quiet=True)
    assert logger.calls[1][2]["gpu_power_w"] == 100.0


# -- on the command line -----------------------------------------------------------------------------------------------


def test_a_run_of_the_command_line_logs_where_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "digits", 200, 50)
    options = ("--model", "linear", "-n", "2", "-b", "20", "-q")
    done = clearloop("train", "digits", *options, "--log", "csv", "--log", "tensorboard", "--log", "csv")
    assert (done.code, done.err) == (0, "")
    run = tmp_path / "runs" / "digits-1"
    ends = [row for row in rows(run / "metrics.csv") if row["train_loss"]]
    assert [row["step"] for row in ends] == ["10", "20"]
    assert [event.step for event in events(run).Scalars("valid_loss")] == [10, 20]
    assert [line["epoch"] for line in read_times(run / "times.jsonl")] == [0, 1]
    recorded = json.loads((run / "recipe.json").read_text())["callbacks"]
    assert [callback["path"].split(":")[1] for callback in recorded] == ["Checkpoints", "CSVLogger", "TensorBoard"]


def test_a_logger_whose_package_is_missing_is_refused_before_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    write_idx(tmp_path / "digits", 200, 50)
    done = clearloop("train", "digits", "--model", "linear", "--log", "mlflow")
    assert done.code == 2
    assert 'pip install "clearloop[mlflow]"' in done.err
    assert not (tmp_path / "runs").exists()

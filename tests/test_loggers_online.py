"""Weights & Biases and MLflow, offline, with the real packages; `make test-loggers` installs them."""

from __future__ import annotations

import json

import pytest

from clearloop import Checkpoints, Learner, MLflow, WandB
from clearloop.callback import Callback
from test_callbacks import learner


class Dies(Callback):
    order = 200

    def after_step(self, learn):
        if learn.history.steps == 7:
            raise MemoryError


def resumed(folder, make):
    """A run of 8 steps that died after the 7th and went on from the checkpoint after the 6th."""
    cut = learner([make(), Checkpoints(folder, every=2), Dies()])
    with pytest.raises(MemoryError):
        cut.fit(2, quiet=True)
    fresh = learner([make(), Checkpoints(folder, every=2)])
    loaded = Learner.load(folder, dls=fresh.dls, model=fresh.model, cbs=fresh.cbs)
    loaded.resume(quiet=True)
    return loaded


class TestMLflow:
    @pytest.fixture
    def uri(self, tmp_path):
        pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed; make test-loggers")
        pytest.importorskip("sqlalchemy")
        return f"sqlite:///{tmp_path / 'mlflow.db'}"

    @pytest.mark.filterwarnings("ignore")
    def test_a_runs_numbers_and_settings_read_back(self, uri, tmp_path):
        import mlflow

        learn = learner([MLflow("digits", every=2, tracking_uri=uri), Checkpoints(tmp_path / "run-1")])
        learn.fit(2, quiet=True)
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name("digits")
        (run,) = client.search_runs([experiment.experiment_id])
        assert (run.info.status, run.info.run_name) == ("FINISHED", "run-1")
        assert run.data.params["lr"] == "0.1"
        losses = client.get_metric_history(run.info.run_id, "valid_loss")
        assert [(metric.step, metric.value) for metric in losses] == [
            (record.steps, record.valid_loss) for record in learn.history.epochs
        ]
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, "step_loss")] == [2, 4, 6, 8]

    @pytest.mark.filterwarnings("ignore")
    def test_a_resumed_run_is_the_same_run_there(self, uri, tmp_path):
        import mlflow

        resumed(tmp_path / "run", lambda: MLflow(every=1, tracking_uri=uri))
        client = mlflow.MlflowClient(uri)
        (run,) = client.search_runs([client.get_experiment_by_name("clearloop").experiment_id])
        assert run.info.status == "FINISHED"
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "step_loss")]
        assert sorted(set(steps)) == list(range(1, 9))


class TestWandB:
    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch, tmp_path):
        pytest.importorskip("wandb", reason="the extra `wandb` is not installed; make test-loggers")
        for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}.items():
            monkeypatch.setenv(name, value)
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            monkeypatch.setenv(name, str(tmp_path / "home"))

    @pytest.mark.filterwarnings("ignore")
    def test_a_runs_numbers_reach_the_offline_file(self, tmp_path):
        learn = learner([WandB("digits", every=2), Checkpoints(tmp_path / "run-1")])
        learn.fit(2, quiet=True)
        found = records(tmp_path / "run-1")
        ends = [row for row in found if "valid_loss" in row]
        assert [(row["step"], row["valid_loss"]) for row in ends] == [
            (record.steps, record.valid_loss) for record in learn.history.epochs
        ]
        assert [row["step"] for row in found if "step_loss" in row] == [2, 4, 6, 8]

    @pytest.mark.filterwarnings("ignore")
    def test_a_resumed_run_is_the_same_run_there(self, tmp_path):
        resumed(tmp_path / "run", lambda: WandB(every=1))
        files = sorted((tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb"))
        assert len(files) == 2
        assert len({path.stem for path in files}) == 1  # one id


def records(folder):
    """The history in wandb's own file: a log of protocol buffers in blocks of 32 KiB, as LevelDB writes them."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, found, at, parts = path.read_bytes(), [], 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found

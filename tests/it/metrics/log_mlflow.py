"""Logs to MLflow as a training script does; writes what it logged to said.json, to be compared with what came back."""

import json
import math
import os
import tempfile

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

said = {"metrics": [], "params": {}, "artifacts": {}, "version": mlflow.__version__}


def metric(prefix, key, value, step):
    said["metrics"].append([prefix + key, value if math.isfinite(value) else str(value), step])


def artifact(path, text):
    said["artifacts"][path] = text


mlflow.set_experiment("churn")
with mlflow.start_run() as run:
    mlflow.log_param("lr", 0.125)
    mlflow.log_params({"layers": [1, 2], "optimizer": "adam", "key": os.environ.get("WORD", "none")})
    said["params"].update({"lr": "0.125", "layers": "[1, 2]", "optimizer": "adam", "key": os.environ.get("WORD", "none")})
    mlflow.set_tag("stage", "train")
    said["params"]["tag/stage"] = "train"
    for step in range(120):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        metric("", "loss", 1 / (step + 1), step)
    mlflow.log_metrics({"val/f1": 0.5, "val/auc": 0.875}, step=119)
    metric("", "val/f1", 0.5, 119)
    metric("", "val/auc", 0.875, 119)
    mlflow.log_metric("bad", float("nan"), step=1)
    mlflow.log_metric("worse", float("-inf"), step=1)
    metric("", "bad", float("nan"), 1)
    metric("", "worse", float("-inf"), 1)

    # A batch of the client's own, as autologging sends it.
    client = MlflowClient()
    batch = [Metric("lrate", 0.5**step, 1700000000000 + step, step) for step in range(900)]
    client.log_batch(run.info.run_id, batch, [Param(f"p{i}", str(i)) for i in range(90)], [RunTag("kind", "batch")])
    for m in batch:
        metric("", m.key, m.value, m.step)
    said["params"].update({f"p{i}": str(i) for i in range(90)} | {"tag/kind": "batch"})

    # Artifacts: up, listed, down.
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "weights.txt")
        with open(path, "w") as file:
            file.write("w" * 100_000)
        mlflow.log_artifact(path)
        mlflow.log_text("a note", "notes/deep/note ü.txt")
        mlflow.log_dict({"a": 1}, "notes/dict.json")
        artifact("mlflow/weights.txt", "w" * 100_000)
        artifact("mlflow/notes/deep/note ü.txt", "a note")
        listed = sorted((f.path, f.is_dir, f.file_size) for f in client.list_artifacts(run.info.run_id))
        assert listed == [("notes", True, None), ("weights.txt", False, 100_000)], listed
        deep = [f.path for f in client.list_artifacts(run.info.run_id, "notes")]
        assert deep == ["notes/deep", "notes/dict.json"], deep
        back = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="notes", dst_path=folder)
        with open(os.path.join(back, "deep", "note ü.txt")) as file:
            assert file.read() == "a note"

    # What the client reads back is what it wrote.
    read = client.get_run(run.info.run_id)
    assert read.data.params["optimizer"] == "adam" and read.data.metrics["loss"] == 1 / 120, read.data
    assert math.isnan(read.data.metrics["bad"]) and read.data.tags["stage"] == "train"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [m.step for m in history] == list(range(120)), len(history)
    assert [r.info.run_id for r in client.search_runs([run.info.experiment_id])] == [run.info.run_id]

    # A data set, as autologging reports it.
    client.log_inputs(
        run.info.run_id,
        [
            mlflow.entities.DatasetInput(
                mlflow.entities.Dataset("people", "abc123", "local", "{}"),
                [mlflow.entities.InputTag("mlflow.data.context", "train")],
            )
        ],
    )
    said["params"]["dataset/train/people"] = "abc123"

    for fold in range(3):
        with mlflow.start_run(run_name=f"fold-{fold}", nested=True):
            mlflow.log_metric("loss", fold + 0.5, step=fold)
            mlflow.log_param("fold", fold)
            metric(f"fold-{fold}/", "loss", fold + 0.5, fold)
            said["params"][f"fold-{fold}/fold"] = str(fold)

    # A model as of MLflow 3: made, filled, finished.
    model = mlflow.initialize_logged_model("classifier", source_run_id=run.info.run_id, params={"depth": "3"})
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "MLmodel"), "w") as file:
            file.write("flavors: {}\n")
        client.log_model_artifacts(model.model_id, folder)
    mlflow.finalize_logged_model(model.model_id, "READY")
    assert mlflow.get_logged_model(model.model_id).status == "READY"
    artifact("mlflow/models/classifier/MLmodel", "flavors: {}\n")

# A second script of the same step: its own run, whose names are plain as long as they are new.
with mlflow.start_run():
    mlflow.log_metric("accuracy", 0.9375)
    mlflow.log_metric("loss", 7.0, step=3)
    mlflow.log_text("second", "notes/second.txt")
    metric("", "accuracy", 0.9375, 0)
    metric("run-2/", "loss", 7.0, 3)
    artifact("mlflow/run-2/notes/second.txt", "second")

# What is not served is refused in words, as any server would.
try:
    MlflowClient().create_registered_model("x")
    raise SystemExit("a registry answered")
except mlflow.MlflowException as refused:
    assert refused.error_code == "ENDPOINT_NOT_FOUND", refused

with open("said.json", "w") as file:
    json.dump(said, file)

"""Logs with DVCLive and tensorboardX, and writes files as Hugging Face's Trainer, Lightning, Keras, lm-eval and pytest lay
them out; what was logged goes to said.json."""

import importlib.metadata
import json
import os
import struct

said = {"metrics": [], "params": {}, "artifacts": {}, "versions": {}, "counts": {}}


def metric(source, name, value, step):
    said["metrics"].append([name, value, step])
    said["counts"][source] = said["counts"].get(source, 0) + 1


def single(value):
    """The value that is left of it in four bytes."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def dvclive():
    from dvclive import Live

    said["versions"]["dvclive"] = importlib.metadata.version("dvclive")
    with Live(save_dvc_exp=False, dvcyaml=None) as live:
        live.log_params({"depth": 3, "model": {"width": 8}})
        said["params"].update({"depth": "3", "model.width": "8"})
        for step in range(25):
            live.log_metric("train/score", step / 8)
            metric("dvclive", "train/score", step / 8, step)
            live.next_step()
        live.log_metric("final", 0.75, plot=False)
        metric("dvclive", "final", 0.75, 24)


def tensorboard():
    from tensorboardX import SummaryWriter

    said["versions"]["tensorboardX"] = importlib.metadata.version("tensorboardX")
    writer = SummaryWriter("runs/one")
    for step in range(40):
        writer.add_scalar("tb/loss", 0.1 * step, step)
        metric("tensorboardX", "tb/loss", single(0.1 * step), step)
    writer.add_scalars("both", {"a": 1.5, "b": 2.5}, 7)
    metric("tensorboardX", "both", 1.5, 7)
    metric("tensorboardX", "b/both", 2.5, 7)
    writer.add_histogram("weights", [1.0, 2.0, 3.0], 1)
    writer.add_text("words", "not a number", 1)
    writer.close()


def hugging_face():
    history = []
    for step in range(10, 60, 10):
        history.append({"epoch": step / 50, "grad_norm": 1.5, "learning_rate": 5e-05, "loss": 1 / step, "step": step})
        metric("hugging face", "grad_norm", 1.5, step)
        metric("hugging face", "learning_rate", 5e-05, step)
        metric("hugging face", "loss", 1 / step, step)
        if step in (20, 40):
            history.append({"epoch": step / 50, "eval_loss": 2 / step, "eval_runtime": 0.5, "step": step})
            metric("hugging face", "eval_loss", 2 / step, step)
            metric("hugging face", "eval_runtime", 0.5, step)
            os.makedirs(f"out/checkpoint-{step}")
            state = {"best_metric": None, "epoch": step / 50, "global_step": step, "is_hyper_param_search": False}
            with open(f"out/checkpoint-{step}/trainer_state.json", "w") as file:
                json.dump(state | {"log_history": history, "max_steps": 50}, file, indent=2, sort_keys=True)
    history.append({"epoch": 1.0, "step": 50, "total_flos": 2.0e9, "train_loss": 0.25, "train_runtime": 9.5})
    for name, value in [("total_flos", 2.0e9), ("train_loss", 0.25), ("train_runtime", 9.5)]:
        metric("hugging face", name, value, 50)
    with open("out/trainer_state.json", "w") as file:
        json.dump({"global_step": 50, "log_history": history}, file, indent=2, sort_keys=True)
    with open("out/all_results.json", "w") as file:
        json.dump({"epoch": 1.0, "eval_accuracy": 0.625, "train_loss": 0.25}, file, indent=4)
    metric("hugging face", "eval_accuracy", 0.625, None)
    metric("hugging face", "train_loss", 0.25, None)


def tables():
    os.makedirs("lightning_logs/version_0")
    with open("lightning_logs/version_0/metrics.csv", "w") as file:
        file.write("epoch,step,train_loss_step,val_acc\n")
        for step in range(20):
            file.write(f"0,{step},{step / 4},\n")
            metric("lightning", "train_loss_step", step / 4, step)
        file.write("0,19,,0.5\n")
        metric("lightning", "val_acc", 0.5, 19)
    with open("lightning_logs/version_0/hparams.yaml", "w") as file:
        file.write("hidden: 32\n")
    said["params"]["hidden"] = "32"
    with open("training.log", "w") as file:
        file.write("epoch,keras_acc,keras_loss\n")
        for epoch in range(5):
            file.write(f"{epoch},{epoch / 8},{1 - epoch / 8}\n")
            metric("keras", "keras_acc", epoch / 8, epoch)
            metric("keras", "keras_loss", 1 - epoch / 8, epoch)


def evaluations():
    os.makedirs("lm/model")
    results = {"arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.0625, "acc_norm,none": 0.75}}
    with open("lm/model/results_2026-01-01T00-00-00.000000.json", "w") as file:
        json.dump({"results": results, "versions": {"arc": 1.0}, "n-shot": {"arc": 0}, "config": {"model": "hf"}}, file)
    for name, value in [("acc", 0.5), ("acc_stderr", 0.0625), ("acc_norm", 0.75)]:
        metric("lm-eval", f"arc/{name}", value, None)
    said["params"]["config.model"] = "hf"
    with open("report.xml", "w") as file:
        file.write('<testsuites><testsuite name="pytest" tests="2"><testcase classname="t" name="a" time="0.25"/>')
        file.write('<testcase classname="t" name="b" time="0.5"><failure message="assert 1 == 2">x</failure></testcase>')
        file.write("</testsuite></testsuites>")
    for name, value in [("passed", 1), ("failed", 1), ("skipped", 0), ("seconds", 0.75)]:
        metric("junit", f"tests/{name}", value, None)


for part in (dvclive, tensorboard, hugging_face, tables, evaluations):
    part()
print("epoch 3: auc=0.8125")
metric("output", "auc", 0.8125, 3)
with open("said.json", "w") as file:
    json.dump(said, file)

"""Logistic regression by mini-batch gradient descent, in plain Python.

Writes out/model.json, and one line for each epoch to metrics.jsonl, which is what draws the curves.
"""

import argparse
import json
import math
import os
import random

import data
import features


def sigmoid(z):
    return 1 / (1 + math.exp(-z)) if z > -60 else 0.0


def train(rows, labels, seed, epochs, rate, batch, log):
    rng = random.Random(seed)
    width = len(rows[0])
    weights = [rng.uniform(-0.05, 0.05) for _ in range(width)]
    order = list(range(len(rows)))
    for epoch in range(1, epochs + 1):
        rng.shuffle(order)
        loss, right = 0.0, 0
        for start in range(0, len(order), batch):
            gradient = [0.0] * width
            members = order[start : start + batch]
            for i in members:
                x, y = rows[i], labels[i]
                p = sigmoid(sum(w * v for w, v in zip(weights, x)))
                loss -= math.log(max(p if y else 1 - p, 1e-12))
                right += (p > 0.5) == (y == 1)
                error = p - y
                for j in range(width):
                    gradient[j] += error * x[j]
            step = rate / len(members)
            for j in range(width):
                weights[j] -= step * gradient[j]
        log({"epoch": epoch, "loss": loss / len(rows), "train_accuracy": right / len(rows)})
    return weights


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--params", default="params.json")
    args = parser.parse_args()
    with open(args.params, encoding="utf-8") as file:
        params = json.load(file)

    (rows, labels), _ = data.split(*data.customers())
    encoded = [features.encode(row) for row in rows]
    print(f"training on {len(encoded):,} synthetic customers, {len(encoded[0])} features, seed {args.seed}")

    os.makedirs("out", exist_ok=True)
    with open("metrics.jsonl", "w", encoding="utf-8") as file:

        def log(line):
            print(f"epoch {line['epoch']:>2}  loss {line['loss']:.4f}  accuracy {line['train_accuracy']:.4f}")
            file.write(json.dumps(line) + "\n")
            file.flush()

        weights = train(encoded, labels, args.seed, params["epochs"], params["rate"], params["batch"], log)

    with open("out/model.json", "w", encoding="utf-8") as file:
        json.dump({"weights": weights, "seed": args.seed}, file)


if __name__ == "__main__":
    main()

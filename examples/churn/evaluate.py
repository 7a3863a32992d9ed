"""Scores out/model.json on the customers that it has not seen; writes metrics.json and, for each of them, predictions.csv."""

import csv
import json
import math

import data
import features


def main():
    with open("out/model.json", encoding="utf-8") as file:
        weights = json.load(file)["weights"]
    _, (rows, labels) = data.split(*data.customers())
    right, loss, hits, called, churned = 0, 0.0, 0, 0, 0
    predictions = open("predictions.csv", "w", encoding="utf-8", newline="")
    table = csv.writer(predictions, lineterminator="\n")
    table.writerow(("customer", "churn", "score", "contract"))
    for customer, (row, y) in enumerate(zip(rows, labels)):
        z = sum(w * v for w, v in zip(weights, features.encode(row)))
        p = 1 / (1 + math.exp(-z)) if z > -60 else 0.0
        table.writerow((customer, y, repr(p), data.CONTRACTS[row[3]]))
        guess = p > 0.5
        right += guess == (y == 1)
        loss -= math.log(max(p if y else 1 - p, 1e-12))
        hits += guess and y == 1
        called += guess
        churned += y
    predictions.close()
    result = {
        "accuracy": right / len(labels),
        "log_loss": loss / len(labels),
        "recall": hits / churned,
        "precision": hits / called,
    }
    with open("metrics.json", "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
    print(f"{len(labels):,} unseen synthetic customers:", ", ".join(f"{k} {v:.4f}" for k, v in result.items()))


if __name__ == "__main__":
    main()

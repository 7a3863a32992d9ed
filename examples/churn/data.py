"""Synthetic customers: a seeded generator of data/customers.csv, and its reader. No real person is in it.

Churn depends on tenure, price, support calls, contract and usage, and on one interaction (a high price
hurts new customers far more than old ones) that a linear model sees only when it is given as a feature.

    python3 data.py data/customers.csv             writes the file
    python3 data.py data/customers.csv --broken    as an export gone wrong writes it: prices with tax, a new word for a contract
"""

import argparse
import csv
import math
import os
import random

ROWS = 20_000
TRAIN_ROWS = 16_000
PATH = "data/customers.csv"
COLUMNS = ("tenure_months", "monthly_charge", "support_calls", "contract", "autopay", "usage_hours")
CONTRACTS = ("yearly", "monthly")


def generate(rows=ROWS, seed=20_240_601):
    """Returns (features, labels): a list of tuples in the order of COLUMNS, and a list of 0 and 1."""
    rng = random.Random(seed)
    features, labels = [], []
    for _ in range(rows):
        tenure = rng.uniform(0, 72)
        charge = rng.uniform(15, 110)
        calls = min(9, int(rng.expovariate(0.9)))
        monthly = 1 if rng.random() < 0.55 else 0
        autopay = 1 if rng.random() < 0.45 else 0
        usage = max(0.0, rng.gauss(40, 15))
        young, dear = (36 - tenure) / 36, (charge - 60) / 45
        logit = -0.9 + 0.9 * young + 0.5 * dear + 1.7 * young * dear
        logit += 0.55 * calls + 0.9 * monthly - 0.5 * autopay - 0.03 * (usage - 40)
        features.append((tenure, charge, calls, monthly, autopay, usage))
        labels.append(1 if rng.random() < 1 / (1 + math.exp(-2.2 * logit)) else 0)
    return features, labels


def write(path, broken=False):
    features, labels = generate()
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow((*COLUMNS, "churn"))
        for i, ((tenure, charge, calls, monthly, autopay, usage), churn) in enumerate(zip(features, labels)):
            contract = CONTRACTS[monthly]
            if broken:
                charge *= 1.19
                contract = "month-to-month" if monthly and i % 8 == 0 else contract
            # repr keeps every digit: what is read back is what was generated.
            table.writerow((repr(tenure), repr(charge), calls, contract, autopay, repr(usage), churn))


def customers(path=PATH):
    """Reads the file; without one the same customers are generated."""
    if not os.path.exists(path):
        return generate()
    features, labels = [], []
    with open(path, encoding="utf-8", newline="") as file:
        table = csv.reader(file)
        next(table)
        for tenure, charge, calls, contract, autopay, usage, churn in table:
            row = (float(tenure), float(charge), int(calls), CONTRACTS.index(contract), int(autopay), float(usage))
            features.append(row)
            labels.append(int(churn))
    return features, labels


def split(features, labels):
    """The first TRAIN_ROWS rows train, the rest test: the same split for every seed and branch."""
    return (features[:TRAIN_ROWS], labels[:TRAIN_ROWS]), (features[TRAIN_ROWS:], labels[TRAIN_ROWS:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", nargs="?", default=PATH)
    parser.add_argument("--broken", action="store_true")
    asked = parser.parse_args()
    write(asked.path, asked.broken)

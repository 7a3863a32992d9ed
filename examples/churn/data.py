"""A seeded generator of synthetic customers. No real person is in it.

Churn depends on tenure, price, support calls, contract and usage, and on one interaction (a high price
hurts new customers far more than old ones) that a linear model sees only when it is given as a feature.
"""

import math
import random

ROWS = 20_000
TRAIN_ROWS = 16_000
COLUMNS = ("tenure_months", "monthly_charge", "support_calls", "monthly_contract", "autopay", "usage_hours")


def customers(rows=ROWS, seed=20_240_601):
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


def split(features, labels):
    """The first TRAIN_ROWS rows train, the rest test: the same split for every seed and branch."""
    return (features[:TRAIN_ROWS], labels[:TRAIN_ROWS]), (features[TRAIN_ROWS:], labels[TRAIN_ROWS:])

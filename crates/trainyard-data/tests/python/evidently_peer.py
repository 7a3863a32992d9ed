"""Scores of Evidently's drift preset, by column, for each pair of tables on standard input."""
import json
import sys
import warnings

warnings.filterwarnings("ignore")
import pandas as pd
from evidently import Dataset, Report
from evidently.presets import DataDriftPreset

out = []
for pair in json.load(sys.stdin)["pairs"]:
    reference, current = (pd.DataFrame(pair[k]) for k in ("reference", "current"))
    result = Report([DataDriftPreset()]).run(Dataset.from_pandas(current), Dataset.from_pandas(reference)).dict()
    columns = {}
    for metric in result["metrics"]:
        config = metric.get("config") or {}
        if "column" in config and "ValueDrift" in str(config.get("type", metric.get("metric_id", metric.get("metric_name", "")))):
            columns[config["column"]] = {"score": float(metric["value"]), "test": str(config.get("method"))}
    out.append(columns)
json.dump(out, sys.stdout)

"""Evidently's drift preset on two Parquet files."""
import sys
import warnings

warnings.filterwarnings("ignore")
import pandas as pd
from evidently import Dataset, Report
from evidently.presets import DataDriftPreset

reference, current = (pd.read_parquet(path) for path in sys.argv[1:3])
Report([DataDriftPreset()]).run(Dataset.from_pandas(current), Dataset.from_pandas(reference)).dict()

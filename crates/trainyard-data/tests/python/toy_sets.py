"""The toy sets of scikit-learn, as columns."""
import json
import sys

from sklearn import datasets

out = {}
for name in ("iris", "wine", "breast_cancer", "diabetes"):
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    out[name] = {"columns": {c: frame[c].astype(float).tolist() for c in frame.columns}}
json.dump(out, sys.stdout)

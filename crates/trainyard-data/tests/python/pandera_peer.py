"""Verdicts of pandera, with the number of failing values, on a Parquet file."""
import json
import sys

import pandas as pd
import pandera.pandas as pa

asked = json.load(sys.stdin)
frame = pd.read_parquet(asked["path"])
out = []
for question in asked["questions"]:
    column, rule = question["column"], question["rule"]
    checks, nullable, unique, counted = [], True, False, True
    for key, value in rule.items():
        if key == "min":
            checks.append(pa.Check.ge(value))
        elif key == "max":
            checks.append(pa.Check.le(value))
        elif key == "above":
            checks.append(pa.Check.gt(value))
        elif key == "below":
            checks.append(pa.Check.lt(value))
        elif key == "one_of":
            checks.append(pa.Check.isin(value))
        elif key == "not_in":
            checks.append(pa.Check.notin(value))
        elif key == "regex":
            checks.append(pa.Check.str_matches(value))
        elif key == "min_length":
            checks.append(pa.Check.str_length(min_value=value))
        elif key == "nulls":
            nullable = value == 1.0
        elif key == "unique":
            # pandera reports all members of a repeated value, we those after the first
            unique, counted = True, False
    schema = pa.DataFrameSchema({column: pa.Column(checks=checks, nullable=nullable, unique=unique)})
    try:
        schema.validate(frame, lazy=True)
        out.append({"passed": True, "count": 0})
    except pa.errors.SchemaErrors as e:
        out.append({"passed": False, "count": len(e.failure_cases) if counted else None})
json.dump(out, sys.stdout)

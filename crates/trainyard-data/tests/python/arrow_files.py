"""Writes the table of a Parquet file as Arrow IPC in every way that pyarrow and pandas pack it; prints the names."""
import json
import pathlib
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

question = json.load(sys.stdin)
folder = pathlib.Path(question["folder"])
table = pa.parquet.read_table(question["parquet"])
coded = table.set_column(table.schema.get_field_index("plan"), "plan", table["plan"].dictionary_encode())
names = []


def place(name):
    names.append(name)
    return str(folder / name)


pa.feather.write_feather(table, place("usual.feather"))  # LZ4
table.to_pandas().to_feather(place("pandas.feather"))
for codec in [None, "lz4", "zstd"]:
    options = pa.ipc.IpcWriteOptions(compression=codec)
    for what, rows in [("plain", table), ("coded", coded)]:
        with pa.ipc.new_file(place(f"{what}-{codec}.arrow"), rows.schema, options=options) as out:
            out.write_table(rows, max_chunksize=777)
        with pa.ipc.new_stream(place(f"{what}-{codec}.arrows"), rows.schema, options=options) as out:
            out.write_table(rows, max_chunksize=777)
json.dump(names, sys.stdout)

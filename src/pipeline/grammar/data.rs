//! `data` and `features`.

use super::{ANY, COUNT, NAME, PATH, Section, Shape, Text, f, later, req};

pub(super) static DATA: Section = Section {
    title: "a data set",
    one_of: &[],
    fields: &[
        req("name", NAME, "Its name."),
        req("path", ANY, "A file, a glob, a .dvc file, or s3://, gs://, az://."),
        f("schema", Shape::Open(Text::Any, &Shape::Map(&COLUMN)), "Rules by column."),
        f("rows", Shape::Map(&ROWS), "How many rows."),
        f("drift", Shape::Map(&DATA_DRIFT), "Against what the distributions are held."),
    ],
};

static COLUMN: Section = Section {
    title: "a column",
    one_of: &[],
    fields: &[
        f(
            "type",
            Shape::Word(&[
                "int",
                "int32",
                "int64",
                "float",
                "float32",
                "float64",
                "text",
                "bool",
                "time",
                "date",
                "timestamp",
            ]),
            "Type of its values.",
        ),
        f("unique", Shape::Bool, "No value twice."),
        f("min", Shape::Number, "Least value."),
        f("max", Shape::Number, "Greatest value."),
        f("nulls", Shape::Share, "How many may be missing: `0`, `<1%`."),
        f("one_of", Shape::Many(&Shape::Value), "The only values."),
        f("pattern", Shape::Text(Text::Pattern), "A regular expression that the whole value matches."),
        f("regex", Shape::Text(Text::Pattern), "A regular expression that occurs in the value."),
        f("optional", Shape::Bool, "The column may be absent."),
        f(
            "mostly",
            Shape::Number,
            "The share of values that must keep `min`, `max`, `one_of`, `pattern` and `regex`, 0 to 1. Default: 1.",
        ),
        f("label", Shape::Bool, "What the model predicts: its drift is named as such."),
        f("on_fail", Shape::Word(&["fail", "warn"]), "What a finding in this column does. Default: fail."),
    ],
};

static ROWS: Section = Section {
    title: "`rows`",
    one_of: &["min", "max"],
    fields: &[f("min", COUNT, "At least."), f("max", COUNT, "At most.")],
};

static DATA_DRIFT: Section = Section {
    title: "`drift`",
    one_of: &[],
    fields: &[
        req("against", ANY, "`baseline` or `file:PATH`; `model:ALIAS` is checked and not run yet."),
        f(
            "compat",
            Shape::Word(&["evidently"]),
            "Decides as Evidently 0.7 does by default; needs `against: file:PATH`, a table. Default: the calibrated rule.",
        ),
        later("test", Shape::Word(DRIFT_TESTS), "The measure. Default: by the type of the column."),
        later("max", Shape::Number, "The most it may be."),
    ],
};

pub(super) const DRIFT_TESTS: &[&str] = &["psi", "ks", "chi2", "wasserstein", "jensen_shannon"];

pub(super) static FEATURE: Section = Section {
    title: "a feature check",
    one_of: &[],
    fields: &[
        req("name", NAME, "Its name."),
        req("command", Shape::Text(Text::Command), "Reads `$IN`, writes `$OUT`."),
        req("sample", PATH, "CSV or JSON lines with rows to try it on; the first 2,000 are used."),
        f(
            "checks",
            Shape::Many(&Shape::Word(&[
                "deterministic",
                "row_order",
                "subset",
                "batch_of_one",
                "finite",
                "serve_parity",
            ])),
            "What must hold. Default: all, `serve_parity` only with `serve`.",
        ),
        f(
            "serve",
            Shape::Either(&[Shape::Text(Text::Command), Shape::Map(&ENDPOINT)]),
            "The transform as it serves, for `serve_parity`: a command like the other, or a server.",
        ),
        f("time", Shape::Map(&POINT_IN_TIME), "No feature may be of a later time than its label."),
        f("schema", Shape::Open(Text::Any, &Shape::Map(&COLUMN)), "Rules for the columns of the output."),
        f("diff", Shape::Map(&FEATURE_DIFF), "Holds the output against that of the baseline's transform."),
    ],
};

static ENDPOINT: Section = Section {
    title: "`serve`",
    one_of: &[],
    fields: &[
        req("command", Shape::Text(Text::Command), "Starts the server, and runs as long as it does."),
        req(
            "url",
            ANY,
            "Where it answers on this machine: `http://127.0.0.1:8080/features`. `{\"instances\": [row, …]}` is posted there.",
        ),
        f("timeout", Shape::Duration, "How long it may take to answer the first time. Default: `1m`."),
        f(
            "batch",
            Shape::Int { min: 1, max: 2_000 },
            "Rows of one request. Default: 1, as most rows are served.",
        ),
    ],
};

static FEATURE_DIFF: Section = Section {
    title: "`diff`",
    one_of: &[],
    fields: &[
        req(
            "against",
            Shape::Word(&["baseline"]),
            "The run that metrics are held against, by what its own `features` step left.",
        ),
        f(
            "tolerance",
            Shape::Open(Text::Any, &Shape::Tolerance),
            "By feature, what is still equal: `1%` of the baseline's value, or `0.001`. `\"*\"` for all others; default: rounding.",
        ),
        f(
            "on_change",
            Shape::Word(&["show", "warn", "fail"]),
            "What a feature that changed or is gone does to the run. Default: `show`.",
        ),
    ],
};

static POINT_IN_TIME: Section = Section {
    title: "`time`",
    one_of: &[],
    fields: &[
        req("feature", ANY, "The column with the time of the features."),
        req("label", ANY, "The column with the time of the label; of the output, else of a CSV sample."),
    ],
};

//! `models`, `deploy`, `monitor` and `notify`.

use super::data::DRIFT_TESTS;
use super::{ANY, COMMANDS, NAME, PATH, Section, Shape, TEXTS, Text, f, req};

pub(super) static MODEL: Section = Section {
    title: "`model`",
    one_of: &[],
    fields: &[
        req("name", NAME, "Its name in the registry."),
        f(
            "from",
            Shape::Either(&[NAME, Shape::Map(&MODEL_FROM)]),
            "The step that makes it; with a matrix, which member.",
        ),
        req("path", PATH, "Where it lies among the step's artifacts."),
        f("register", Shape::Map(&REGISTER), "When a version is registered."),
        f("package", Shape::Map(&PACKAGE), "The serving image."),
        f("scan", Shape::Map(&SCAN), "The scan of that image."),
    ],
};

static MODEL_FROM: Section = Section {
    title: "`from`",
    one_of: &[],
    fields: &[
        req("step", NAME, "The step."),
        f("pick", Shape::Word(&["best"]), "The member with the best primary metric."),
        f("member", Shape::Open(Text::MatrixKey, &Shape::Value), "The member with these values."),
    ],
};

static REGISTER: Section = Section {
    title: "`register`",
    one_of: &[],
    fields: &[f("branch", Shape::Many(&Shape::Text(Text::Branch)), "Only for these branches.")],
};

static PACKAGE: Section = Section {
    title: "`package`",
    one_of: &[],
    fields: &[
        req("base", Shape::Text(Text::Image), "The image that serves, by digest."),
        req("repository", ANY, "Where the packaged image goes."),
    ],
};

static SCAN: Section = Section {
    title: "`scan`",
    one_of: &[],
    fields: &[f(
        "fail_on",
        Shape::Word(&["low", "medium", "high", "critical"]),
        "The least severity that fails.",
    )],
};

pub(super) static DEPLOY: Section = Section {
    title: "an entry of `deploy`",
    one_of: &[],
    fields: &[
        req("environment", NAME, "Its name."),
        req("target", Shape::Map(&TARGET), "What serves there."),
        f("tests", COMMANDS, "Commands that must succeed against it."),
        f(
            "strategy",
            Shape::Word(&["canary", "blue_green", "ab", "shadow"]),
            "How traffic moves. Default: all at once.",
        ),
        f("steps", Shape::List(&Shape::Map(&ROLLOUT_STEP)), "The shares of traffic, in order."),
        f("analysis", Shape::Many(&Shape::Map(&ANALYSIS)), "What must hold while it moves."),
        f("approval", Shape::Map(&APPROVAL), "Who must agree first."),
    ],
};

static TARGET: Section = Section {
    title: "`target`",
    one_of: &[],
    fields: &[
        req("kind", Shape::Word(&["deployment", "gateway", "kserve"]), "What it is."),
        f("namespace", NAME, "Kubernetes namespace."),
        f("name", NAME, "Its name. Default: the model's."),
        f("gateway", NAME, "The gateway, for `kind: gateway`."),
    ],
};

static ROLLOUT_STEP: Section = Section {
    title: "a rollout step",
    one_of: &[],
    fields: &[
        req("weight", Shape::Int { min: 0, max: 100 }, "Percent of the traffic."),
        f("for", Shape::Duration, "How long before the next step."),
    ],
};

static ANALYSIS: Section = Section {
    title: "an entry of `analysis`",
    one_of: &[],
    fields: &[
        req("name", NAME, "Its name."),
        req("query", Shape::Text(Text::Command), "A PromQL query; `$VERSION` is the new version."),
        f("min", Shape::Share, "Fails below."),
        f("max", Shape::Share, "Fails above."),
    ],
};

static APPROVAL: Section = Section {
    title: "`approval`",
    one_of: &["teams", "users"],
    fields: &[f("teams", TEXTS, "Teams of the forge."), f("users", TEXTS, "Accounts of the forge.")],
};

pub(super) static MONITOR: Section = Section {
    title: "`monitor`",
    one_of: &[],
    fields: &[
        req("every", Shape::Duration, "How often it looks."),
        f("payloads", ANY, "Where requests and answers are logged."),
        f("drift", Shape::Map(&MONITOR_DRIFT), "Of what serves against what was trained on."),
        f("performance", Shape::Map(&PERFORMANCE), "Of predictions against labels that came later."),
        f("on_alert", Shape::Many(&Shape::Word(&["notify", "retrain", "rollback"])), "What an alert does."),
    ],
};

static MONITOR_DRIFT: Section = Section {
    title: "`drift`",
    one_of: &[],
    fields: &[
        f("features", Shape::Word(DRIFT_TESTS), "The measure."),
        f("max", Shape::Number, "The most it may be."),
    ],
};

static PERFORMANCE: Section = Section {
    title: "`performance`",
    one_of: &[],
    fields: &[
        req("metric", Shape::Text(Text::Metric), "The metric."),
        f("min", Shape::Number, "Alerts below."),
        f("max", Shape::Number, "Alerts above."),
        f("no_worse_than", Shape::Tolerance, "Alerts when it falls further behind the registered value."),
    ],
};

pub(super) static NOTIFY: Section = Section {
    title: "an entry of `notify`",
    one_of: &["slack", "email", "webhook"],
    fields: &[
        f("slack", ANY, "A channel."),
        f("email", ANY, "An address."),
        f("webhook", NAME, "A webhook of the daemon's configuration."),
        f(
            "when",
            Shape::Many(&Shape::Word(&[
                "failed",
                "fixed",
                "succeeded",
                "regressed",
                "registered",
                "promoted",
                "rolled_back",
                "drift",
            ])),
            "Of what. Default: failed and fixed.",
        ),
    ],
};

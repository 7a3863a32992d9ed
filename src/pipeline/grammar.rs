//! THE grammar of the pipeline file, as data. The checker, the JSON Schema and the reference page are all read from
//! this one table, so a key exists in all of them or in none.

mod data;
mod models;

use data::{DATA, FEATURE};
use models::{DEPLOY, MODEL, MONITOR, NOTIFY};

/// What may stand in a place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Text(Text),
    /// Text, number or boolean, taken as written: values of variables.
    Value,
    Bool,
    Int {
        min: i64,
        max: i64,
    },
    /// Finite.
    Number,
    /// Whole milliseconds, above zero.
    Duration,
    /// Bytes, above zero.
    Size,
    /// Cores: `4`, `0.5` or `500m`.
    Cpu,
    Tolerance,
    /// A share of rows: `0`, `0.01`, `1%` or `<1%`.
    Share,
    Word(&'static [&'static str]),
    /// A list, or one item without the list around it.
    Many(&'static Shape),
    /// A list.
    List(&'static Shape),
    Map(&'static Section),
    /// A mapping whose keys the user chooses.
    Open(Text, &'static Shape),
    /// The first whose form (single value, list or mapping) fits.
    Either(&'static [Shape]),
}

/// What a text is, which decides the characters it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Any,
    /// The shell's: nothing is replaced in it.
    Command,
    /// Name of a pipeline, step, pool, model, environment.
    Name,
    /// Name of an environment variable.
    Variable,
    /// A matrix key: becomes a variable in upper case.
    MatrixKey,
    Branch,
    /// Glob of paths below the repository's root.
    Glob,
    /// Path below the repository's root.
    Path,
    /// Path below the root or below `~/`.
    CachePath,
    Image,
    Cron,
    Timezone,
    Baseline,
    /// Name of a metric, or a glob of names.
    Metric,
    Pattern,
}

/// A mapping with known keys.
#[derive(Debug)]
pub(super) struct Section {
    /// As messages call it: "a step".
    pub title: &'static str,
    pub fields: &'static [Field],
    /// At least one of these must be there.
    pub one_of: &'static [&'static str],
}

#[derive(Debug)]
pub(super) struct Field {
    pub key: &'static str,
    pub shape: Shape,
    pub doc: &'static str,
    pub required: bool,
    /// Checked, but not run by this version.
    pub later: bool,
}

const fn f(key: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { key, shape, doc, required: false, later: false }
}
const fn req(key: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { key, shape, doc, required: true, later: false }
}
const fn later(key: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { key, shape, doc, required: false, later: true }
}

const ANY: Shape = Shape::Text(Text::Any);
const NAME: Shape = Shape::Text(Text::Name);
const COMMANDS: Shape = Shape::Many(&Shape::Text(Text::Command));
const GLOBS: Shape = Shape::Many(&Shape::Text(Text::Glob));
const PATH: Shape = Shape::Text(Text::Path);
const TEXTS: Shape = Shape::Many(&ANY);
const COUNT: Shape = Shape::Int { min: 0, max: 1_000_000_000_000 };

/// Event words of `when`, with those that this version acts on first.
pub(super) const EVENTS: &[&str] = &["push", "pull_request", "data", "tag", "cron", "manual"];
pub(super) const EVENTS_RUN: usize = 3;
/// Those of an entry that names none.
pub(super) const EVENTS_DEFAULT: usize = 2;

/// What may be retried: the words of [`EndClass`](crate::model::EndClass) that end an attempt badly.
pub(super) const RETRY_WHEN: &[&str] = &[
    "preempted",
    "evicted",
    "node_lost",
    "oom",
    "storage_full",
    "source",
    "artifacts",
    "unschedulable",
    "image",
    "quota",
    "internal",
    "failed",
    "timed_out",
];

pub(super) static PIPELINE: Section = Section {
    title: "the pipeline",
    one_of: &["steps", "train"],
    fields: &[
        f("version", Shape::Int { min: 1, max: i64::MAX }, "Version of this grammar: 1."),
        f(
            "name",
            NAME,
            "Name of the pipeline; it stands in the commit status. Default: the file's name, or `default`.",
        ),
        f(
            "when",
            Shape::Many(&Shape::Map(&WHEN)),
            "What starts a run; a list means any of them. Default: pull requests, and pushes to the default branch.",
        ),
        f(
            "concurrency",
            Shape::Either(&[ANY, Shape::Map(&CONCURRENCY)]),
            "Runs of one group wait for each other.",
        ),
        f(
            "priority",
            NAME,
            "Class of the daemon's queue. The file on the default branch counts, whatever other heads say.",
        ),
        f("timeout", Shape::Duration, "Limit of the whole run. Default: 24h."),
        f("env", Shape::Open(Text::Variable, &Shape::Value), "Variables of every step."),
        f(
            "secrets",
            Shape::Many(&Shape::Either(&[Shape::Text(Text::Variable), Shape::Map(&SECRET)])),
            "Secrets of the daemon's configuration that every step gets as variables; never given to untrusted runs.",
        ),
        f("defaults", Shape::Map(&DEFAULTS), "What steps have unless they say otherwise."),
        f(
            "data",
            Shape::Many(&Shape::Map(&DATA)),
            "Checks of data sets: a step called `data`, run before a GPU is asked for.",
        ),
        f(
            "features",
            Shape::Many(&Shape::Map(&FEATURE)),
            "Checks of feature transforms: a step called `features`.",
        ),
        f(
            "train",
            Shape::Either(&[
                Shape::Text(Text::Command),
                Shape::List(&Shape::Text(Text::Command)),
                Shape::Map(&TRAIN),
            ]),
            "Short for one step called `train`.",
        ),
        f("steps", Shape::List(&Shape::Map(&STEP)), "The steps of the run."),
        f("metrics", Shape::Map(&METRICS), "Which metrics count, and what they are held against."),
        f("report", Shape::Map(&REPORT), "The comment on the pull request."),
        later("model", Shape::Map(&MODEL), "The model that the run makes."),
        later(
            "deploy",
            Shape::Many(&Shape::Map(&DEPLOY)),
            "Environments that a model version is taken through, in order.",
        ),
        later("monitor", Shape::Map(&MONITOR), "Watching the model that serves."),
        later("notify", Shape::Many(&Shape::Map(&NOTIFY)), "Who hears of what, beside the forge."),
    ],
};

static WHEN: Section = Section {
    title: "an entry of `when`",
    one_of: &[],
    fields: &[
        f(
            "event",
            Shape::Many(&Shape::Word(EVENTS)),
            "What happened; `tag`, `cron` and `manual` are checked and start no runs yet. Default: push and pull_request.",
        ),
        f(
            "branch",
            Shape::Many(&Shape::Text(Text::Branch)),
            "Globs on the pushed branch, for a pull request on its base branch. Default: the default branch for pushes, any for pull requests.",
        ),
        f(
            "paths",
            Shape::Either(&[
                Shape::Text(Text::Glob),
                Shape::List(&Shape::Text(Text::Glob)),
                Shape::Map(&PATHS),
            ]),
            "Only if a changed file matches; a list is `include`.",
        ),
        f(
            "prefix",
            TEXTS,
            "For `event: data`: directories or prefixes (`s3://bucket/raw/`) whose new data starts a run on the default branch.",
        ),
        f("cron", Shape::Text(Text::Cron), "Five fields, for `event: cron`."),
        f("timezone", Shape::Text(Text::Timezone), "IANA name that `cron` is read in. Default: UTC."),
    ],
};

static PATHS: Section = Section {
    title: "`paths`",
    one_of: &["include", "exclude"],
    fields: &[
        f("include", GLOBS, "Globs of files that count. Default: all."),
        f("exclude", GLOBS, "Globs of files that do not."),
    ],
};

static CONCURRENCY: Section = Section {
    title: "`concurrency`",
    one_of: &[],
    fields: &[
        req("group", ANY, "Name of the group, such as `churn-${CI_REF}`."),
        f("cancel_in_progress", Shape::Bool, "A newer run of the group cancels the older. Default: false."),
    ],
};

static SECRET: Section = Section {
    title: "a secret",
    one_of: &[],
    fields: &[
        req("name", Shape::Text(Text::Variable), "Its name in the daemon's configuration."),
        f("as", Shape::Text(Text::Variable), "The variable in the step. Default: its name."),
    ],
};

static RESOURCES: Section = Section {
    title: "`resources`",
    one_of: &[],
    fields: &[
        f("cpu", Shape::Cpu, "Cores: `4`, `0.5` or `500m`."),
        f("memory", Shape::Size, "Main memory, such as `32Gi`."),
        f("gpu", Shape::Int { min: 0, max: 1024 }, "Number of GPUs."),
        f("shm", Shape::Size, "Size of `/dev/shm`, such as `8Gi`; data loaders need it."),
        f(
            "disk",
            Shape::Size,
            "Of the node's disk, such as `50Gi`, where the pool bounds it (Kubernetes): workspace, caches, packages and logs.",
        ),
    ],
};

static CACHE: Section = Section {
    title: "a cache",
    one_of: &[],
    fields: &[
        req("key", ANY, "Its identity; `${hash:requirements.txt}` is the digest of a file."),
        req("path", Shape::Text(Text::CachePath), "The directory, relative or below `~/`."),
    ],
};

static RETRY: Section = Section {
    title: "`retry`",
    one_of: &[],
    fields: &[
        req("max", Shape::Int { min: 0, max: 20 }, "How many more attempts after the first."),
        f(
            "when",
            Shape::Many(&Shape::Word(RETRY_WHEN)),
            "Only after these ends. Default: those that the machines caused, not your commands.",
        ),
    ],
};

const RETRY_SHAPE: Shape = Shape::Either(&[Shape::Int { min: 0, max: 20 }, Shape::Map(&RETRY)]);
const RETRY_DOC: &str = "When it is tried again. Default: once more after an end that the machines caused (`preempted`, `evicted`, `node_lost`, `storage_full`, `source`, `internal`, or stopped from outside), never after your commands' own.";
const REUSE: &str = "Take over the result of an earlier step if commands, inputs, variables, image, artifacts and hardware are equal. Without `inputs`, the whole source tree is its input.";
const CACHE_SHAPE: Shape = Shape::Many(&Shape::Map(&CACHE));

static DEFAULTS: Section = Section {
    title: "`defaults`",
    one_of: &[],
    fields: &[
        f("image", Shape::Text(Text::Image), "Container image of the steps."),
        f("pool", NAME, "Where the steps run: a pool of the daemon's configuration."),
        f(
            "resources",
            Shape::Map(&RESOURCES),
            "What a step asks for; a step's own `resources` replace them key by key.",
        ),
        f("gpu", Shape::Int { min: 0, max: 1024 }, "Short for `resources: {gpu: ...}`."),
        f("setup", COMMANDS, "Commands before those of each step."),
        f("cache", CACHE_SHAPE, "Directories kept between runs; untrusted runs only read them."),
        f("reuse", Shape::Bool, REUSE),
        f("timeout", Shape::Duration, "Limit of one attempt of a step."),
        f("retry", RETRY_SHAPE, RETRY_DOC),
    ],
};

macro_rules! step_fields {
    ($($name:expr)?) => {
        &[
            $($name,)?
            req("commands", COMMANDS, "Shell commands, run in order; the first that fails ends the step."),
            f("needs", Shape::Many(&Shape::Either(&[NAME, Shape::Map(&NEED)])), "Steps that must have succeeded; their artifacts are there. Default: the step before; `[]`: start at once."),
            f("gather", Shape::Bool, "Run once over all members of the matrix steps it needs, instead of once per member."),
            f("matrix", Shape::Open(Text::MatrixKey, &Shape::List(&Shape::Value)), "One run of the step for each combination; values are variables in upper case (`seed` is `$SEED`)."),
            f("image", Shape::Text(Text::Image), "Container image."),
            f("pool", NAME, "Where it runs."),
            f("resources", Shape::Map(&RESOURCES), "What it asks for."),
            f("gpu", Shape::Int { min: 0, max: 1024 }, "Short for `resources: {gpu: ...}`."),
            f("env", Shape::Open(Text::Variable, &Shape::Value), "More variables."),
            f("secrets", Shape::Many(&Shape::Either(&[Shape::Text(Text::Variable), Shape::Map(&SECRET)])), "More secrets, for this step alone."),
            f("setup", COMMANDS, "Commands before `commands`, instead of the default ones."),
            f("timeout", Shape::Duration, "Limit of one attempt. Default: the run's."),
            f("retry", RETRY_SHAPE, RETRY_DOC),
            f("checkpoint", Shape::Either(&[PATH, Shape::Map(&CHECKPOINT)]), "A directory that survives into the next attempt."),
            f("artifacts", GLOBS, "Globs of what later steps and people get."),
            f("inputs", GLOBS, "Globs of the files of the repository that its result depends on; switches `reuse` on."),
            f("reuse", Shape::Bool, REUSE),
            f("reports", Shape::Map(&REPORTS), "Files with results of tests."),
            f("cache", CACHE_SHAPE, "Directories kept between runs; untrusted runs only read them."),
            f("distributed", Shape::Map(&DISTRIBUTED), "Several pods that train together, on a pool of the executor `kubernetes`."),
        ]
    };
}

static STEP: Section =
    Section { title: "a step", one_of: &[], fields: step_fields!(req("name", NAME, "Unique in the file.")) };

/// `train:` as a mapping is a step that has its name already.
static TRAIN: Section = Section { title: "`train`", one_of: &[], fields: step_fields!() };

static NEED: Section = Section {
    title: "an entry of `needs`",
    one_of: &[],
    fields: &[
        req("step", NAME, "The step."),
        f(
            "as",
            PATH,
            "Directory under which its artifacts are unpacked; `${SEED}` is the needed member's value.",
        ),
    ],
};

static CHECKPOINT: Section =
    Section { title: "`checkpoint`", one_of: &[], fields: &[req("path", PATH, "The directory.")] };

static REPORTS: Section =
    Section { title: "`reports`", one_of: &["junit"], fields: &[f("junit", PATH, "A JUnit XML file.")] };

static DISTRIBUTED: Section = Section {
    title: "`distributed`",
    one_of: &[],
    fields: &[
        req("workers", Shape::Int { min: 1, max: 512 }, "How many pods."),
        f(
            "framework",
            Shape::Word(&["torchrun"]),
            "Whose variables tell the pods of each other. Default: `torchrun`.",
        ),
    ],
};

static METRICS: Section = Section {
    title: "`metrics`",
    one_of: &[],
    fields: &[
        f("files", GLOBS, "Files with metrics, beside those that are found without it."),
        f(
            "patterns",
            Shape::Many(&Shape::Text(Text::Pattern)),
            "Regular expressions for metrics in what the commands print, each with a named group for each metric, or with \
             `name` and `value`; a group `step` is the training step.",
        ),
        f(
            "predictions",
            Shape::Map(&PREDICTIONS),
            "A table with what the model says of each example of the test set: metrics are computed from it, with intervals over the examples.",
        ),
        f("primary", Shape::Text(Text::Metric), "The metric that matters most."),
        f("compare", Shape::Map(&COMPARE), "What the metrics are held against."),
        f(
            "benchmarks",
            Shape::Open(Text::Name, &Shape::Open(Text::Metric, &Shape::Number)),
            "Reference scores: `published: {accuracy: 0.83}`. They stand beside the baseline, and gates may name them.",
        ),
        f(
            "gates",
            Shape::Open(Text::Metric, &Shape::Map(&GATE)),
            "Rules by metric; a name may be a glob, `step:name` picks a step's.",
        ),
    ],
};

static PREDICTIONS: Section = Section {
    title: "`predictions`",
    one_of: &["score", "prediction"],
    fields: &[
        req("path", PATH, "The table that a step leaves: Parquet, CSV, JSON lines or Arrow."),
        req("id", ANY, "The column that names an example; the same example has the same id in every run."),
        req("label", ANY, "The column with what is true."),
        f("score", ANY, "The column with the probability of label 1."),
        f("prediction", ANY, "The column with the class or the number that the model says."),
        req(
            "metrics",
            Shape::Many(&Shape::Word(&["accuracy", "auc", "log_loss", "brier", "mae", "mse"])),
            "What is computed; `auc`, `log_loss` and `brier` need `score` and labels 0 and 1.",
        ),
        f("slices", TEXTS, "Columns by whose values metrics are given too, as `accuracy/by/plan=pro`."),
        f(
            "stratum",
            ANY,
            "A column of which the test set holds fixed shares: intervals are of draws within each of its values.",
        ),
        f(
            "cluster",
            ANY,
            "A column whose value examples share that are not independent, such as a user: intervals are of draws of whole clusters.",
        ),
    ],
};

static COMPARE: Section = Section {
    title: "`compare`",
    one_of: &[],
    fields: &[f(
        "baseline",
        Shape::Text(Text::Baseline),
        "`merge-base` (default), `branch:NAME` or `run:ID`; `model:ALIAS` is checked and not run yet.",
    )],
};

static GATE: Section = Section {
    title: "a gate",
    one_of: &[],
    fields: &[
        f(
            "goal",
            Shape::Word(&["max", "min"]),
            "Which way is better. Default: guessed from the name, and marked so.",
        ),
        f("min", Shape::Number, "Fails below."),
        f("max", Shape::Number, "Fails above."),
        f(
            "no_worse_than",
            Shape::Tolerance,
            "How much worse than the baseline it may be: `1%` relative, `0.01` absolute, `1pp` points.",
        ),
        f("improve_by", Shape::Tolerance, "How much better than the baseline it must be."),
        f("beats", TEXTS, "Names of `benchmarks` that it must not be behind."),
        f(
            "evidence",
            Shape::Word(&["point", "interval"]),
            "`point` holds means against the thresholds; `interval` the 95 % interval, and is inconclusive without one. Default: \
             changes by the interval where seeds give one, `min` and `max` by the mean.",
        ),
        f("on_fail", Shape::Word(&["fail", "warn"]), "What a failing gate does. Default: fail."),
    ],
};

static REPORT: Section = Section {
    title: "`report`",
    one_of: &[],
    fields: &[
        f(
            "comment",
            Shape::Word(&["update", "none"]),
            "One comment that is kept up to date, or none. Default: update.",
        ),
        f(
            "plots",
            Shape::Many(&Shape::Text(Text::Metric)),
            "Metrics drawn as curves. Default: the primary one and losses.",
        ),
    ],
};

/// Words of other systems, and the key that does the same here.
pub(super) const FOREIGN: &[(&str, &str, &str)] = &[
    ("on", "when", "write `when:`; YAML 1.1 readers make true of `on`"),
    ("jobs", "steps", "write `steps:`, a list in which each step has a `name`"),
    ("stages", "steps", "write `steps:`; `needs` orders them"),
    ("tasks", "steps", "write `steps:`"),
    ("run", "commands", "write `commands:`"),
    ("script", "commands", "write `commands:`"),
    ("cmd", "commands", "write `commands:`"),
    ("before_script", "setup", "write `setup:`"),
    ("uses", "commands", "there are no actions here: write what it does as `commands:`"),
    ("runs_on", "pool", "write `pool:`, the name of a pool of the daemon's configuration"),
    ("tags", "pool", "write `pool:`, the name of a pool of the daemon's configuration"),
    ("node_selector", "pool", "write `pool:`; selectors belong to the daemon's configuration"),
    ("strategy", "matrix", "write `matrix:` in the step itself"),
    ("parallel", "matrix", "write `matrix:`"),
    ("timeout_minutes", "timeout", "write `timeout: 30m`"),
    ("depends_on", "needs", "write `needs:`"),
    ("dependencies", "needs", "write `needs:`"),
    ("environment", "env", "write `env:`"),
    ("variables", "env", "write `env:`"),
    ("vars", "env", "write `env:`"),
    ("outs", "artifacts", "write `artifacts:`"),
    ("outputs", "artifacts", "write `artifacts:`"),
    ("rules", "when", "write `when:`"),
    ("only", "when", "write `when:`"),
    ("trigger", "when", "write `when:`"),
    ("if", "when", "write `when:` at the top of the file"),
    ("container", "image", "write `image:`"),
    ("gpus", "gpu", "write `gpu:`"),
    ("mem", "memory", "write `memory:`"),
    ("cpus", "cpu", "write `cpu:`"),
    ("higher_is_better", "goal", "write `goal: max` or `goal: min`"),
    ("direction", "goal", "write `goal: max` or `goal: min`"),
    ("threshold", "min", "write `min:` or `max:`"),
    ("max_drop", "no_worse_than", "write `no_worse_than:`"),
    ("junit", "reports", "write `reports: {junit: FILE}`"),
    ("cpu", "resources", "write `resources: {cpu: 4}`"),
    ("memory", "resources", "write `resources: {memory: 32Gi}`"),
    ("shm", "resources", "write `resources: {shm: 8Gi}`"),
    ("branches", "branch", "write `branch:`"),
    ("schedule", "when", "write `when: [{event: cron, cron: \"0 3 * * *\"}]`"),
];

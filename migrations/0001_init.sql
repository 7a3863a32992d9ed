-- trainyard's tables. One text for SQLite and Postgres: TEXT ids (UUIDv7), BIGINT epoch milliseconds,
-- BOOLEAN, DOUBLE PRECISION, JSON as TEXT, bytes as BYTEA. No triggers, no SERIAL.
-- Each table states how long its rows are kept; `store::retention` is the code of those lines.

-- Facts about this installation (instance id, key for derived tokens). Kept for ever.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- Repositories seen at a configured forge. Kept for ever.
CREATE TABLE repos (
    id             TEXT PRIMARY KEY,
    forge          TEXT NOT NULL,
    forge_id       TEXT NOT NULL,
    name           TEXT NOT NULL,
    default_branch TEXT NOT NULL,
    created_ms     BIGINT NOT NULL,
    UNIQUE (forge, forge_id)
);

-- Webhook requests as received. Bodies 7 days (zstd; emptied, not deleted), rows 90 days: they are the
-- memory of which deliveries were seen.
CREATE TABLE deliveries (
    id            TEXT PRIMARY KEY,
    forge         TEXT NOT NULL,
    hook_id       TEXT NOT NULL,
    delivery_id   TEXT NOT NULL,
    event         TEXT NOT NULL,
    content_type  TEXT NOT NULL,
    headers       TEXT NOT NULL,
    body          BYTEA,
    body_bytes    BIGINT NOT NULL,
    body_sha256   TEXT NOT NULL,
    received_ms   BIGINT NOT NULL,
    state         TEXT NOT NULL,
    reason        TEXT NOT NULL DEFAULT '',
    decided_ms    BIGINT,
    UNIQUE (forge, hook_id, delivery_id)
);
CREATE INDEX deliveries_received ON deliveries (received_ms);

-- Work items: level-triggered, one open row for each (kind, key). Asking again while one is open only raises
-- `wanted`. Deleted when done; parked ones (five failures) 90 days.
CREATE TABLE work (
    kind           TEXT NOT NULL,
    key            TEXT NOT NULL,
    state          TEXT NOT NULL,
    run_at_ms      BIGINT NOT NULL,
    wanted         BIGINT NOT NULL,
    claimed        BIGINT NOT NULL DEFAULT 0,
    holder         TEXT NOT NULL DEFAULT '',
    epoch          BIGINT NOT NULL DEFAULT 0,
    lease_until_ms BIGINT NOT NULL DEFAULT 0,
    tries          BIGINT NOT NULL DEFAULT 0,
    last_error     TEXT NOT NULL DEFAULT '',
    created_ms     BIGINT NOT NULL,
    PRIMARY KEY (kind, key)
);
CREATE INDEX work_due ON work (state, run_at_ms);

-- Pull requests as last seen. Kept for ever.
CREATE TABLE pulls (
    repo_id     TEXT NOT NULL REFERENCES repos (id),
    number      BIGINT NOT NULL,
    title       TEXT NOT NULL,
    author_id   TEXT NOT NULL,
    author      TEXT NOT NULL,
    head_sha    TEXT NOT NULL,
    head_branch TEXT NOT NULL,
    base_branch TEXT NOT NULL,
    base_sha    TEXT NOT NULL,
    fork        BOOLEAN NOT NULL,
    draft       BOOLEAN NOT NULL,
    open        BOOLEAN NOT NULL,
    updated_ms  BIGINT NOT NULL,
    PRIMARY KEY (repo_id, number)
);
CREATE INDEX pulls_head ON pulls (repo_id, head_sha);

-- One execution of a pipeline. Kept for ever (without logs and artifacts it is small).
CREATE TABLE runs (
    id             TEXT PRIMARY KEY,
    repo_id        TEXT NOT NULL REFERENCES repos (id),
    pipeline       TEXT NOT NULL,
    head_sha       TEXT NOT NULL,
    trigger_key    TEXT NOT NULL,
    generation     BIGINT NOT NULL,
    branch         TEXT NOT NULL,
    message        TEXT NOT NULL,
    actor          TEXT NOT NULL,
    trusted        BOOLEAN NOT NULL,
    state          TEXT NOT NULL,
    reason         TEXT NOT NULL DEFAULT '',
    epoch          BIGINT NOT NULL DEFAULT 0,
    plan           TEXT NOT NULL,
    plan_digest    TEXT NOT NULL,
    variables      TEXT NOT NULL,
    concurrency    TEXT,
    cancel_request TEXT,
    created_ms     BIGINT NOT NULL,
    started_ms     BIGINT,
    ended_ms       BIGINT,
    UNIQUE (repo_id, pipeline, head_sha, trigger_key, generation)
);
CREATE INDEX runs_open ON runs (state);
CREATE INDEX runs_sha ON runs (repo_id, head_sha);
CREATE INDEX runs_group ON runs (concurrency, state);
CREATE INDEX runs_created ON runs (created_ms);

-- Who let an untrusted run go, and for which sha. Kept for ever.
CREATE TABLE releases (
    run_id     TEXT PRIMARY KEY REFERENCES runs (id),
    sha        TEXT NOT NULL,
    actor      TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);

-- Nodes of a run's graph. Kept with their run.
CREATE TABLE steps (
    id         TEXT PRIMARY KEY,
    run_id     TEXT NOT NULL REFERENCES runs (id),
    position   BIGINT NOT NULL,
    name       TEXT NOT NULL,
    state      TEXT NOT NULL,
    reason     TEXT NOT NULL DEFAULT '',
    epoch      BIGINT NOT NULL DEFAULT 0,
    outputs    TEXT NOT NULL DEFAULT '{}',
    ready_ms   BIGINT,
    started_ms BIGINT,
    ended_ms   BIGINT,
    UNIQUE (run_id, name)
);
CREATE INDEX steps_run ON steps (run_id, position);

-- Tries of a step. Kept with their run.
CREATE TABLE attempts (
    uid            TEXT PRIMARY KEY,
    run_id         TEXT NOT NULL REFERENCES runs (id),
    step_id        TEXT NOT NULL REFERENCES steps (id),
    number         BIGINT NOT NULL,
    state          TEXT NOT NULL,
    class          TEXT,
    reason         TEXT NOT NULL DEFAULT '',
    exit_code      BIGINT,
    executor       TEXT NOT NULL,
    pool           TEXT NOT NULL,
    gpus           TEXT NOT NULL DEFAULT '[]',
    bootstrap_hash TEXT NOT NULL,
    bootstrap_nonce TEXT NOT NULL DEFAULT '',
    sealed         BOOLEAN NOT NULL DEFAULT FALSE,
    cancel_request BOOLEAN NOT NULL DEFAULT FALSE,
    outputs        TEXT NOT NULL DEFAULT '{}',
    handle         TEXT NOT NULL DEFAULT '{}',
    log_bytes      BIGINT NOT NULL DEFAULT 0,
    log_lost_bytes BIGINT NOT NULL DEFAULT 0,
    metrics_seq    BIGINT NOT NULL DEFAULT 0,
    notes          TEXT NOT NULL DEFAULT '[]',
    intended_ms    BIGINT NOT NULL,
    submitted_ms   BIGINT,
    started_ms     BIGINT,
    heartbeat_ms   BIGINT,
    finished_ms    BIGINT,
    ended_ms       BIGINT,
    removed_ms     BIGINT,
    UNIQUE (step_id, number)
);
CREATE INDEX attempts_run ON attempts (run_id);
CREATE INDEX attempts_open ON attempts (state);

-- Where each stretch of a log lies in `blob`. 90 days.
CREATE TABLE log_segments (
    attempt_uid TEXT NOT NULL REFERENCES attempts (uid),
    start_byte  BIGINT NOT NULL,
    bytes       BIGINT NOT NULL,
    blob_key    TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    PRIMARY KEY (attempt_uid, start_byte)
);

-- Metric points as reported. Kept with their run. A value that is not finite is NULL with its word beside it.
CREATE TABLE metrics (
    attempt_uid TEXT NOT NULL REFERENCES attempts (uid),
    seq         BIGINT NOT NULL,
    run_id      TEXT NOT NULL REFERENCES runs (id),
    step_id     TEXT NOT NULL REFERENCES steps (id),
    name        TEXT NOT NULL,
    value       DOUBLE PRECISION,
    nonfinite   TEXT,
    train_step  BIGINT,
    at_ms       BIGINT NOT NULL,
    PRIMARY KEY (attempt_uid, seq)
);
CREATE INDEX metrics_run ON metrics (run_id, name);

-- Parameters as reported. Kept with their run.
CREATE TABLE params (
    attempt_uid TEXT NOT NULL REFERENCES attempts (uid),
    name        TEXT NOT NULL,
    run_id      TEXT NOT NULL REFERENCES runs (id),
    value       TEXT NOT NULL,
    PRIMARY KEY (attempt_uid, name)
);
CREATE INDEX params_run ON params (run_id);

-- Files that a step left. 30 days.
CREATE TABLE artifacts (
    attempt_uid TEXT NOT NULL REFERENCES attempts (uid),
    path        TEXT NOT NULL,
    run_id      TEXT NOT NULL REFERENCES runs (id),
    bytes       BIGINT NOT NULL,
    sha256      TEXT NOT NULL,
    executable  BOOLEAN NOT NULL,
    blob_key    TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    PRIMARY KEY (attempt_uid, path)
);
CREATE INDEX artifacts_run ON artifacts (run_id);

-- A candidate run held against a baseline, for one pull request ("pr:12") or branch ("branch:main").
-- Kept with their run.
CREATE TABLE comparisons (
    id               TEXT PRIMARY KEY,
    candidate_run_id TEXT NOT NULL REFERENCES runs (id),
    baseline_run_id  TEXT REFERENCES runs (id),
    baseline_note    TEXT NOT NULL,
    target           TEXT NOT NULL,
    gates_digest     TEXT NOT NULL,
    rules            TEXT NOT NULL,
    state            TEXT NOT NULL,
    verdict          TEXT,
    result           TEXT NOT NULL DEFAULT '{}',
    created_ms       BIGINT NOT NULL,
    wait_until_ms    BIGINT NOT NULL,
    updated_ms       BIGINT NOT NULL
);
CREATE UNIQUE INDEX comparisons_live ON comparisons (candidate_run_id, target) WHERE state <> 'superseded';
CREATE INDEX comparisons_baseline ON comparisons (baseline_run_id);

-- What a forge should show, and what it was last told. `desired_seq` grows with each change; the sender
-- always delivers the newest. Kept 90 days after the last change.
CREATE TABLE outbox (
    id          TEXT PRIMARY KEY,
    credential  TEXT NOT NULL,
    repo_id     TEXT NOT NULL REFERENCES repos (id),
    kind        TEXT NOT NULL,
    target      TEXT NOT NULL,
    desired     TEXT NOT NULL,
    desired_seq BIGINT NOT NULL,
    sent_seq    BIGINT NOT NULL DEFAULT 0,
    final       BOOLEAN NOT NULL DEFAULT FALSE,
    state       TEXT NOT NULL,
    writes      BIGINT NOT NULL DEFAULT 0,
    remote_id   TEXT NOT NULL DEFAULT '',
    next_ms     BIGINT NOT NULL,
    tries       BIGINT NOT NULL DEFAULT 0,
    last_error  TEXT NOT NULL DEFAULT '',
    created_ms  BIGINT NOT NULL,
    updated_ms  BIGINT NOT NULL,
    UNIQUE (repo_id, kind, target)
);
CREATE INDEX outbox_due ON outbox (credential, state, next_ms);

-- API tokens, by the SHA-256 of their text. Kept for ever, so that the log of who did what stays readable.
CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    hash       TEXT NOT NULL UNIQUE,
    scope      TEXT NOT NULL,
    repo       TEXT,
    created_ms BIGINT NOT NULL,
    revoked_ms BIGINT
);

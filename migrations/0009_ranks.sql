-- Attempts of several pods. Rank 0 leads and is the attempt's own row; the others have what they said beside it.

-- How many pods an attempt has.
ALTER TABLE attempts ADD COLUMN ranks BIGINT NOT NULL DEFAULT 1;
-- How long they held their nodes, added up, where the executor knows.
ALTER TABLE attempts ADD COLUMN held_pods_ms BIGINT;

-- The ranks of attempts of several pods, each from its agent's first word on. Of rank 0 only the start and the end count here.
-- Kept with their run.
CREATE TABLE attempt_ranks (
    attempt_uid    TEXT NOT NULL REFERENCES attempts (uid),
    rank           BIGINT NOT NULL,
    run_id         TEXT NOT NULL REFERENCES runs (id),
    nonce          TEXT NOT NULL,
    sealed         BOOLEAN NOT NULL DEFAULT FALSE,
    log_bytes      BIGINT NOT NULL DEFAULT 0,
    log_lost_bytes BIGINT NOT NULL DEFAULT 0,
    metrics_seq    BIGINT NOT NULL DEFAULT 0,
    class          TEXT,
    exit_code      BIGINT,
    reason         TEXT NOT NULL DEFAULT '',
    heard_ms       BIGINT NOT NULL,
    started_ms     BIGINT,
    ended_ms       BIGINT,
    PRIMARY KEY (attempt_uid, rank)
);
CREATE INDEX attempt_ranks_run ON attempt_ranks (run_id);

-- Metric points of ranks beside the leader, at most 100,000 of each: for looking at; nothing is compared or counted by them. Kept
-- with their run.
CREATE TABLE rank_metrics (
    attempt_uid TEXT NOT NULL REFERENCES attempts (uid),
    rank        BIGINT NOT NULL,
    seq         BIGINT NOT NULL,
    name        TEXT NOT NULL,
    value       DOUBLE PRECISION,
    nonfinite   TEXT,
    train_step  BIGINT,
    at_ms       BIGINT NOT NULL,
    PRIMARY KEY (attempt_uid, rank, seq)
);

-- Where each stretch of a log lies in `blob`: one log for each rank. 90 days.
CREATE TABLE log_stretches (
    attempt_uid TEXT NOT NULL REFERENCES attempts (uid),
    rank        BIGINT NOT NULL,
    start_byte  BIGINT NOT NULL,
    bytes       BIGINT NOT NULL,
    blob_key    TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    PRIMARY KEY (attempt_uid, rank, start_byte)
);
INSERT INTO log_stretches (attempt_uid, rank, start_byte, bytes, blob_key, created_ms)
SELECT attempt_uid, 0, start_byte, bytes, blob_key, created_ms FROM log_segments;
DROP TABLE log_segments;
ALTER TABLE log_stretches RENAME TO log_segments;
CREATE INDEX log_segments_blob ON log_segments (blob_key);
CREATE INDEX log_segments_created ON log_segments (created_ms);

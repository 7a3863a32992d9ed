-- Several daemons on one database, and queries that an index answers whatever the tables hold.

-- Daemons that use this database, one row for each machine (data directory), renewed every 10 s. Rows of machines that were silent for
-- 90 days are deleted.
CREATE TABLE daemons (
    machine    TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    holder     TEXT NOT NULL,
    version    TEXT NOT NULL,
    blob       TEXT NOT NULL,
    started_ms BIGINT NOT NULL,
    seen_ms    BIGINT NOT NULL
);

-- Work that only one machine can do (its local processes); '' is everyone's. `waits` counts how often an item waited for something
-- outside (a forge that is away); `tries` counts failures of our own, which park it.
ALTER TABLE work ADD COLUMN machine TEXT NOT NULL DEFAULT '';
ALTER TABLE work ADD COLUMN waits BIGINT NOT NULL DEFAULT 0;
DROP INDEX work_due;
CREATE INDEX work_due ON work (kind, state, run_at_ms);
CREATE INDEX work_parked ON work (run_at_ms) WHERE state = 'parked';

-- Where a local attempt's processes are; '' for executors that every daemon reaches.
ALTER TABLE attempts ADD COLUMN machine TEXT NOT NULL DEFAULT '';

-- Grows with each decision about a repository's deliveries: one that was made on older facts is made again.
ALTER TABLE repos ADD COLUMN decisions BIGINT NOT NULL DEFAULT 0;

-- Pages of runs are walked by id, newest first, within one of these.
DROP INDEX runs_open;
CREATE INDEX runs_state ON runs (state, id);
CREATE INDEX runs_repo ON runs (repo_id, id);
CREATE INDEX runs_branch ON runs (branch, id);

-- A delivery is also found by the forge's id.
CREATE INDEX deliveries_delivery_id ON deliveries (delivery_id);

-- Which blobs a row names: for the collection of those that none does.
CREATE INDEX log_segments_blob ON log_segments (blob_key);
CREATE INDEX artifacts_blob ON artifacts (blob_key);
CREATE INDEX log_segments_created ON log_segments (created_ms);
CREATE INDEX artifacts_created ON artifacts (created_ms);
CREATE INDEX outbox_updated ON outbox (updated_ms);

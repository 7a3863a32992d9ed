-- The fair queue, reused steps, and caches of dependencies.

-- How long repositories held places of pools: milliseconds of GPUs, of the place itself where a step had none; by the
-- quarter of an hour in which the attempt ended. 90 days.
CREATE TABLE pool_usage (
    repo_id   TEXT NOT NULL REFERENCES repos (id),
    pool      TEXT NOT NULL,
    bucket_ms BIGINT NOT NULL,
    used_ms   BIGINT NOT NULL,
    PRIMARY KEY (repo_id, pool, bucket_ms)
);
CREATE INDEX pool_usage_bucket ON pool_usage (bucket_ms);

-- Pipelines as the default branch last had them, with the priority class that they name. Kept for ever.
CREATE TABLE pipelines (
    repo_id    TEXT NOT NULL REFERENCES repos (id),
    name       TEXT NOT NULL,
    priority   TEXT,
    updated_ms BIGINT NOT NULL,
    PRIMARY KEY (repo_id, name)
);

-- What a step's result depends on, as a digest and in parts; `-` where that cannot be told. NULL: nobody looked.
ALTER TABLE steps ADD COLUMN reuse_key TEXT;
ALTER TABLE steps ADD COLUMN reuse_parts TEXT NOT NULL DEFAULT '{}';
-- The step whose result stands for this one's.
ALTER TABLE steps ADD COLUMN reused_from TEXT;
CREATE INDEX steps_reuse ON steps (reuse_key);
CREATE INDEX steps_named ON steps (name, state);

-- Directories kept between runs: one archive for each key, never changed. Deleted 30 days after the last use, and from the
-- least recently used on when a repository's are larger than its quota.
CREATE TABLE caches (
    repo_id    TEXT NOT NULL REFERENCES repos (id),
    key        TEXT NOT NULL,
    bytes      BIGINT NOT NULL,
    sha256     TEXT NOT NULL,
    blob_key   TEXT NOT NULL,
    -- The branch of the run that wrote it: untrusted runs read what the default branch wrote.
    branch     TEXT NOT NULL,
    run_id     TEXT NOT NULL REFERENCES runs (id),
    created_ms BIGINT NOT NULL,
    used_ms    BIGINT NOT NULL,
    PRIMARY KEY (repo_id, key)
);
CREATE INDEX caches_used ON caches (used_ms);
CREATE INDEX caches_blob ON caches (blob_key);

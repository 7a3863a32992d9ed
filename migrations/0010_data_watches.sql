-- Where pipelines of the default branch look for new data (`event: data`), and what was last seen there. Replaced by each push to
-- the default branch; kept as long as the pipeline file names the place.
CREATE TABLE data_watches (
    repo_id    TEXT NOT NULL REFERENCES repos (id),
    pipeline   TEXT NOT NULL,
    prefix     TEXT NOT NULL,
    branch     TEXT NOT NULL,
    sha        TEXT NOT NULL,
    -- Of the listing that runs know of; NULL: never listed.
    digest     TEXT,
    -- Of another one that was seen once; what is being written is not run on.
    seen       TEXT,
    -- Changes that were handed in.
    changes    BIGINT NOT NULL DEFAULT 0,
    files      BIGINT NOT NULL DEFAULT 0,
    bytes      BIGINT NOT NULL DEFAULT 0,
    looked_ms  BIGINT,
    -- Why the last look failed; empty: it did not.
    error      TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (repo_id, pipeline, prefix)
);

-- What the `data` step of an attempt found: columns, counts and shares, never values of the data. At most 50 of an attempt,
-- each of at most 200 findings and 500 columns. Kept with their run.
CREATE TABLE data_reports (
    attempt_uid TEXT NOT NULL REFERENCES attempts (uid),
    position    BIGINT NOT NULL,
    run_id      TEXT NOT NULL REFERENCES runs (id),
    name        TEXT NOT NULL,
    passed      BOOLEAN NOT NULL,
    report      TEXT NOT NULL,
    PRIMARY KEY (attempt_uid, position)
);
CREATE INDEX data_reports_run ON data_reports (run_id);

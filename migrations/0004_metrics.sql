-- What each attempt said of each metric last, so that comparing and reporting read one row a metric and not all points.
-- `plain_*`: the last point without a training step; `stepped_*`: the point of the highest training step. Kept with their run.
CREATE TABLE metric_last (
    attempt_uid       TEXT NOT NULL REFERENCES attempts (uid),
    name              TEXT NOT NULL,
    run_id            TEXT NOT NULL REFERENCES runs (id),
    points            BIGINT NOT NULL,
    plain_value       DOUBLE PRECISION,
    plain_nonfinite   TEXT,
    plain_at_ms       BIGINT,
    plain_seq         BIGINT,
    stepped_value     DOUBLE PRECISION,
    stepped_nonfinite TEXT,
    stepped_step      BIGINT,
    stepped_at_ms     BIGINT,
    stepped_seq       BIGINT,
    PRIMARY KEY (attempt_uid, name)
);
CREATE INDEX metric_last_run ON metric_last (run_id);

-- Points that were there before this table.
INSERT INTO metric_last (attempt_uid, name, run_id, points, plain_value, plain_nonfinite, plain_at_ms, plain_seq,
    stepped_value, stepped_nonfinite, stepped_step, stepped_at_ms, stepped_seq)
SELECT c.attempt_uid, c.name, c.run_id, c.points, p.value, p.nonfinite, p.at_ms, p.seq,
    s.value, s.nonfinite, s.train_step, s.at_ms, s.seq
FROM (SELECT attempt_uid, name, run_id, COUNT(*) AS points FROM metrics GROUP BY attempt_uid, name, run_id) c
LEFT JOIN (SELECT attempt_uid, name, value, nonfinite, at_ms, seq,
        ROW_NUMBER() OVER (PARTITION BY attempt_uid, name ORDER BY at_ms DESC, seq DESC) AS nth
    FROM metrics WHERE train_step IS NULL) p
    ON p.attempt_uid = c.attempt_uid AND p.name = c.name AND p.nth = 1
LEFT JOIN (SELECT attempt_uid, name, value, nonfinite, train_step, at_ms, seq,
        ROW_NUMBER() OVER (PARTITION BY attempt_uid, name ORDER BY train_step DESC, at_ms DESC, seq DESC) AS nth
    FROM metrics WHERE train_step IS NOT NULL) s
    ON s.attempt_uid = c.attempt_uid AND s.name = c.name AND s.nth = 1;

-- Where an attempt's metrics came from, and what was passed over and why. At most 200 of an attempt. Kept with their run.
CREATE TABLE metric_sources (
    attempt_uid TEXT NOT NULL REFERENCES attempts (uid),
    position    BIGINT NOT NULL,
    run_id      TEXT NOT NULL REFERENCES runs (id),
    kind        TEXT NOT NULL,
    place       TEXT NOT NULL,
    used        BOOLEAN NOT NULL,
    points      BIGINT NOT NULL,
    params      BIGINT NOT NULL,
    note        TEXT NOT NULL,
    PRIMARY KEY (attempt_uid, position)
);
CREATE INDEX metric_sources_run ON metric_sources (run_id);

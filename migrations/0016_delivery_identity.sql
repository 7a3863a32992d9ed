-- A delivery's identity begins with the forge's id, by which people look for it, so that one index serves both; each further one is
-- written with every delivery that comes in. SQLite cannot replace a constraint, so the table is made anew.
-- Renamed first: on Postgres that keeps other daemons from writing to the old table until the new one has all of it.
ALTER TABLE deliveries RENAME TO deliveries_old;
CREATE TABLE deliveries (
    id            TEXT NOT NULL,
    forge         TEXT NOT NULL,
    hook_id       TEXT NOT NULL,
    delivery_id   TEXT NOT NULL,
    event         TEXT NOT NULL,
    content_type  TEXT NOT NULL,
    headers       TEXT NOT NULL,
    body          BYTEA,
    body_bytes    BIGINT NOT NULL,
    received_ms   BIGINT NOT NULL,
    state         TEXT NOT NULL,
    reason        TEXT NOT NULL DEFAULT '',
    decided_ms    BIGINT,
    CONSTRAINT deliveries_id PRIMARY KEY (id),
    CONSTRAINT deliveries_identity UNIQUE (delivery_id, hook_id, forge)
);
INSERT INTO deliveries (id, forge, hook_id, delivery_id, event, content_type, headers, body, body_bytes, received_ms, state, reason,
    decided_ms)
  SELECT id, forge, hook_id, delivery_id, event, content_type, headers, body, body_bytes, received_ms, state, reason, decided_ms
    FROM deliveries_old ORDER BY id;
DROP TABLE deliveries_old;
CREATE INDEX deliveries_received ON deliveries (received_ms);

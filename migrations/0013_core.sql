-- A claim takes the front of what is due. With thousands of items due at one time, as after a start, they are not sorted for it.
DROP INDEX work_due;
CREATE INDEX work_due ON work (kind, state, run_at_ms, key);

-- What may still be there outside: looked for by the scheduler (a local place is free once nothing of its last attempt is left) and by
-- the search for orphans.
CREATE INDEX attempts_unremoved ON attempts (uid) WHERE removed_ms IS NULL;

-- How busy the attempt's GPUs were, 0 to 1, where a monitor knew.
ALTER TABLE attempts ADD COLUMN gpu_busy DOUBLE PRECISION;

-- What GPU time costs. Retention as their tables.

-- From when to when a pod held its node, where the executor knows.
ALTER TABLE attempts ADD COLUMN held_from_ms BIGINT;
ALTER TABLE attempts ADD COLUMN held_to_ms BIGINT;
-- Of `used_ms`, what was GPU time between the agent's start and the end: what budgets count.
ALTER TABLE pool_usage ADD COLUMN gpu_ms BIGINT NOT NULL DEFAULT 0;

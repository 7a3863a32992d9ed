-- Commits on which a good run, or another one, makes for another baseline (a JSON array), so that a run that ends wakes only the
-- comparisons that it concerns. NULL: any good run of the base branch may. Kept with the comparison.
ALTER TABLE comparisons ADD COLUMN nearer TEXT;

-- What the lists and trends of the dashboard read, newest first: no page scans more than it shows.
CREATE INDEX runs_of_repo ON runs (repo_id, id);
CREATE INDEX runs_of_branch ON runs (repo_id, branch, id);

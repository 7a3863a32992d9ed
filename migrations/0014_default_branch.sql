-- The commit of the default branch whose pipeline files watches and priorities are taken from, so that an older push that is decided
-- late takes nothing back. NULL: none was decided since this column came. Kept with the repository.
ALTER TABLE repos ADD COLUMN files_sha TEXT;

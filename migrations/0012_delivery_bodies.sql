-- A body's digest cost the intake as much as verifying its signature, and is derived: whoever wants it hashes the body.
ALTER TABLE deliveries DROP COLUMN body_sha256;

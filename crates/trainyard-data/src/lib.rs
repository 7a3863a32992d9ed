//! Profiles, checks and statistics of tabular data.

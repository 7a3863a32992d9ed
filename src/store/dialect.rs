//! The few places where SQLite and Postgres differ.

//! What several test files need. Keep it small.

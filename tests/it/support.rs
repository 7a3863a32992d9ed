//! What several test files need. Keep it small.

use std::path::{Path, PathBuf};

/// The folder of an npm package of `tests/npm/package.json`.
pub fn npm(package: &str) -> PathBuf {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/npm/node_modules").join(package);
    assert!(at.is_dir(), "the npm package {package} is not installed: run make setup");
    at
}

/// The folder of a Go module of `tests/go/modules.txt`.
pub fn go_module(module: &str) -> PathBuf {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/go").join(module);
    assert!(at.is_dir(), "the Go module {module} is not there: run make setup");
    at
}

//! The store on Postgres, directly and through a pooler: a new database for each case, on one server.

use std::path::PathBuf;

use trainyard::store::Store;

use super::fixture::Place;
pub use crate::postgres::{Pooler, Server};

/// A store on a new database, seen directly.
pub async fn direct(server: &Server, case: &str) -> Place {
    let options = server.create(case).await;
    let store = Store::open(&options).await.unwrap();
    Place::new(store, options, PathBuf::new(), tempfile::tempdir().unwrap())
}

/// The same through the pooler, migrations included.
pub async fn pooled(server: &Server, pooler: &Pooler, case: &str) -> Place {
    server.create(case).await;
    let options = pooler.options(case);
    let store = Store::open(&options).await.unwrap();
    Place::new(store, options, PathBuf::new(), tempfile::tempdir().unwrap())
}

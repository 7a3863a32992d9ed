//! One binary for the tests that drive real parts together. Each file says which promise or Show line it serves.

mod architecture;
mod forge_webhooks;
mod store;
mod support;
mod web;

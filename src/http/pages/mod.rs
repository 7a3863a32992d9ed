//! The dashboard: server-rendered pages.

pub mod chart;
pub mod graph;
pub mod report;

//! The Kubernetes executor: its manifests as golden files, and what it does on a real cluster.

mod busy;
mod chart;
pub mod cluster;
mod ends;
mod fates;
mod golden;
mod launches;
mod orphans;
mod queues;
mod ranks;
mod release;
mod story;
mod taken;
mod verbs;
mod watching;
mod yard;

//! How waiting steps are ordered: classes of priority, half-life of what was used, ageing.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ConfigError, RepositoryConfig, refuse};

/// The class of runs of which nobody says another.
pub const NORMAL: &str = "normal";

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// After so many seconds, what a repository used of a pool counts half.
    pub half_life_s: i64,
    /// After so many seconds of waiting, a step counts as of the highest class that waits for its pool.
    pub ageing_s: i64,
    /// Classes by name; the higher number goes first. A name that is not here has 0.
    pub priorities: BTreeMap<String, i32>,
}

impl Default for QueueConfig {
    fn default() -> Self {
        let priorities = [("low", -10), (NORMAL, 0), ("high", 10)];
        Self {
            half_life_s: 24 * 3600,
            ageing_s: 6 * 3600,
            priorities: priorities.into_iter().map(|(name, rank)| (name.to_owned(), rank)).collect(),
        }
    }
}

impl QueueConfig {
    pub(super) fn check(&self, repositories: &[RepositoryConfig]) -> Result<(), ConfigError> {
        for (key, value) in [("half_life_s", self.half_life_s), ("ageing_s", self.ageing_s)] {
            if !(1..=1 << 40).contains(&value) {
                return refuse(format!("queue.{key} is {value}; it must be 1 to {}", 1_i64 << 40));
            }
        }
        for repository in repositories {
            if !(repository.weight.is_finite() && repository.weight > 0.0) {
                return refuse(format!(
                    "repository {:?}: weight is {}; it must be above 0",
                    repository.name, repository.weight
                ));
            }
            for class in [&repository.priority, &repository.priority_max].into_iter().flatten() {
                if !self.priorities.contains_key(class) {
                    let known: Vec<&str> = self.priorities.keys().map(String::as_str).collect();
                    return refuse(format!(
                        "repository {:?} names the priority {class:?}; [queue.priorities] has {}",
                        repository.name,
                        known.join(", ")
                    ));
                }
            }
        }
        Ok(())
    }

    fn rank_of(&self, class: &str) -> Option<i32> {
        self.priorities.get(class).copied()
    }

    /// The rank of a run: what the default branch's pipeline file names (`named`), but never above the repository's
    /// `priority_max`, which is its `priority` unless an administrator says more. A class that is not configured counts as none.
    pub fn rank(&self, repository: Option<&RepositoryConfig>, named: Option<&str>) -> i32 {
        let own = repository.and_then(|r| r.priority.as_deref()).unwrap_or(NORMAL);
        let own = self.rank_of(own).unwrap_or(0);
        let most = repository
            .and_then(|r| r.priority_max.as_deref())
            .and_then(|class| self.rank_of(class))
            .unwrap_or(own);
        named.and_then(|class| self.rank_of(class)).unwrap_or(own).min(most.max(own))
    }
}

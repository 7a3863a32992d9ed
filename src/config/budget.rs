//! How many GPU hours a repository may use. Pure; whoever asks brings what was used.

use serde::Deserialize;

use super::{ConfigError, refuse};
use crate::clock::Millis;

const HOUR_MS: f64 = 3_600_000.0;

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Beyond it comments warn.
    #[serde(default)]
    pub gpu_hours_soft: Option<f64>,
    /// Beyond it no further step with GPUs begins; what runs goes on, and is tried again where it would be.
    #[serde(default)]
    pub gpu_hours_hard: Option<f64>,
    /// Of so many days back, each hour of it anew.
    #[serde(default = "month")]
    pub days: i64,
}

fn month() -> i64 {
    30
}

impl Budget {
    pub(super) fn check(&self, repository: &str) -> Result<(), ConfigError> {
        // What was used is remembered for 90 days.
        if !(1..=90).contains(&self.days) {
            return refuse(format!(
                "repository {repository}: budget.days is {}; it must be 1 to 90",
                self.days
            ));
        }
        if self.gpu_hours_soft.is_none() && self.gpu_hours_hard.is_none() {
            return refuse(format!(
                "repository {repository}: budget has no limit; set gpu_hours_soft, gpu_hours_hard or both"
            ));
        }
        for (name, hours) in [("soft", self.gpu_hours_soft), ("hard", self.gpu_hours_hard)] {
            if hours.is_some_and(|hours| !hours.is_finite() || hours < 0.0) {
                return refuse(format!(
                    "repository {repository}: budget.gpu_hours_{name} must be 0 or a positive number"
                ));
            }
        }
        Ok(())
    }

    /// The beginning of its time.
    pub fn since(&self, now: Millis) -> Millis {
        now - self.days * 24 * 3_600_000
    }

    /// Why a step that asks for GPUs does not begin.
    pub fn refuses(&self, used_ms: i64) -> Option<String> {
        let hard = self.gpu_hours_hard.filter(|hard| used_ms as f64 >= hard * HOUR_MS)?;
        Some(format!(
            "the repository's budget is spent: {} of {} GPU hours in {}; an administrator can raise budget.gpu_hours_hard",
            hours(used_ms),
            hours_of(hard),
            self.span()
        ))
    }

    /// What comments say. The hard limit is the nearer word where both are reached.
    pub fn warns(&self, used_ms: i64) -> Option<String> {
        let reached = |limit: Option<f64>| limit.filter(|limit| used_ms as f64 >= limit * HOUR_MS);
        let (limit, what) = match (reached(self.gpu_hours_hard), reached(self.gpu_hours_soft)) {
            (Some(hard), _) => (hard, "no further step with GPUs begins"),
            (None, Some(soft)) => (soft, "a soft budget: steps begin all the same"),
            (None, None) => return None,
        };
        Some(format!("{} of {} GPU hours used in {} ({what})", hours(used_ms), hours_of(limit), self.span()))
    }

    fn span(&self) -> String {
        if self.days == 1 { "one day".into() } else { format!("{} days", self.days) }
    }
}

fn hours(ms: i64) -> String {
    hours_of(ms as f64 / HOUR_MS)
}

/// Three digits say enough.
fn hours_of(hours: f64) -> String {
    let text = if hours >= 100.0 {
        format!("{hours:.0}")
    } else if hours >= 1.0 {
        format!("{hours:.1}")
    } else {
        format!("{hours:.2}")
    };
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_budget_refuses_and_a_soft_one_warns() {
        let budget = Budget { gpu_hours_soft: Some(80.0), gpu_hours_hard: Some(100.0), days: 30 };
        let at = |hours: f64| (hours * HOUR_MS) as i64;
        let rows = [
            (79.9, None, None),
            (
                80.0,
                None,
                Some("80 of 80 GPU hours used in 30 days (a soft budget: steps begin all the same)"),
            ),
            (
                101.2,
                Some(
                    "the repository's budget is spent: 101 of 100 GPU hours in 30 days; an administrator can raise \
                     budget.gpu_hours_hard",
                ),
                Some("101 of 100 GPU hours used in 30 days (no further step with GPUs begins)"),
            ),
        ];
        for (used, refuses, warns) in rows {
            assert_eq!(budget.refuses(at(used)).as_deref(), refuses, "{used}");
            assert_eq!(budget.warns(at(used)).as_deref(), warns, "{used}");
        }
        assert_eq!(hours_of(0.254), "0.25");
        let soft = Budget { gpu_hours_hard: None, ..budget };
        assert_eq!(soft.refuses(at(1e6)), None);
        assert!(Budget { days: 91, ..budget }.check("a/b").is_err());
        assert!(Budget { gpu_hours_soft: None, ..soft }.check("a/b").is_err());
        assert!(Budget { gpu_hours_soft: Some(f64::NAN), ..soft }.check("a/b").is_err());
        assert!(budget.check("a/b").is_ok());
    }
}

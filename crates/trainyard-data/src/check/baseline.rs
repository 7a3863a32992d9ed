//! A table against its baseline: schema and quality, and drift told as findings.

use std::collections::BTreeSet;

use crate::compat;
use crate::drift::{ColumnDrift, Scale, Verdict, identifies};
use crate::error::Result;
use crate::findings::{Example, Finding, Severity, shown};
use crate::profile::{ColumnProfile, Numbers, Profile};
use crate::rules::{OnFail, Rules, Stage};
use crate::schema::Kind;
use crate::source::Source;
use crate::stats;

/// Schema and quality against the baseline: what is no matter of distribution.
pub(super) fn against_baseline(
    baseline: &Profile,
    candidate: &Profile,
    rules: &Rules,
    findings: &mut Vec<Finding>,
) {
    let severity = match rules.drift.on_fail {
        OnFail::Fail => Severity::Fail,
        OnFail::Warn => Severity::Warn,
    };
    for old in &baseline.columns {
        let name = &old.field.name;
        let Some(new) = candidate.column(name) else {
            if !rules.schema.get(name).is_some_and(|r| r.optional || r.stage == Some(Stage::Deprecated)) {
                findings.push(
                    Finding::new(severity, "removed_column", Some(name), "the baseline has this column")
                        .counted(1, 1),
                );
            }
            continue;
        };
        let mut find = |rule: &'static str, message: String, count: u64, of: u64| {
            findings.push(Finding::new(severity, rule, Some(name), message).counted(count, of));
        };
        if old.field.kind != new.field.kind {
            find("retyped_column", format!("is {}, was {}", new.field.kind, old.field.kind), 1, 1);
            continue;
        }
        if old.rows > 0 && new.rows > 0 {
            let jump = new.null_share() - old.null_share();
            let (_, p) = stats::two_proportion_z(new.nulls, new.rows, old.nulls, old.rows);
            if jump >= rules.drift.null_jump && p <= rules.drift.alpha {
                find(
                    "null_jump",
                    format!(
                        "{:.2}% nulls, were {:.2}% (p {p:.2e})",
                        new.null_share() * 100.0,
                        old.null_share() * 100.0
                    ),
                    new.nulls,
                    new.rows,
                );
            }
            if new.present() == not_finite(new) && old.present() > not_finite(old) {
                find("no_values", "has no values any more".into(), new.rows, new.rows);
            }
            let (bad, was) = (not_finite(new), not_finite(old));
            let share = |bad: u64, rows: u64| bad as f64 / rows as f64;
            let jump = share(bad, new.rows) - share(was, old.rows);
            let (_, p) = stats::two_proportion_z(bad, new.rows, was, old.rows);
            if bad > 0 && was == 0 {
                let message = "values that are NaN or infinite; the baseline has none".into();
                find("not_finite", message, bad, new.rows);
            } else if jump >= rules.drift.null_jump && p <= rules.drift.alpha {
                let message = format!(
                    "{:.2}% of the values are NaN or infinite, were {:.2}% (p {p:.2e})",
                    share(bad, new.rows) * 100.0,
                    share(was, old.rows) * 100.0
                );
                find("not_finite", message, bad, new.rows);
            }
        }
        let (was, _) = old.distinct.count();
        let (is, _) = new.distinct.count();
        if was > 1.0 && is == 1.0 && new.present() >= rules.drift.min_rows {
            find("constant_column", format!("has one value only, had {was:.0}"), new.present(), new.rows);
        }
        unseen(old, new, rules, severity, findings);
        findings.extend(identifier_moved(old, new, rules));
    }
    for new in &candidate.columns {
        if baseline.column(&new.field.name).is_none() {
            let severity = if rules.schema.contains_key(&new.field.name) { Severity::Info } else { severity };
            findings.push(
                Finding::new(
                    severity,
                    "added_column",
                    Some(&new.field.name),
                    "the baseline lacks this column",
                )
                .counted(1, 1),
            );
        }
    }
    let common = |p: &Profile, q: &Profile| -> Vec<String> {
        p.columns.iter().map(|c| c.field.name.clone()).filter(|c| q.column(c).is_some()).collect()
    };
    if common(baseline, candidate) != common(candidate, baseline) {
        findings.push(Finding::new(
            Severity::Warn,
            "reordered_columns",
            None,
            "the columns stand in another order than in the baseline",
        ));
    }
}

fn not_finite(column: &ColumnProfile) -> u64 {
    column.nan + column.infinite
}

/// Integers that are almost all distinct are taken for identifiers and not tested; amounts of money may be such too.
/// Counters fill their range and rise by nature; of others it is told when their mean has moved.
fn identifier_moved(old: &ColumnProfile, new: &ColumnProfile, rules: &Rules) -> Option<Finding> {
    let name = &new.field.name;
    let rule = rules.schema.get(name);
    let known = rules.drift.ignore.contains(name)
        || rule.is_some_and(|r| r.no_drift || r.unique)
        || rules.unique.iter().any(|key| key.len() == 1 && key[0] == *name);
    if known || new.field.kind != Kind::Int || !identifies(old) || !identifies(new) {
        return None;
    }
    let (was, is) = (old.numbers.as_ref()?, new.numbers.as_ref()?);
    let counter = |n: &Numbers| n.max - n.min < 2.0 * n.count as f64;
    if was.count.min(is.count) < rules.drift.min_rows || counter(was) && counter(is) {
        return None;
    }
    let moved = Scale::of(old).units((is.mean() - was.mean()).abs());
    // Four standard errors: chance moves one of 16,000 means as far.
    let chance = 4.0 * (1.0 / was.count as f64 + 1.0 / is.count as f64).sqrt();
    (moved >= rules.drift.min_shift && moved >= chance).then(|| {
        Finding::new(
            Severity::Warn,
            "identifier_moved",
            Some(name),
            format!(
                "not tested for drift, as almost every value is distinct; but the mean moved by {} standard deviations. Write `no_drift: true` if it is an identifier",
                size(moved)
            ),
        )
    })
}

/// Categories that the baseline does not know.
fn unseen(
    old: &ColumnProfile,
    new: &ColumnProfile,
    rules: &Rules,
    severity: Severity,
    findings: &mut Vec<Finding>,
) {
    let (Some(known), Some(now)) = (old.distinct.texts(), new.distinct.texts()) else { return };
    // A column of free text or names: new values are its nature.
    if known.len() as f64 > 0.2 * old.present() as f64 {
        return;
    }
    let known: BTreeSet<&str> = known.into_iter().map(|t| t.0).collect();
    let fresh: Vec<(&str, u64)> = now.into_iter().filter(|t| !known.contains(t.0)).collect();
    if fresh.is_empty() {
        return;
    }
    let rule = rules.schema.get(&new.field.name);
    let count = fresh.iter().map(|f| f.1).sum();
    let examples = fresh
        .iter()
        .take(20)
        .map(|(value, count)| Example { row: None, value: format!("{} × {count}", shown(value)) })
        .collect();
    findings.push(
        Finding::new(
            severity,
            "unseen_category",
            Some(&new.field.name),
            if fresh.len() == 1 {
                "a value that the baseline does not have".to_owned()
            } else {
                format!("{} values that the baseline does not have", fresh.len())
            },
        )
        .counted(count, new.present())
        .with_examples(examples, rule.is_some_and(|r| r.personal)),
    );
}

/// Drift, as findings.
pub(super) fn told(drift: &[ColumnDrift], rules: &Rules, findings: &mut Vec<Finding>) {
    let severity = match rules.drift.on_fail {
        OnFail::Fail => Severity::Fail,
        OnFail::Warn => Severity::Warn,
    };
    for column in drift.iter().filter(|d| d.verdict == Verdict::Drifted) {
        let mut effects = Vec::new();
        if let Some(shift) = column.shift {
            effects.push(format!("moved by {} standard deviations", size(shift)));
        }
        effects.push(format!("PSI {:.3}", column.psi));
        if column.shift.is_none() {
            effects.push(format!("Cramér's V {:.3}", column.v));
        }
        let rule = if column.label { "label_drift" } else { "drift" };
        findings.push(Finding::new(
            severity,
            rule,
            Some(&column.column),
            format!("{} (adjusted p {})", effects.join(", "), chance(column.p_adjusted)),
        ));
    }
    // Nobody may read a pass where there was nothing to judge by.
    let few = drift.iter().filter(|d| d.verdict == Verdict::TooFewRows).count();
    if few > 0 {
        findings.push(Finding::new(
            Severity::Warn,
            "too_few_rows",
            None,
            format!(
                "{few} columns have too few values for a verdict on drift (at least {} on each side)",
                rules.drift.min_rows
            ),
        ));
    }
}

/// Drift as Evidently decides it, column by column and for the table.
pub(super) fn like_evidently(
    reference: &Source,
    current: &Source,
    rules: &Rules,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let severity = match rules.drift.on_fail {
        OnFail::Fail => Severity::Fail,
        OnFail::Warn => Severity::Warn,
    };
    let ignored = |name: &str| {
        rules.drift.ignore.iter().any(|i| i == name) || rules.schema.get(name).is_some_and(|r| r.no_drift)
    };
    let mut left_out = BTreeSet::new();
    for field in reference.fields.iter().filter(|f| !ignored(&f.name)) {
        let kind = current.index(&field.name).and_then(|at| current.fields.get(at)).map(|f| f.kind);
        let (rule, why) = match kind {
            None => ("missing_column", "the reference has this column and the table has not"),
            Some(kind) if (kind == Kind::Text) != (field.kind == Kind::Text) => {
                ("retyped_column", "is of another type than in the reference")
            }
            Some(_) => continue,
        };
        left_out.insert(field.name.as_str());
        findings.push(Finding::new(Severity::Fail, rule, Some(&field.name), why));
    }
    let wanted = |name: &str| !ignored(name) && !left_out.contains(name);
    let found = compat::evidently_on(reference, current, &wanted)?;
    for column in &found.columns {
        let sign = if column.test.ends_with("p_value") { "at most" } else { "at least" };
        if column.drifted {
            let label = rules.schema.get(&column.column).is_some_and(|r| r.label);
            findings.push(Finding::new(
                severity,
                if label { "label_drift" } else { "drift" },
                Some(&column.column),
                format!(
                    "{} {:.4}, drift at {sign} {} as Evidently decides",
                    column.test, column.score, column.threshold
                ),
            ));
        } else if let Some(reason) = &column.reason {
            findings.push(Finding::new(Severity::Info, "not_compared", Some(&column.column), reason.clone()));
        }
    }
    let drifted = found.columns.iter().filter(|c| c.drifted).count();
    let word = if found.drifted { "the data set has drifted" } else { "the data set has not drifted" };
    findings.push(Finding::new(
        Severity::Info,
        "dataset_drift",
        None,
        format!("{drifted} of {} columns drifted; by Evidently's half of them, {word}", found.columns.len()),
    ));
    Ok(())
}

/// A size of an effect for people: no two hundred digits.
fn size(x: f64) -> String {
    if x < 1e6 { format!("{x:.3}") } else { format!("{x:.1e}") }
}

/// A p-value for people; what is below the smallest numbers is said to be.
fn chance(p: f64) -> String {
    if p < 1e-300 { "below 1e-300".to_owned() } else { format!("{p:.1e}") }
}

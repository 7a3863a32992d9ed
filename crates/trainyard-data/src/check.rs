//! The check of a table: rules, then the comparison with a baseline. What comes out is findings and drift; whether the
//! check passed is [`Check::passed`], and doubt never passes.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::compat;
use crate::drift::{self, ColumnDrift, Verdict};
use crate::error::{Error, Result};
use crate::findings::{Example, Finding, Severity, shown};
use crate::profile::{ColumnProfile, Profile};
use crate::rules::{ColumnRule, Compat, OnFail, Range, Rules, Stage};
use crate::scan::{self, KeySet, Options, Scanned, settled_row};
use crate::schema::{Field, Kind};
use crate::sets::Matches;
use crate::source::{self, Source};
use crate::stats;

/// The outcome.
#[derive(Debug, Serialize)]
pub struct Check {
    pub name: String,
    pub rows: u64,
    pub columns: usize,
    pub passed: bool,
    pub findings: Vec<Finding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<ColumnDrift>,
    #[serde(skip)]
    pub profile: Profile,
}

/// Checks a table. `now`: microseconds since 1970, for rules on freshness. `reading`: how other tables that rules name
/// are read.
pub fn check(
    source: &mut Source,
    rules: &Rules,
    baseline: Option<&Profile>,
    reading: &source::Options,
    options: &Options,
    now: i64,
) -> Result<Check> {
    let mut findings = Vec::new();
    declared(source, rules, &mut findings);
    let present: BTreeSet<&str> = source.fields.iter().map(|f| f.name.as_str()).collect();
    let mut rules = rules.clone();
    // Rules on absent columns: the absence is the finding.
    rules.unique.extend(
        rules
            .schema
            .iter()
            .filter(|(c, r)| r.unique && present.contains(c.as_str()))
            .map(|(c, _)| vec![c.clone()]),
    );
    let mut missing = Vec::new();
    let mut all_there = |what: &str, columns: &[&String]| {
        let absent: Vec<&str> =
            columns.iter().filter(|c| !present.contains(c.as_str())).map(|c| c.as_str()).collect();
        for column in &absent {
            missing.push(
                Finding::new(
                    Severity::Fail,
                    "missing_column",
                    Some(column),
                    format!("{what} needs this column, which is absent"),
                )
                .counted(1, 1),
            );
        }
        absent.is_empty()
    };
    rules
        .unique
        .retain(|c| !c.is_empty() && all_there("a rule on unique keys", &c.iter().collect::<Vec<_>>()));
    rules.pairs.retain(|p| all_there("a rule on pairs", &[&p.left, &p.right]));
    rules.foreign_keys.retain(|k| all_there("a foreign key", &k.columns.iter().collect::<Vec<_>>()));
    rules.disjoint.retain(|d| all_there("a rule on splits", &d.on.iter().collect::<Vec<_>>()));
    findings.append(&mut missing);

    let sets = Sets::of(&rules, source, reading)?;
    let scanned = scan::scan(source, &rules, baseline, &sets.wanted, options)?;
    sets.judge(&rules, source, reading, options, &scanned, &mut findings)?;
    records(source, &rules, &scanned, &mut findings);
    for column in &scanned.profile.columns {
        if let Some(rule) = rules.schema.get(&column.field.name) {
            whole_column(column, rule, now, &mut findings)?;
        }
    }
    cells(&rules, &scanned, &mut findings)?;
    let mut drift = Vec::new();
    match (rules.drift.compat, &rules.drift.reference) {
        (Some(Compat::Evidently), Some(reference)) => {
            like_evidently(&Source::open(reference, reading)?, source, &rules, &mut findings)?;
        }
        (Some(_), None) => {
            return Err(Error::usage(
                "drift: compat needs `reference`, a table: it decides from raw values, which no profile has",
            ));
        }
        (None, Some(_)) => {
            return Err(Error::usage(
                "drift: `reference` is read with `compat` only; give the baseline by --baseline",
            ));
        }
        (None, None) => {}
    }
    if let Some(baseline) = baseline.filter(|_| rules.drift.compat.is_none()) {
        against_baseline(baseline, &scanned.profile, &rules, &mut findings);
        drift = drift::compare(baseline, &scanned.profile, &rules);
        told(&drift, &rules, &mut findings);
    }
    for finding in &mut findings {
        let rule = finding.column.as_ref().and_then(|c| rules.schema.get(c));
        if rule.is_some_and(softened) && finding.severity == Severity::Fail {
            finding.severity = Severity::Warn;
        }
    }
    findings.sort_by_key(|a| a.severity);
    let passed = findings.iter().all(|f| f.severity != Severity::Fail);
    Ok(Check {
        name: source.name.clone(),
        rows: scanned.profile.rows,
        columns: source.fields.len(),
        passed,
        findings,
        drift,
        profile: scanned.profile,
    })
}

fn softened(rule: &ColumnRule) -> bool {
    rule.on_fail == Some(OnFail::Warn) || rule.stage.is_some()
}

/// Whether a column is of the type that its rule declares.
pub(crate) fn type_fits(rule: &ColumnRule, field: &Field) -> bool {
    let Some(want) = &rule.kind else { return true };
    let kind = match want.as_str() {
        "bool" | "boolean" => Kind::Bool,
        "int" | "integer" => Kind::Int,
        "float" | "number" => return matches!(field.kind, Kind::Float | Kind::Int),
        "text" | "string" | "str" | "category" => Kind::Text,
        "time" | "timestamp" | "datetime" | "date" => Kind::Time,
        exact => {
            // A type of Arrow; CSV and JSON have none, so there only the kind counts.
            let physical = field.physical.to_ascii_lowercase();
            return physical == exact.to_ascii_lowercase()
                || (matches!(physical.as_str(), "csv" | "json") && kind_of_name(exact) == Some(field.kind));
        }
    };
    kind == field.kind
}

fn kind_of_name(name: &str) -> Option<Kind> {
    let name = name.to_ascii_lowercase();
    Some(match name.as_str() {
        n if n.starts_with("int") || n.starts_with("uint") => Kind::Int,
        n if n.starts_with("float") || n.starts_with("decimal") => Kind::Float,
        n if n.starts_with("utf8") || n.starts_with("largeutf8") => Kind::Text,
        n if n.starts_with("date") || n.starts_with("timestamp") => Kind::Time,
        _ => return None,
    })
}

/// The schema as it stands against the one declared.
fn declared(source: &Source, rules: &Rules, findings: &mut Vec<Finding>) {
    for (name, rule) in &rules.schema {
        match source.fields.iter().find(|f| f.name == *name) {
            None if rule.optional || matches!(rule.stage, Some(Stage::Planned | Stage::Deprecated)) => {}
            None => {
                let near = source.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name));
                let hint = near.map_or(String::new(), |f| format!("; there is {:?}", f.name));
                findings.push(
                    Finding::new(
                        Severity::Fail,
                        "missing_column",
                        Some(name),
                        format!("the column is absent{hint}"),
                    )
                    .counted(1, 1),
                );
            }
            Some(field) if !type_fits(rule, field) => findings.push(
                Finding::new(
                    Severity::Fail,
                    "type",
                    Some(name),
                    format!(
                        "is {} ({}), declared as {}",
                        field.kind,
                        field.physical,
                        rule.kind.as_deref().unwrap_or_default()
                    ),
                )
                .counted(1, 1),
            ),
            Some(_) => {}
        }
    }
    if rules.strict {
        for field in source.fields.iter().filter(|f| !rules.schema.contains_key(&f.name)) {
            findings.push(
                Finding::new(Severity::Fail, "extra_column", Some(&field.name), "the column is not declared")
                    .counted(1, 1),
            );
        }
    }
    if let Some(order) = &rules.order {
        let have: Vec<&String> = source.fields.iter().map(|f| &f.name).collect();
        if !have.iter().copied().eq(order.iter()) {
            let at =
                have.iter().zip(order).position(|(a, b)| **a != *b).unwrap_or(have.len().min(order.len()));
            let is = have.get(at).map_or("nothing".to_owned(), |c| format!("{c:?}"));
            let should = order.get(at).map_or("nothing".to_owned(), |c| format!("{c:?}"));
            findings.push(Finding::new(
                Severity::Fail,
                "order",
                None,
                format!("the order of columns differs from place {} on: {is} instead of {should}", at + 1),
            ));
        }
    }
}

/// What is wrong with records as such, and with their number.
fn records(source: &Source, rules: &Rules, scanned: &Scanned, findings: &mut Vec<Finding>) {
    let (rows, defects) = (scanned.profile.rows, &scanned.report.defects);
    if rows == 0 {
        findings.push(Finding::new(Severity::Fail, "no_rows", None, "the table has no rows"));
    }
    if let Some(range) = rules.rows
        && !range.holds(rows as f64)
    {
        findings.push(
            Finding::new(Severity::Fail, "rows", None, format!("{rows} rows, wanted {range}"))
                .counted(rows, rows),
        );
    }
    let places = || {
        defects
            .records
            .iter()
            .map(|r| Example { row: Some(r - 1), value: "record".into() })
            .collect::<Vec<_>>()
    };
    if defects.ragged > 0 {
        findings.push(
            Finding::new(
                Severity::Fail,
                "ragged_rows",
                None,
                "records with more or fewer fields than the header",
            )
            .counted(defects.ragged, rows)
            .with_examples(places(), false),
        );
    }
    if defects.malformed > 0 {
        findings.push(
            Finding::new(Severity::Fail, "malformed_lines", None, "lines that are not a JSON object")
                .counted(defects.malformed, rows)
                .with_examples(places(), false),
        );
    }
    for (i, field) in source.fields.iter().enumerate() {
        let personal = rules.schema.get(&field.name).is_some_and(|r| r.personal);
        if let Some(count) = defects.not_utf8.get(i).filter(|c| **c > 0) {
            findings.push(
                Finding::new(Severity::Fail, "invalid_utf8", Some(&field.name), "cells that are not UTF-8")
                    .counted(*count, rows),
            );
        }
        let unread =
            defects.unparsed.get(i).copied().unwrap_or(0) + defects.wider.get(i).copied().unwrap_or(0);
        if unread > 0 {
            let examples = defects
                .examples
                .iter()
                .filter(|(c, _)| *c == i)
                .map(|(_, value)| Example { row: None, value: value.clone() })
                .collect();
            findings.push(
                Finding::new(
                    Severity::Fail,
                    "mixed_types",
                    Some(&field.name),
                    format!("cells that are not {}, unlike the others", field.kind),
                )
                .counted(unread, rows)
                .with_examples(examples, personal),
            );
        }
    }
}

/// Rules answered from the column's profile.
fn whole_column(
    column: &ColumnProfile,
    rule: &ColumnRule,
    now: i64,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let name = column.field.name.as_str();
    if let Some(share) = rule.nulls
        && !share.holds(column.null_share())
        && column.rows > 0
    {
        findings.push(
            Finding::new(
                Severity::Fail,
                "nulls",
                Some(name),
                format!("{:.4}% nulls, wanted {share}", column.null_share() * 100.0),
            )
            .counted(column.nulls, column.rows),
        );
    }
    let mut fail = |rule: &'static str, message: String| {
        findings.push(Finding::new(Severity::Fail, rule, Some(name), message));
    };
    let (distinct, exact) = column.distinct.count();
    if let Some(range) = rule.distinct
        && !range.holds(distinct.round())
    {
        fail(
            "distinct",
            format!("{}{distinct:.0} distinct values, wanted {range}", if exact { "" } else { "about " }),
        );
    }
    let present = column.present().max(1) as f64;
    if let Some(range) = rule.distinct_share
        && !range.holds(distinct / present)
    {
        fail(
            "distinct_share",
            format!("{:.4} of the values are distinct, wanted {range}", distinct / present),
        );
    }
    let measured: [(&'static str, Option<Range>); 4] =
        [("mean", rule.mean), ("std", rule.std), ("sum", rule.sum), ("median", rule.median)];
    let Some(numbers) = &column.numbers else {
        if measured.iter().any(|(_, r)| r.is_some())
            || !rule.quantiles.is_empty()
            || rule.max_z.is_some()
            || rule.fresh.is_some()
            || rule.monotonic.is_some()
        {
            return Err(Error::usage(format!(
                "rules of {name:?}: mean, std, sum, median, quantiles, max_z, monotonic and fresh want numbers or times, the column is {}",
                column.field.kind
            )));
        }
        return Ok(());
    };
    for (what, range) in measured {
        let Some(range) = range else { continue };
        let value = match what {
            "mean" => numbers.mean(),
            "std" => numbers.deviation(),
            "sum" => numbers.sum.value(),
            _ => quantile(column, 0.5),
        };
        // Without values there is no mean; that is no pass.
        if !range.holds(value) {
            fail(what, format!("the {what} is {value}, wanted {range}"));
        }
    }
    for (share, range) in &rule.quantiles {
        let at: f64 = share.parse().ok().filter(|s| (0.0..=1.0).contains(s)).ok_or_else(|| {
            Error::usage(format!("rules of {name:?}: quantile {share:?} is not between 0 and 1"))
        })?;
        let value = quantile(column, at);
        if !range.holds(value) {
            fail("quantile", format!("the quantile at {share} is {value}, wanted {range}"));
        }
    }
    if let Some(most) = rule.max_z
        && numbers.count > 1
    {
        let (mean, deviation) = (numbers.mean(), numbers.deviation());
        let far = ((numbers.max - mean) / deviation).max((mean - numbers.min) / deviation);
        if deviation > 0.0 && far > most {
            fail(
                "max_z",
                format!("a value lies {far:.2} standard deviations from the mean, wanted at most {most}"),
            );
        }
    }
    if let Some(fresh) = &rule.fresh {
        let age = duration(fresh)
            .ok_or_else(|| Error::usage(format!("rules of {name:?}: fresh: {fresh:?}; write 36h or 7d")))?;
        if column.field.kind != Kind::Time {
            return Err(Error::usage(format!(
                "rules of {name:?}: fresh wants times, the column is {}",
                column.field.kind
            )));
        }
        if numbers.count == 0 || (now as f64 - numbers.max) > age {
            fail(
                "fresh",
                format!("the newest value is {}, older than {fresh}", source::show_time(numbers.max as i64)),
            );
        }
    }
    Ok(())
}

/// Exact where all values are counted, else from the sketch.
fn quantile(column: &ColumnProfile, share: f64) -> f64 {
    let Some(numbers) = &column.numbers else { return f64::NAN };
    if let Some(counts) = column.distinct.numbers().filter(|c| !c.is_empty()) {
        // Linear between the two nearest ranks, as most tools do.
        let place = share * (numbers.count.saturating_sub(1)) as f64;
        let value = |rank: u64| {
            let mut sum = 0;
            counts
                .iter()
                .find(|(_, c)| {
                    sum += c;
                    sum > rank
                })
                .map_or(f64::NAN, |c| c.0)
        };
        let (low, high) = (value(place.floor() as u64), value(place.ceil() as u64));
        return low + (high - low) * (place - place.floor());
    }
    numbers.quantiles.quantiles(&[share])[0]
}

/// Microseconds of `90m`, `36h`, `7d`.
fn duration(text: &str) -> Option<f64> {
    let (number, unit) = text.trim().split_at_checked(text.trim().len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    number.trim().parse::<f64>().ok().filter(|n| *n >= 0.0).map(|n| n * seconds * 1e6)
}

/// Rules of cells, pairs and order.
fn cells(rules: &Rules, scanned: &Scanned, findings: &mut Vec<Finding>) -> Result<()> {
    for (column, tallies) in &scanned.cells {
        let Some(rule) = rules.schema.get(column) else { continue };
        let mostly = rule.share_needed(column)?;
        for (cell, tally) in tallies {
            if tally.checked == 0 || (tally.checked - tally.broken) as f64 >= mostly * tally.checked as f64 {
                continue;
            }
            findings.push(
                Finding::new(
                    Severity::Fail,
                    cell.rule,
                    Some(column),
                    format!("values that are not {}", cell.words),
                )
                .counted(tally.broken, tally.checked)
                .with_examples(tally.shown(&scanned.report), rule.personal),
            );
        }
    }
    for (column, tally) in &scanned.orders {
        if tally.broken > 0 {
            let personal = rules.schema.get(column).is_some_and(|r| r.personal);
            findings.push(
                Finding::new(
                    Severity::Fail,
                    "monotonic",
                    Some(column),
                    "values that do not follow the one before as they should",
                )
                .counted(tally.broken, tally.checked)
                .with_examples(tally.shown(&scanned.report), personal),
            );
        }
    }
    for (pair, tally) in &scanned.pairs {
        let mostly = pair.mostly.unwrap_or(1.0);
        if tally.checked > 0 && ((tally.checked - tally.broken) as f64) < mostly * tally.checked as f64 {
            let personal =
                [&pair.left, &pair.right].iter().any(|c| rules.schema.get(*c).is_some_and(|r| r.personal));
            findings.push(
                Finding::new(
                    Severity::Fail,
                    "pair",
                    Some(&pair.left),
                    format!("rows where {} {} {} does not hold", pair.left, pair.is.sign(), pair.right),
                )
                .counted(tally.broken, tally.checked)
                .with_examples(tally.shown(&scanned.report), personal),
            );
        }
    }
    Ok(())
}

/// Schema and quality against the baseline: what is no matter of distribution.
fn against_baseline(baseline: &Profile, candidate: &Profile, rules: &Rules, findings: &mut Vec<Finding>) {
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
            if new.present() == 0 && old.present() > 0 {
                find("no_values", "has no values any more".into(), new.rows, new.rows);
            }
            let bad = |c: &ColumnProfile| c.nan + c.infinite;
            if bad(new) > 0 && bad(old) == 0 {
                find(
                    "not_finite",
                    "values that are NaN or infinite; the baseline has none".into(),
                    bad(new),
                    new.rows,
                );
            }
        }
        let (was, _) = old.distinct.count();
        let (is, _) = new.distinct.count();
        if was > 1.0 && is == 1.0 && new.present() >= rules.drift.min_rows {
            find("constant_column", format!("has one value only, had {was:.0}"), new.present(), new.rows);
        }
        unseen(old, new, rules, severity, findings);
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
fn told(drift: &[ColumnDrift], rules: &Rules, findings: &mut Vec<Finding>) {
    let severity = match rules.drift.on_fail {
        OnFail::Fail => Severity::Fail,
        OnFail::Warn => Severity::Warn,
    };
    for column in drift.iter().filter(|d| d.verdict == Verdict::Drifted) {
        let mut effects = Vec::new();
        if let Some(shift) = column.shift {
            effects.push(format!("moved by {shift:.3} standard deviations"));
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
fn like_evidently(
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

/// The keys that set rules need, in one order for asking and answering.
struct Sets {
    wanted: Vec<KeySet>,
    /// Of each rule on splits, its columns.
    splits: Vec<Vec<String>>,
}

impl Sets {
    fn of(rules: &Rules, source: &Source, reading: &source::Options) -> Result<Self> {
        let single = |columns: &[String]| {
            let [column] = columns else { return false };
            source.index(column).is_some_and(|i| matches!(source.fields[i].kind, Kind::Int | Kind::Time))
        };
        let mut wanted = Vec::new();
        for columns in &rules.unique {
            wanted.push(KeySet { columns: columns.clone(), skip_nulls: true, single: single(columns) });
        }
        if rules.duplicate_rows.is_some() {
            let all: Vec<String> =
                source.fields.iter().filter(|f| f.kind != Kind::Other).map(|f| f.name.clone()).collect();
            wanted.push(KeySet { columns: all, skip_nulls: false, single: false });
        }
        for key in &rules.foreign_keys {
            wanted.push(KeySet { columns: key.columns.clone(), skip_nulls: true, single: false });
        }
        let mut splits = Vec::new();
        for rule in &rules.disjoint {
            let columns = if rule.on.is_empty() {
                let other = Source::open(&rule.path, reading)?;
                source
                    .fields
                    .iter()
                    .filter(|f| f.kind != Kind::Other && other.index(&f.name).is_some())
                    .map(|f| f.name.clone())
                    .collect()
            } else {
                rule.on.clone()
            };
            wanted.push(KeySet { columns: columns.clone(), skip_nulls: !rule.on.is_empty(), single: false });
            splits.push(columns);
        }
        Ok(Self { wanted, splits })
    }

    fn judge(
        &self,
        rules: &Rules,
        source: &Source,
        reading: &source::Options,
        options: &Options,
        scanned: &Scanned,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let mut keys = scanned.keys.iter();
        let rows = |found: &Matches, words: &str| -> Vec<Example> {
            found
                .first
                .iter()
                .map(|(row, other)| Example {
                    row: Some(settled_row(&scanned.report, *row)),
                    value: other
                        .map_or_else(String::new, |o| format!("{words} {}", settled_row(&scanned.report, o))),
                })
                .collect()
        };
        for columns in &rules.unique {
            let Some(keys) = keys.next() else { break };
            let found = keys.duplicates()?;
            if found.count > 0 {
                let one = (columns.len() == 1).then(|| columns[0].as_str());
                findings.push(
                    Finding::new(
                        Severity::Fail,
                        "unique",
                        one,
                        format!("rows that repeat the key ({}) of an earlier row", columns.join(", ")),
                    )
                    .counted(found.count, found.keys)
                    .with_examples(rows(&found, "as row"), false),
                );
            }
        }
        if let Some(share) = rules.duplicate_rows
            && let Some(keys) = keys.next()
        {
            let found = keys.duplicates()?;
            if found.count > 0 && !share.holds(found.count as f64 / found.keys as f64) {
                findings.push(
                    Finding::new(
                        Severity::Fail,
                        "duplicate_rows",
                        None,
                        format!("rows that repeat an earlier one, wanted {share}"),
                    )
                    .counted(found.count, found.keys)
                    .with_examples(rows(&found, "as row"), false),
                );
            }
        }
        for key in &rules.foreign_keys {
            let Some(mine) = keys.next() else { break };
            let theirs =
                other_keys(source, &key.columns, &key.references, key.to.as_deref(), true, reading, options)?;
            let found = mine.against(&theirs, false)?;
            if found.count > 0 {
                findings.push(
                    Finding::new(
                        Severity::Fail,
                        "foreign_key",
                        (key.columns.len() == 1).then(|| key.columns[0].as_str()),
                        format!("rows whose key ({}) is not in {}", key.columns.join(", "), key.references),
                    )
                    .counted(found.count, found.keys)
                    .with_examples(rows(&found, ""), false),
                );
            }
        }
        for (rule, columns) in rules.disjoint.iter().zip(&self.splits) {
            let Some(mine) = keys.next() else { break };
            let theirs =
                other_keys(source, columns, &rule.path, None, !rule.on.is_empty(), reading, options)?;
            let found = mine.against(&theirs, true)?;
            if found.count > 0 {
                let what = if rule.on.is_empty() {
                    "whole rows".to_owned()
                } else {
                    format!("keys ({})", columns.join(", "))
                };
                let examples = found
                    .first
                    .iter()
                    .map(|(row, _)| Example {
                        row: Some(settled_row(&scanned.report, *row)),
                        value: String::new(),
                    })
                    .collect();
                findings.push(
                    Finding::new(
                        Severity::Fail,
                        "leakage",
                        None,
                        format!("{what} that are in {} too", rule.path),
                    )
                    .counted(found.count, found.keys)
                    .with_examples(examples, false),
                );
            }
        }
        Ok(())
    }
}

/// The keys of another table.
fn other_keys(
    source: &Source,
    columns: &[String],
    path: &str,
    to: Option<&[String]>,
    skip_nulls: bool,
    reading: &source::Options,
    options: &Options,
) -> Result<crate::sets::Keys> {
    let to = to.unwrap_or(columns);
    let mut other = Source::open(path, reading)?;
    if to.len() != columns.len() {
        return Err(Error::usage(format!(
            "a foreign key of {} columns refers to {} of {path}",
            columns.len(),
            to.len()
        )));
    }
    let set = KeySet { columns: to.to_vec(), skip_nulls, single: false };
    let mut scanned = scan::scan(&mut other, &Rules::default(), None, &[set], options)?;
    for (mine, theirs) in columns.iter().zip(to) {
        let kind = |s: &Source, c: &str| s.index(c).map(|i| s.fields[i].kind);
        if let (Some(a), Some(b)) = (kind(source, mine), kind(&other, theirs))
            && a != b
        {
            return Err(Error::usage(format!(
                "the key {mine:?} is {a}, {theirs:?} of {path} is {b}: they cannot be compared"
            )));
        }
    }
    scanned.keys.pop().ok_or_else(|| Error::usage(format!("{path}: has no keys")))
}

/// A p-value for people; what is below the smallest numbers is said to be.
fn chance(p: f64) -> String {
    if p < 1e-300 { "below 1e-300".to_owned() } else { format!("{p:.1e}") }
}

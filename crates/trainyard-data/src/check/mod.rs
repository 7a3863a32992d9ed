//! The check of a table: rules, then the comparison with a baseline. What comes out is findings and drift; whether the
//! check passed is [`Check::passed`], and doubt never passes.

mod baseline;
mod columns;
mod keys;
mod schema;

use std::collections::BTreeSet;

use serde::Serialize;

use self::baseline::{against_baseline, like_evidently, told};
use self::columns::{cells, whole_column};
use self::keys::Sets;
pub(crate) use self::schema::misfit;
use self::schema::{declared, records};
use crate::drift::{self, ColumnDrift};
use crate::error::{Error, Result};
use crate::findings::{Finding, Severity};
use crate::profile::Profile;
use crate::rules::{ColumnRule, Compat, OnFail, Rules};
use crate::scan::{self, Options, Scanned};
use crate::source::{self, Source};

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
    rules.validate()?;
    let (asked, known) = (rules, source.fields.len());
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

    let sets = Sets::of(&rules, source, reading)?;
    let scanned = scan::scan(source, &rules, baseline, &sets.wanted, options)?;
    if source.fields.len() > known {
        // Of columns that come after the first lines nothing was asked yet that is not answered from profiles and cells.
        drop((scanned, sets));
        return check(source, asked, baseline, reading, options, now);
    }
    let mut findings = Vec::new();
    // Only now the columns are all known, and of which type each is.
    declared(source, &rules, &mut findings);
    findings.append(&mut missing);
    sets.judge(&rules, source, reading, options, &scanned, &mut findings)?;
    records(source, &rules, &scanned, &mut findings);
    for column in &scanned.profile.columns {
        if let Some(rule) = rules.schema.get(&column.field.name) {
            whole_column(column, rule, now, &mut findings);
        }
    }
    cells(&rules, &scanned, &mut findings);
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

/// What is wrong with a table as such, whatever the rules: no rows, records that do not fit, cells of another kind.
pub fn defects(source: &Source, scanned: &Scanned) -> Vec<Finding> {
    let mut out = Vec::new();
    records(source, &Rules::default(), scanned, &mut out);
    out
}

/// What a table is compared with: the profile that the file is, else that of the table.
///
/// # Errors
/// Neither can be read, or the table does not hold together: drift from half a table is drift from nothing.
pub fn baseline(spec: &str, reading: &source::Options) -> Result<Profile> {
    let path = std::path::Path::new(spec);
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
        let profile = Profile::read(path)?;
        if profile.rows == 0 {
            return Err(Error::data(spec, "cannot be a baseline: it is the profile of no rows"));
        }
        return Ok(profile);
    }
    let mut table = Source::open(spec, reading)?;
    let scanned = scan::profile(&mut table, None)?;
    if let Some(defect) = defects(&table, &scanned).first() {
        let column = defect.column.as_ref().map_or(String::new(), |c| format!("{c:?}: "));
        let count = if defect.count > 0 { format!(" ({})", defect.count) } else { String::new() };
        return Err(Error::data(
            spec,
            format!(
                "cannot be a baseline: {column}{}{count}; `trainyard data check` says more",
                defect.message
            ),
        ));
    }
    Ok(scanned.profile)
}

fn softened(rule: &ColumnRule) -> bool {
    rule.on_fail == Some(OnFail::Warn) || rule.stage.is_some()
}

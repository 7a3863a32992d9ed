//! The columns and records as they stand, against what the rules declare.

use crate::findings::{Example, Finding, Severity};
use crate::rules::{ColumnRule, Rules, Stage};
use crate::scan::Scanned;
use crate::schema::{Field, Kind};
use crate::source::Source;
use crate::validate::TYPES;

/// Why the rules of a column cannot be asked of it as it is: it is of another type than declared, or than a rule needs.
pub(crate) fn misfit(rule: &ColumnRule, field: &Field) -> Option<String> {
    let is = || format!("is {} ({})", field.kind, field.physical);
    if let Some(declared) = rule.kind.as_ref().filter(|declared| !fits(declared, field)) {
        return Some(format!("{}, declared as {declared}", is()));
    }
    if let Some((name, wants)) = rule.unsuited(field.kind) {
        return Some(format!("{}, and `{name}` wants {wants}", is()));
    }
    let name = rule.beyond_doubles().filter(|_| field.kind == Kind::Float && field.is_text())?;
    Some(format!(
        "{}, which is read as doubles, and `{name}` is beyond 2^53, where not every whole number is one",
        is()
    ))
}

fn fits(declared: &str, field: &Field) -> bool {
    let want = declared.to_ascii_lowercase();
    let physical = field.physical.to_ascii_lowercase();
    // A type of Arrow; CSV and JSON have none, so there only the kind counts.
    if !TYPES.contains(&want.as_str()) && !matches!(physical.as_str(), "csv" | "json") {
        return physical == want;
    }
    let kind = Kind::named(&want);
    kind == Some(field.kind) || (kind, field.kind) == (Some(Kind::Float), Kind::Int)
}

/// The schema as it stands against the one declared.
pub(super) fn declared(source: &Source, rules: &Rules, findings: &mut Vec<Finding>) {
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
            Some(field) => findings.extend(misfit(rule, field).map(|why| wrong_type(Some(name), why))),
        }
    }
    for pair in &rules.pairs {
        for column in [&pair.left, &pair.right] {
            let field = source.fields.iter().find(|f| f.name == *column);
            if let Some(field) = field.filter(|f| !f.kind.is_numeric()) {
                let why = format!(
                    "{column:?} is {} ({}), and `pairs` compares numbers or times",
                    field.kind, field.physical
                );
                findings.push(wrong_type(Some(&pair.left), why));
            }
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

/// `column`: whose rules the finding is of, since those may soften it.
pub(super) fn wrong_type(column: Option<&str>, why: String) -> Finding {
    Finding::new(Severity::Fail, "type", column, why).counted(1, 1)
}

/// What is wrong with records as such, and with their number.
pub(super) fn records(source: &Source, rules: &Rules, scanned: &Scanned, findings: &mut Vec<Finding>) {
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
    if defects.open_quotes > 0 {
        let places = defects.quoted.iter().map(|r| Example { row: Some(r - 1), value: "record".into() });
        findings.push(
            Finding::new(
                Severity::Fail,
                "open_quote",
                None,
                "records of which a quote takes in others: it is closed too late, or never",
            )
            .counted(defects.open_quotes, rows)
            .with_examples(places.collect(), false),
        );
    }
    if defects.malformed > 0 {
        findings.push(
            Finding::new(
                Severity::Fail,
                "malformed_lines",
                None,
                "lines that are not a JSON object, or one that names a key twice",
            )
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

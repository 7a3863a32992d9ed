//! Rules on the values of columns: answered from profiles, and from the tallies of cells, pairs and order.

use super::misfit;
use crate::findings::{Finding, Severity};
use crate::profile::ColumnProfile;
use crate::rules::{ColumnRule, Range, Rules};
use crate::scan::Scanned;
use crate::source;

/// Rules answered from the column's profile.
pub(super) fn whole_column(column: &ColumnProfile, rule: &ColumnRule, now: i64, findings: &mut Vec<Finding>) {
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
    // Of one row the mean is the value itself.
    let told =
        |value: String| if rule.personal { "withheld (the column is personal)".to_owned() } else { value };
    let measured: [(&'static str, Option<Range>); 4] =
        [("mean", rule.mean), ("std", rule.std), ("sum", rule.sum), ("median", rule.median)];
    // What they are is a finding of its own.
    if misfit(rule, &column.field).is_some() {
        return;
    }
    let Some(numbers) = &column.numbers else { return };
    for (what, range) in measured {
        let Some(range) = range else { continue };
        let value = match what {
            "mean" => numbers.mean(),
            "std" => numbers.deviation(),
            "sum" => numbers.sum.value(),
            _ => column.quantile(0.5),
        };
        // Without values there is no mean; that is no pass.
        if !range.holds(value) {
            fail(what, format!("the {what} is {}, wanted {range}", told(value.to_string())));
        }
    }
    for (share, range) in &rule.quantiles {
        // What is no share was refused with the rules.
        let value = column.quantile(share.parse().unwrap_or(f64::NAN));
        if !range.holds(value) {
            fail(
                "quantile",
                format!("the quantile at {share} is {}, wanted {range}", told(value.to_string())),
            );
        }
    }
    if let Some(most) = rule.max_z
        && numbers.count > 1
    {
        let (mean, deviation) = (numbers.mean(), numbers.deviation());
        let far = ((numbers.max - mean) / deviation).max((mean - numbers.min) / deviation);
        // What a double that far from 0 is rounded by.
        let rounding = numbers.min.abs().max(numbers.max.abs()) * f64::EPSILON;
        if deviation.is_nan() || deviation > 0.0 && rounding > deviation / 100.0 {
            fail(
                "max_z",
                "the values are too large, too small or too close for distances in standard deviations"
                    .into(),
            );
        } else if deviation > 0.0 && far > most {
            fail(
                "max_z",
                format!("a value lies {far:.2} standard deviations from the mean, wanted at most {most}"),
            );
        }
    }
    if let Some(fresh) = &rule.fresh {
        let age = crate::validate::age(fresh).unwrap_or(f64::NAN);
        if numbers.count == 0 || (now as f64 - numbers.max) > age {
            fail(
                "fresh",
                format!(
                    "the newest value is {}, older than {fresh}",
                    told(source::show_time(numbers.max as i64))
                ),
            );
        }
    }
}

/// Rules of cells, pairs and order.
pub(super) fn cells(rules: &Rules, scanned: &Scanned, findings: &mut Vec<Finding>) {
    for (column, tallies) in &scanned.cells {
        let Some(rule) = rules.schema.get(column) else { continue };
        let mostly = rule.share_needed();
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
}

//! The changes of a comparison with their intervals, one below the other on one scale, as SVG: numbers only, names go through
//! the template's escaping.
//!
//! Metrics have scales of their own, so changes are shown as shares of the baseline, turned so that right is better.

use crate::http::text::{Shown, shown_cut};
use crate::model::metric::Goal;
use crate::model::outcome::{MetricOutcome, Outcome};

const ROWS: usize = 24;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 16.0;
const WIDTH: f64 = 640.0;
const ROW: f64 = 26.0;
const TOP: f64 = 8.0;
/// For the labels of the axis.
const BOTTOM: f64 = 24.0;
/// The widest scale is this many times the widest interval of a metric with a gate: one wild metric must not flatten the others.
const WIDEST: f64 = 3.0;

pub struct Forest {
    pub height: f64,
    pub rows: Vec<Row>,
    pub ticks: Vec<Tick>,
    /// Where nothing changes.
    pub zero: String,
    /// For those who do not see it.
    pub summary: String,
    /// Some row has the mark of a gate.
    pub gated: bool,
    pub cut: usize,
}

pub struct Row {
    /// Cut to the room that it has, and whole.
    pub name: Shown,
    pub whole: Shown,
    pub y: String,
    pub low: String,
    pub width: String,
    pub at: String,
    /// What the gate demands at least.
    pub bound: Option<String>,
    /// `better`, `worse` or `unclear`.
    pub tone: &'static str,
    /// Ends that lie beyond the picture.
    pub beyond_left: bool,
    pub beyond_right: bool,
    pub words: String,
}

pub struct Tick {
    pub at: String,
    pub label: String,
}

impl Forest {
    pub fn left(&self) -> f64 {
        LEFT
    }
    pub fn right(&self) -> f64 {
        WIDTH - RIGHT
    }
    pub fn bottom(&self) -> f64 {
        self.height - BOTTOM
    }
    pub fn view_box(&self) -> String {
        format!("0 0 {WIDTH} {}", self.height)
    }
}

/// A change as shares of the baseline, right being better.
struct Change<'a> {
    metric: &'a MetricOutcome,
    low: f64,
    high: f64,
    at: f64,
    bound: Option<f64>,
}

fn change(metric: &MetricOutcome) -> Option<Change<'_>> {
    let evidence = metric.evidence.as_ref()?;
    let base = metric.baseline.as_ref()?.value().abs();
    let sign = if metric.goal == Goal::Max { 1.0 } else { -1.0 };
    let share = |x: f64| x * sign / base;
    let (a, b) = (share(evidence.low), share(evidence.high));
    let bound = metric.gate.as_ref().and_then(|g| g.bound).map(|bound| bound / base);
    let out = Change { metric, low: a.min(b), high: a.max(b), at: share(metric.delta?), bound };
    (out.low.is_finite() && out.high.is_finite() && out.at.is_finite()).then_some(out)
}

/// None where fewer than two changes have an interval: the table shows one as well.
pub fn forest(outcome: &Outcome) -> Option<Forest> {
    let all: Vec<Change<'_>> = outcome.metrics.iter().filter_map(change).collect();
    let shown = &all[..all.len().min(ROWS)];
    if shown.len() < 2 {
        return None;
    }
    let widest = |of: &mut dyn Iterator<Item = &Change<'_>>| {
        of.flat_map(|c| [c.low, c.high, c.bound.unwrap_or(0.0)]).map(f64::abs).fold(0.0, f64::max)
    };
    let everything = widest(&mut shown.iter());
    let of_gates = widest(&mut shown.iter().filter(|c| c.metric.gate.is_some() || c.metric.primary));
    let limit = if of_gates > 0.0 { everything.min(of_gates * WIDEST) } else { everything };
    let limit = if limit > 0.0 { limit * 1.08 } else { 0.01 };
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    let half = (WIDTH - RIGHT - LEFT) / 2.0;
    let at = |x: f64| middle + (x / limit).clamp(-1.0, 1.0) * half;
    let place = |x: f64| format!("{:.1}", at(x));
    let rows = shown.iter().enumerate().map(|(i, c)| {
        let (low, high) = (at(c.low), at(c.high));
        let clear = c.low > 0.0 || c.high < 0.0;
        Row {
            name: shown_cut(&c.metric.name, 24),
            whole: shown_cut(&c.metric.name, 120),
            y: format!("{:.1}", TOP + ROW * (i as f64 + 0.5)),
            low: format!("{low:.1}"),
            width: format!("{:.1}", (high - low).max(1.0)),
            at: place(c.at),
            bound: c.bound.map(place),
            tone: match (clear, c.at > 0.0) {
                (false, _) => "unclear",
                (true, true) => "better",
                (true, false) => "worse",
            },
            beyond_left: c.low < -limit,
            beyond_right: c.high > limit,
            words: format!("{} ({} to {})", percent(c.at), percent(c.low), percent(c.high)),
        }
    });
    let step = round_step(limit / 2.0);
    let ticks = (-4..=4_i32).map(|i| f64::from(i) * step).filter(|x| x.abs() <= limit);
    let clear = |tone: bool| shown.iter().filter(|c| if tone { c.low > 0.0 } else { c.high < 0.0 }).count();
    Some(Forest {
        height: TOP + ROW * shown.len() as f64 + BOTTOM,
        rows: rows.collect(),
        ticks: ticks.map(|x| Tick { at: place(x), label: percent(x) }).collect(),
        zero: place(0.0),
        summary: format!(
            "{} changes with their 95 % intervals: {} clearly better, {} clearly worse",
            shown.len(),
            clear(true),
            clear(false)
        ),
        gated: shown.iter().any(|c| c.bound.is_some()),
        cut: all.len() - shown.len(),
    })
}

/// 1, 2 or 5 times a power of ten, at most `x`.
fn round_step(x: f64) -> f64 {
    let unit = 10f64.powf(x.log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|m| m * unit).find(|s| *s <= x).unwrap_or(unit)
}

/// `+1.5 %`, `−0.02 %`, `0 %`.
fn percent(share: f64) -> String {
    let x = share * 100.0;
    if x.abs() < 1e-9 {
        return "0 %".to_owned();
    }
    let places = (2 - x.abs().log10().floor() as i32).clamp(0, 4) as usize;
    let text = format!("{x:+.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{} %", text.replace('-', "−"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(metrics: &[serde_json::Value]) -> Outcome {
        serde_json::from_value(
            serde_json::json!({"rules": "interval-1", "verdict": "pass", "reasons": [], "metrics": metrics}),
        )
        .unwrap()
    }

    fn metric(
        name: &str,
        goal: &str,
        base: f64,
        (low, high): (f64, f64),
        bound: Option<f64>,
    ) -> serde_json::Value {
        let of = |mean: f64| serde_json::json!({"step": "train", "mean": mean, "values": [{"member": "", "value": mean}]});
        let middle = f64::midpoint(low, high);
        serde_json::json!({"name": name, "goal": goal, "assumed": false, "primary": false, "candidate": of(base + middle), "baseline": of(base),
            "delta": middle, "relative": middle / base, "better": "better",
            "evidence": {"method": "paired_t", "unit": "seeds", "count": 3, "baseline_count": 3, "level": 0.95, "low": low, "high": high, "p": 0.01},
            "gate": bound.map(|b| serde_json::json!({"verdict": "pass", "warn_only": false, "rules": [], "reasons": [], "bound": b}))})
    }

    #[test]
    fn right_is_better_on_one_scale() {
        let f = forest(&outcome(&[
            metric("accuracy", "max", 0.8, (0.008, 0.024), Some(-0.008)),
            metric("loss", "min", 0.4, (-0.012, -0.004), None),
            metric("f1", "max", 0.5, (-0.02, 0.01), None),
            metric("wild", "max", 0.001, (0.5, 0.9), None),
        ]))
        .unwrap();
        let tones: Vec<&str> = f.rows.iter().map(|r| r.tone).collect();
        assert_eq!(tones, ["better", "better", "unclear", "better"]);
        let x = |text: &str| text.parse::<f64>().unwrap();
        let zero = x(&f.zero);
        assert!(x(&f.rows[0].low) > zero && x(&f.rows[1].low) > zero, "less loss is better");
        // One and the same share of the baseline is one and the same place.
        assert_eq!(f.rows[0].low, f.rows[1].low);
        assert!(x(f.rows[0].bound.as_ref().unwrap()) < zero && f.gated);
        assert!(
            f.rows[3].beyond_right && !f.rows[0].beyond_right,
            "a wild metric is cut, and flattens nobody"
        );
        assert!(f.rows.iter().all(|r| x(&r.low) >= LEFT && x(&r.low) + x(&r.width) <= WIDTH));
        assert_eq!(f.rows[0].words, "+2 % (+1 % to +3 %)");
        assert_eq!(f.summary, "4 changes with their 95 % intervals: 3 clearly better, 0 clearly worse");
        assert!(f.ticks.iter().any(|t| t.label == "0 %") && f.ticks.len() >= 3);
    }

    #[test]
    fn what_cannot_be_drawn_is_left_out() {
        let zero_base = metric("new", "max", 0.0, (0.1, 0.2), None);
        assert!(forest(&outcome(&[])).is_none());
        let one = metric("accuracy", "max", 0.8, (0.008, 0.024), None);
        assert!(forest(&outcome(&[one.clone(), zero_base])).is_none(), "no share of nothing");
        let many: Vec<_> = (0..40).map(|i| metric(&format!("m{i}"), "max", 1.0, (-0.1, 0.1), None)).collect();
        let f = forest(&outcome(&many)).unwrap();
        assert_eq!((f.rows.len(), f.cut), (ROWS, 40 - ROWS));
        assert_eq!(
            (percent(0.0), percent(-0.000_25), percent(12.5)),
            ("0 %".into(), "−0.025 %".into(), "+1250 %".into())
        );
        assert!((round_step(0.043) - 0.02).abs() < 1e-12 && (round_step(0.5) - 0.5).abs() < 1e-12);
    }
}

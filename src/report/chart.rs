//! Curves as Mermaid `xychart-beta`, which forges draw by themselves.
//!
//! An xychart has no holes and spreads every line evenly over the x axis, so both lines are sampled at the same places.

use std::fmt::Write as _; // to a String, which never fails

use super::view::Curve;
use super::{escape, numbers};

/// Most points of one line.
const POINTS: usize = 50;

/// A chart and the numbers behind it; None when there is too little to draw.
pub fn render(curve: &Curve) -> Option<String> {
    let (first, last) = (curve.this.first()?, curve.this.last()?);
    if curve.this.len() < 3 || last.0 <= first.0 {
        return None;
    }
    let count = curve.this.len().min(POINTS);
    let at = |i: usize| first.0 + (last.0 - first.0) * i as f64 / (count - 1) as f64;
    let this: Vec<f64> = (0..count).map(|i| sample(&curve.this, at(i))).collect();
    let covers = curve.baseline.len() >= 3
        && curve.baseline.first().is_some_and(|b| b.0 <= first.0)
        && curve.baseline.last().is_some_and(|b| b.0 >= last.0);
    let baseline: Vec<f64> =
        if covers { (0..count).map(|i| sample(&curve.baseline, at(i))).collect() } else { Vec::new() };

    let all = || this.iter().chain(&baseline).copied();
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let span = if high > low { high - low } else { high.abs().max(1.0) };
    let decimals = (2 - span.log10().floor() as i32).clamp(0, 9) as usize;
    let number = |x: f64| format!("{x:.decimals$}");
    let line = |values: &[f64]| values.iter().map(|v| number(*v)).collect::<Vec<_>>().join(", ");
    let name = escape::mermaid(&curve.name, 60);

    let mut out = String::from("```mermaid\n");
    out.push_str(
        "%%{init: {\"themeVariables\": {\"xyChart\": {\"plotColorPalette\": \"#2563eb, #9ca3af\"}}}}%%\n",
    );
    out.push_str("xychart-beta\n");
    let _ = writeln!(out, "    title \"{name}\"");
    let _ = writeln!(out, "    x-axis \"training step\" {} --> {}", first.0, last.0);
    let _ = writeln!(out, "    y-axis {} --> {}", number(low - span * 0.05), number(high + span * 0.05));
    let _ = writeln!(out, "    line [{}]", line(&this));
    if !baseline.is_empty() {
        let _ = writeln!(out, "    line [{}]", line(&baseline));
    }
    out.push_str("```\n\n");
    out.push_str(&legend(curve, covers));
    Some(out)
}

/// One line of numbers under the chart: it stands alone where nothing draws Mermaid.
fn legend(curve: &Curve, covers: bool) -> String {
    let describe = |points: &[(f64, f64)]| {
        let values: Vec<f64> = points.iter().map(|p| p.1).collect();
        let (low, high) =
            values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
        let decimals = numbers::decimals(&values, None);
        let show = |v: f64| numbers::value(v, decimals);
        format!(
            "{} → {} (lowest {}, highest {}, {} points)",
            show(values[0]),
            show(values[values.len() - 1]),
            show(low),
            show(high),
            values.len()
        )
    };
    let mean = if curve.members > 1 { format!(", mean of {}", curve.members) } else { String::new() };
    let mut out =
        format!("{}{mean}: blue, this run {}", escape::code(&curve.name, 60), describe(&curve.this));
    if !curve.baseline.is_empty() {
        let how = if covers { "grey, baseline" } else { "not drawn (other training steps), baseline" };
        let _ = write!(out, "; {how} {}", describe(&curve.baseline));
    }
    out.push('\n');
    out
}

/// Linear between the two neighbours; the ends beyond.
fn sample(points: &[(f64, f64)], x: f64) -> f64 {
    let next = points.partition_point(|p| p.0 < x);
    match (next.checked_sub(1).and_then(|i| points.get(i)), points.get(next)) {
        (Some(a), Some(b)) if b.0 > a.0 => a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0),
        (_, Some(b)) => b.1,
        (Some(a), None) => a.1,
        (None, None) => f64::NAN,
    }
}

//! Metric curves as SVG, drawn on the server: paths are numbers only, labels go through the template's escaping. The page's
//! script adds a crosshair from the `data-` attributes; without it the curves are still there.

use std::fmt::Write as _;

use crate::http::text::{self, Shown, shown_cut};

pub const WIDTH: f64 = 420.0;
pub const HEIGHT: f64 = 190.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
/// Points kept of one curve; of a longer one, the lowest and highest of each stretch.
const POINTS: usize = 400;

/// One curve before it is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub label: String,
    /// Drawn behind the others, dashed.
    pub baseline: bool,
    /// One of the eight colours; None: the next one.
    pub colour: Option<usize>,
    /// By x. A y that is not finite breaks the curve.
    pub points: Vec<(f64, f64)>,
    /// Around the curve, as (x, low, high), all finite; empty: none.
    pub band: Vec<(f64, f64, f64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub name: Shown,
    /// Newest value of the run's own curve, for the card's corner.
    pub last: String,
    pub x_name: &'static str,
    pub x_ticks: Vec<Tick>,
    pub y_ticks: Vec<Tick>,
    pub curves: Vec<Curve>,
    /// `x0 x1 y0 y1` of the plotted area's values, for the crosshair.
    pub domain: String,
    pub broken: bool,
    /// What the whole numbers of the x axis stand for, for the crosshair, and the runs they lead to; space-separated.
    pub names: String,
    pub runs: String,
    pub summary: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    pub at: String,
    pub label: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    pub label: Shown,
    /// `baseline`, or `s0`…`s7`.
    pub class: String,
    pub path: String,
    /// The band around it, as an area; empty: none.
    pub band: String,
    /// Space-separated values, for the crosshair.
    pub xs: String,
    pub ys: String,
    pub last: String,
    /// Where the newest point lies.
    pub dot: Option<(String, String)>,
}

impl Chart {
    pub fn left(&self) -> f64 {
        LEFT
    }
    pub fn right(&self) -> f64 {
        WIDTH - RIGHT
    }
    pub fn top(&self) -> f64 {
        TOP
    }
    pub fn bottom(&self) -> f64 {
        HEIGHT - BOTTOM
    }
    pub fn view_box(&self) -> String {
        format!("0 0 {WIDTH} {HEIGHT}")
    }
    pub fn banded(&self) -> bool {
        self.curves.iter().any(|c| !c.band.is_empty())
    }
    pub fn several(&self) -> bool {
        self.curves.len() > 1
    }
}

/// Draws one metric. None when no curve has two finite points.
pub fn draw(name: &str, x_name: &'static str, mut series: Vec<Series>) -> Option<Chart> {
    series.sort_by_key(|s| !s.baseline);
    let finite = || series.iter().flat_map(|s| &s.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    if !series.iter().any(|s| s.points.iter().filter(|p| p.1.is_finite()).count() > 1) {
        return None;
    }
    let (x0, x1) = range(finite().map(|p| p.0));
    let (mut y0, mut y1) = range(finite().map(|p| p.1));
    // Bands have their room, but a very wide one does not flatten the curve: it is cut at the edge.
    let span = if y1 > y0 { y1 - y0 } else { y0.abs().max(1.0) * 0.1 };
    let bands = || series.iter().flat_map(|s| &s.band);
    y0 = bands().map(|b| b.1).fold(y0, f64::min).max(y0 - span);
    y1 = bands().map(|b| b.2).fold(y1, f64::max).min(y1 + span);
    let room = if y1 > y0 { (y1 - y0) * 0.06 } else { y0.abs().max(1.0) * 0.1 };
    (y0, y1) = (y0 - room, y1 + room);
    let x1 = if x1 > x0 { x1 } else { x0 + 1.0 };
    let at_x = |x: f64| LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let at_y = |y: f64| HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
    let mut colour = 0;
    let mut broken = false;
    let curves: Vec<Curve> = series
        .iter()
        .map(|s| {
            broken |= s.points.iter().any(|p| !p.1.is_finite());
            let points = thin(&s.points);
            let class = if s.baseline {
                "baseline".to_owned()
            } else {
                colour += 1;
                format!("s{}", s.colour.unwrap_or(colour - 1) % 8)
            };
            let mut path = String::new();
            let mut pen_down = false;
            for (x, y) in &points {
                if y.is_finite() {
                    let _ =
                        write!(path, "{}{:.1} {:.1}", if pen_down { 'L' } else { 'M' }, at_x(*x), at_y(*y));
                }
                pen_down = y.is_finite();
            }
            let mut band = String::new();
            let there = s.band.iter().map(|b| (b.0, b.2));
            for (x, y) in there.chain(s.band.iter().rev().map(|b| (b.0, b.1))) {
                let _ = write!(
                    band,
                    "{}{:.1} {:.1}",
                    if band.is_empty() { 'M' } else { 'L' },
                    at_x(x),
                    at_y(y.clamp(y0, y1))
                );
            }
            let last = points.iter().rev().find(|p| p.1.is_finite());
            let join = |part: fn(&(f64, f64)) -> f64| {
                points
                    .iter()
                    .filter(|p| p.1.is_finite())
                    .map(|p| compact(part(p)))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            Curve {
                label: shown_cut(&s.label, 40),
                class,
                path,
                band,
                xs: join(|p| p.0),
                ys: join(|p| p.1),
                last: last.map(|p| text::number(p.1)).unwrap_or_default(),
                dot: last.map(|p| (format!("{:.1}", at_x(p.0)), format!("{:.1}", at_y(p.1)))),
            }
        })
        .collect();
    let own = curves.iter().rev().find(|c| c.class != "baseline");
    let last = own.map(|c| c.last.clone()).unwrap_or_default();
    let count: usize = series.iter().map(|s| s.points.len()).sum();
    Some(Chart {
        name: shown_cut(name, 60),
        summary: format!("{count} points, newest value {last}"),
        last,
        x_name,
        x_ticks: ticks(x0, x1, 5)
            .into_iter()
            .map(|v| Tick { at: format!("{:.1}", at_x(v)), label: text::number(v) })
            .collect(),
        y_ticks: ticks(y0, y1, 4)
            .into_iter()
            .map(|v| Tick { at: format!("{:.1}", at_y(v)), label: text::number(v) })
            .collect(),
        curves,
        domain: format!("{} {} {} {}", compact(x0), compact(x1), compact(y0), compact(y1)),
        broken,
        names: String::new(),
        runs: String::new(),
    })
}

fn compact(x: f64) -> String {
    let text = format!("{x:.6}");
    if x != 0.0 && x.abs() < 1e-3 {
        return format!("{x:e}");
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for v in values {
        low = low.min(v);
        high = high.max(v);
    }
    if low > high { (0.0, 1.0) } else { (low, high) }
}

/// Round values inside `low..=high`, about `want` of them.
fn ticks(low: f64, high: f64, want: usize) -> Vec<f64> {
    let raw = (high - low) / want.max(1) as f64;
    if !raw.is_finite() || raw <= 0.0 {
        return Vec::new();
    }
    let unit = 10f64.powf(raw.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * unit).find(|s| *s >= raw).unwrap_or(10.0 * unit);
    let first = (low / step).ceil() as i64;
    (first..first + 2 * want as i64 + 2)
        .map(|i| i as f64 * step)
        .take_while(|v| *v <= high + step * 1e-9)
        // Binary fractions: 0.30000000000000004 is 0.3.
        .map(|v| (v / step).round() * step)
        .collect()
}

/// At most about [`POINTS`] points that keep every peak.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(POINTS / 2);
    let mut out = Vec::with_capacity(POINTS + 2);
    for part in points.chunks(stretch) {
        let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) = (part.iter().min_by(by), part.iter().max_by(by)) else { continue };
        let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
        out.push(*first);
        if first != second {
            out.push(*second);
        }
    }
    if let (Some(end), Some(kept)) = (points.last(), out.last())
        && end != kept
    {
        out.push(*end);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series {
            label: "train".into(),
            baseline: false,
            colour: None,
            points: points.to_vec(),
            band: Vec::new(),
        }
    }

    #[test]
    fn a_curve_spans_its_box_and_breaks_at_nan() {
        let chart =
            draw("loss", "step", vec![series(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 0.5), (3.0, 0.4)])])
                .unwrap();
        assert_eq!(chart.last, "0.4");
        assert!(chart.broken);
        assert_eq!(chart.curves[0].path.matches('M').count(), 2);
        assert!(chart.curves[0].path.starts_with("M48.0 "));
        assert_eq!(chart.curves[0].xs, "0 2 3");
        assert!(draw("loss", "step", vec![series(&[(0.0, 1.0)])]).is_none());
        assert!(draw("flat", "step", vec![series(&[(0.0, 0.0), (1.0, 0.0)])]).is_some());
    }

    #[test]
    fn a_band_lies_within_the_chart() {
        let mut one = series(&[(1.0, 0.80), (2.0, 0.82), (3.0, 0.81)]);
        one.band = vec![(1.0, 0.75, 0.85), (2.0, 0.80, 0.84)];
        let chart = draw("accuracy", "run", vec![one]).unwrap();
        assert!(chart.banded());
        let band = &chart.curves[0].band;
        assert_eq!((band.matches('M').count(), band.matches('L').count()), (1, 3), "{band}");
        let ys: Vec<f64> =
            band[1..].split('L').map(|p| p.split(' ').nth(1).unwrap().parse().unwrap()).collect();
        assert!(ys.iter().all(|y| (TOP..=HEIGHT - BOTTOM).contains(y)), "{ys:?}");
        assert!(ys[0] < ys[3], "the upper end is higher up");
        assert!(!draw("a", "run", vec![series(&[(1.0, 0.80), (2.0, 0.82)])]).unwrap().banded());
    }

    #[test]
    fn the_baseline_lies_behind() {
        let mut base = series(&[(0.0, 1.0), (1.0, 2.0)]);
        base.baseline = true;
        let chart = draw("a", "step", vec![series(&[(0.0, 1.0), (1.0, 3.0)]), base]).unwrap();
        let classes: Vec<&str> = chart.curves.iter().map(|c| c.class.as_str()).collect();
        assert_eq!(classes, ["baseline", "s0"]);
        assert_eq!(chart.last, "3");
    }

    #[test]
    fn thinning_keeps_peaks_and_ends() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), 0.0)).collect();
        points[54_321].1 = 9.0;
        let kept = thin(&points);
        assert!(kept.len() <= POINTS + 2, "{}", kept.len());
        assert!(kept.contains(&(54_321.0, 9.0)));
        assert_eq!(kept.last(), Some(&(99_999.0, 0.0)));
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.0, 1.0, 4), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(ticks(0.0, 20.0, 5), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert!(ticks(1.0, 1.0, 4).is_empty());
        assert!(ticks(f64::NAN, 1.0, 4).is_empty());
    }
}

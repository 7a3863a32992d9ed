//! The step graph: where each node and edge lies. Columns are depths, so every edge points to the right.

use crate::http::text::{Shown, duration, shown_cut};
use crate::model::{Plan, StepState};
use crate::store::runs::StepRow;

const NODE_WIDTH: i64 = 196;
const NODE_HEIGHT: i64 = 46;
const GAP_X: i64 = 52;
const GAP_Y: i64 = 12;
const MARGIN: i64 = 6;
/// More nodes than this are a list only: nobody reads such a drawing.
const NODES: usize = 80;

#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    pub width: i64,
    pub height: i64,
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
    /// How long the longest chain of steps took; empty before the run has one.
    pub critical: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub x: i64,
    pub y: i64,
    pub name: Shown,
    pub full_name: Shown,
    /// Position of the step, for its link.
    pub position: i64,
    pub state: &'static str,
    pub took: String,
    /// On the chain of steps that the run had to wait for.
    pub critical: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    pub path: String,
    /// The step it comes from ended well.
    pub done: bool,
    pub critical: bool,
}

impl Node {
    pub fn width(&self) -> i64 {
        NODE_WIDTH
    }
    pub fn height(&self) -> i64 {
        NODE_HEIGHT
    }
}

/// None when there is nothing worth drawing: a single step, or too many.
pub fn lay_out(plan: &Plan, steps: &[StepRow], now_ms: i64) -> Option<Graph> {
    if steps.len() < 2 || steps.len() > NODES {
        return None;
    }
    let index = |name: &str| plan.steps.iter().position(|s| s.name == name);
    let mut depth = vec![0usize; plan.steps.len()];
    for (i, spec) in plan.steps.iter().enumerate() {
        // Graph order: what a step needs stands before it. Anything else is left at its place rather than trusted.
        depth[i] = spec
            .needs
            .iter()
            .filter_map(|n| index(&n.step))
            .filter(|n| *n < i)
            .map(|n| depth[n] + 1)
            .max()
            .unwrap_or(0);
    }
    let columns = depth.iter().max().map_or(1, |d| d + 1);
    let mut filled = vec![0i64; columns];
    let mut rows = vec![0i64; plan.steps.len()];
    for (i, d) in depth.iter().enumerate() {
        rows[i] = filled[*d];
        filled[*d] += 1;
    }
    let tallest = filled.iter().copied().max().unwrap_or(1);
    let height = MARGIN * 2 + tallest * NODE_HEIGHT + (tallest - 1) * GAP_Y;
    let place = |i: usize| {
        let used = filled[depth[i]] * (NODE_HEIGHT + GAP_Y) - GAP_Y;
        let x = MARGIN + depth[i] as i64 * (NODE_WIDTH + GAP_X);
        (x, (height - used) / 2 + rows[i] * (NODE_HEIGHT + GAP_Y))
    };
    let chain = critical(plan, steps);
    let on_chain = |name: &str| chain.iter().any(|s| s.name == name);
    let mut nodes = Vec::new();
    let mut edges = Vec::new();
    for step in steps {
        let Some(i) = index(&step.name) else { continue };
        let (x, y) = place(i);
        nodes.push(Node {
            x,
            y,
            name: shown_cut(&step.name, 20),
            full_name: shown_cut(&step.name, 200),
            position: step.position,
            state: step.state.word(),
            took: took(step, now_ms),
            critical: on_chain(&step.name),
        });
        for need in plan.steps[i].needs.iter().filter_map(|n| index(&n.step)).filter(|n| *n < i) {
            let (from_x, from_y) = place(need);
            let (x1, y1) = (from_x + NODE_WIDTH, from_y + NODE_HEIGHT / 2);
            let (x2, y2) = (x, y + NODE_HEIGHT / 2);
            let bend = (x2 - x1) / 2;
            let done = steps.iter().any(|s| s.name == plan.steps[need].name && s.state.is_good());
            edges.push(Edge {
                path: format!("M{x1} {y1}C{} {y1} {} {y2} {x2} {y2}", x1 + bend, x2 - bend),
                done,
                critical: on_chain(&step.name) && on_chain(&plan.steps[need].name),
            });
        }
    }
    let width = MARGIN * 2 + columns as i64 * (NODE_WIDTH + GAP_X) - GAP_X;
    let critical = match (chain.first(), chain.last()) {
        (Some(first), Some(last)) if chain.len() > 1 => {
            let from = first.started_ms.unwrap_or_default();
            duration(last.ended_ms.unwrap_or(now_ms) - from)
        }
        _ => String::new(),
    };
    Some(Graph { width, height, nodes, edges, critical })
}

/// The steps that the run had to wait for, first one first: from the step that ended last (or still runs) back over the need that
/// ended last, each time.
fn critical<'a>(plan: &Plan, steps: &'a [StepRow]) -> Vec<&'a StepRow> {
    let ended = |s: &StepRow| s.ended_ms.unwrap_or(i64::MAX);
    let mut chain = Vec::new();
    let mut at = steps.iter().filter(|s| s.started_ms.is_some()).max_by_key(|s| ended(s));
    while let Some(step) = at {
        chain.push(step);
        let needs = plan.steps.iter().find(|s| s.name == step.name).map_or(&[][..], |s| &s.needs[..]);
        at = steps
            .iter()
            .filter(|s| s.position < step.position && s.started_ms.is_some())
            .filter(|s| needs.iter().any(|n| n.step == s.name))
            .max_by_key(|s| ended(s));
    }
    chain.reverse();
    chain
}

/// When a step waited for its pool and when it ran, as parts of the run's time in thousandths.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub waited_from: i64,
    pub from: i64,
    pub width: i64,
    pub waited: i64,
}

/// None before it started.
pub fn bar(step: &StepRow, run: &crate::store::runs::RunRow, now_ms: i64) -> Option<Bar> {
    let zero = run.started_ms?;
    let whole = (run.ended_ms.unwrap_or(now_ms) - zero).max(1);
    let part = |ms: i64| ((ms - zero).clamp(0, whole) * 1000) / whole;
    let from = part(step.started_ms?);
    let waited_from = part(step.ready_ms.unwrap_or(step.started_ms?)).min(from);
    let to = part(step.ended_ms.unwrap_or(now_ms));
    Some(Bar { waited_from, from, width: (to - from).max(4), waited: from - waited_from })
}

/// How long a step took or has been going; its state in a word before it started.
pub fn took(step: &StepRow, now_ms: i64) -> String {
    match (step.started_ms, step.ended_ms) {
        (Some(from), Some(to)) => duration(to - from),
        (Some(from), None) if step.state == StepState::Running => duration(now_ms - from),
        _ => step.state.word().to_owned(),
    }
}

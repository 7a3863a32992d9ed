//! The graph of steps: who needs whom, in which order, and one node for each matrix member.
//!
//! A step runs once for each combination of its own matrix and of the matrices of the steps it needs; members are
//! paired where they agree on the keys they share. With `gather: true` it runs for its own matrix alone and needs
//! all members.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::build::Builder;
use super::diagnostic::{code, quoted};
use super::node::{Node, first_line};
use super::placeholder::{self, Unresolved};
use super::steps::{Draft, MAX_MEMBERS, did_you_mean};
use crate::model::plan::{Need, StepSpec};

/// Values of one member, in the order in which its name shows them.
type Member = Vec<(String, String)>;

/// A need that is known to exist.
struct Edge<'d> {
    to: usize,
    /// None: it is the step before.
    node: Option<&'d Node>,
    into: Option<(&'d str, &'d Node)>,
}

pub(super) fn expand(b: &mut Builder<'_, '_>, root: &Node, drafts: &[Draft<'_>]) -> Vec<StepSpec> {
    let edges = edges(b, root, drafts);
    let Some(order) = order(b, drafts, &edges) else { return Vec::new() };
    let mut members: Vec<Vec<Member>> = vec![Vec::new(); drafts.len()];
    let mut steps: Vec<StepSpec> = Vec::new();
    let mut names = HashSet::new();
    let mut budget = OVERLAP_BUDGET;
    for &i in &order {
        let draft = &drafts[i];
        members[i] = members_of(b, draft, &edges[i], drafts, &members);
        let variables: Vec<String> = members[i]
            .first()
            .map(|m| m.iter().map(|(k, _)| k.to_ascii_uppercase()).collect())
            .unwrap_or_default();
        check_texts(b, draft, &variables);
        check_artifacts(b, draft, &edges[i], drafts, &members, &mut budget);
        if steps.len() + members[i].len() > MAX_MEMBERS {
            let message = format!("with `{}` the run has more than {MAX_MEMBERS} steps", draft.name);
            b.findings.add(
                code::TOO_MANY_STEPS,
                &draft.at,
                message,
                Some("make a matrix smaller, or split the pipeline".to_owned()),
            );
            return steps;
        }
        for member in &members[i] {
            let name = member_name(&draft.name, member);
            // Steps or values of one name were told before.
            if !names.insert(name.clone()) && !b.findings.has_errors() {
                let message = format!("two members of the matrix are called {}", quoted(&name));
                b.findings.add(
                    code::SAME_NAME,
                    &draft.at,
                    message,
                    Some("remove `,` and `=` from the values".to_owned()),
                );
            }
            let mut spec = draft.spec.clone();
            spec.base.clone_from(&draft.name);
            spec.name = name;
            spec.env.extend(member.iter().map(|(k, v)| (k.to_ascii_uppercase(), v.clone())));
            spec.member = member.iter().cloned().collect();
            for edge in &edges[i] {
                for needed in &members[edge.to] {
                    if draft.gather || agree(member, needed) {
                        let into = into(b, edge, needed);
                        spec.needs.push(Need { step: member_name(&drafts[edge.to].name, needed), into });
                    }
                }
            }
            steps.push(spec);
        }
    }
    steps
}

fn member_name(base: &str, member: &Member) -> String {
    if member.is_empty() {
        return base.to_owned();
    }
    let values: Vec<String> = member.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{base} ({})", values.join(", "))
}

/// Do two members hold the same values for the keys that both have?
fn agree(a: &Member, b: &Member) -> bool {
    a.iter().all(|(k, v)| b.iter().all(|(k2, v2)| !k.eq_ignore_ascii_case(k2) || v == v2))
}

fn edges<'d>(b: &mut Builder<'_, '_>, root: &Node, drafts: &'d [Draft<'_>]) -> Vec<Vec<Edge<'d>>> {
    let mut out = Vec::with_capacity(drafts.len());
    // Of two steps of one name the first counts; the second was told.
    let index: HashMap<&str, usize> =
        drafts.iter().enumerate().rev().map(|(i, d)| (d.name.as_str(), i)).collect();
    for (i, draft) in drafts.iter().enumerate() {
        let Some(needs) = &draft.needs else {
            out.push(i.checked_sub(1).map(|to| Edge { to, node: None, into: None }).into_iter().collect());
            continue;
        };
        let mut list: Vec<Edge<'d>> = Vec::new();
        for need in needs {
            if matches!(need.step.as_str(), "data" | "features") && !index.contains_key(need.step.as_str()) {
                if root.get(&need.step).is_none() {
                    let message = format!("there is no `{}` section to wait for", need.step);
                    b.add(
                        code::UNKNOWN_NEED,
                        need.node,
                        message,
                        Some(format!("add `{}:`, or remove it from `needs`", need.step)),
                    );
                }
                continue;
            }
            match index.get(need.step.as_str()).copied() {
                None => {
                    let message =
                        format!("{} needs {}, which is no step", quoted(&draft.name), quoted(&need.step));
                    b.add(code::UNKNOWN_NEED, need.node, message, Some(did_you_mean(&need.step, drafts)));
                }
                Some(to) if to == i => {
                    let message = format!("{} needs itself", quoted(&draft.name));
                    b.add(
                        code::CYCLE,
                        need.node,
                        message,
                        Some("remove it; `needs: []` starts a step at once".to_owned()),
                    );
                }
                Some(to) if list.iter().any(|e| e.to == to) => {
                    let message = format!("{} stands twice in `needs`", quoted(&need.step));
                    b.add(code::SAME_NAME, need.node, message, Some("remove one of them".to_owned()));
                }
                Some(to) => list.push(Edge { to, node: Some(need.node), into: need.into }),
            }
        }
        out.push(list);
    }
    out
}

/// Indices of the steps, each after those it needs, else in the order of the file. None when there is a circle.
fn order(b: &mut Builder<'_, '_>, drafts: &[Draft<'_>], edges: &[Vec<Edge<'_>>]) -> Option<Vec<usize>> {
    let mut placed = vec![false; drafts.len()];
    let mut order = Vec::with_capacity(drafts.len());
    while order.len() < drafts.len() {
        let Some(next) = (0..drafts.len()).find(|&i| !placed[i] && edges[i].iter().all(|e| placed[e.to]))
        else {
            circle(b, drafts, edges, &placed);
            return None;
        };
        placed[next] = true;
        order.push(next);
    }
    Some(order)
}

fn circle(b: &mut Builder<'_, '_>, drafts: &[Draft<'_>], edges: &[Vec<Edge<'_>>], placed: &[bool]) {
    // Every step that is left needs another that is left: following these leads into a circle.
    let mut walk: Vec<usize> = Vec::new();
    let Some(mut at) = placed.iter().position(|p| !p) else { return };
    while !walk.contains(&at) {
        walk.push(at);
        let Some(edge) = edges[at].iter().find(|e| !placed[e.to]) else { return };
        at = edge.to;
    }
    let from = walk.iter().position(|&i| i == at).unwrap_or(0);
    let circle = &walk[from..];
    // Told from its first step in the file.
    let first = circle.iter().enumerate().min_by_key(|(_, i)| **i).map_or(0, |(at, _)| at);
    let names: Vec<&str> =
        circle[first..].iter().chain(&circle[..=first]).map(|&i| drafts[i].name.as_str()).collect();
    let names: Vec<String> = names.into_iter().map(|n| format!("`{n}`")).collect();
    let silent = circle.iter().find(|&&i| drafts[i].needs.is_none());
    let help = match silent {
        Some(&i) => format!(
            "{} has no `needs`, so it waits for the step before it; give it `needs: []`",
            quoted(&drafts[i].name)
        ),
        None => "remove one of these needs".to_owned(),
    };
    let head = circle[first];
    let place = edges[head].iter().find(|e| !placed[e.to] && circle.contains(&e.to)).and_then(|e| e.node);
    let at = place.map_or_else(|| drafts[head].at.clone(), |n| first_line(b.source, &n.span));
    b.findings.add(
        code::CYCLE,
        &at,
        format!("steps need each other in a circle: {}", names.join(" needs ")),
        Some(help),
    );
}

fn members_of(
    b: &mut Builder<'_, '_>,
    draft: &Draft<'_>,
    edges: &[Edge<'_>],
    drafts: &[Draft<'_>],
    members: &[Vec<Member>],
) -> Vec<Member> {
    let mut own: Vec<Member> = vec![Vec::new()];
    for (key, values) in &draft.matrix {
        own = own
            .iter()
            .flat_map(|m| {
                values.iter().map(move |v| m.iter().cloned().chain([(key.clone(), v.clone())]).collect())
            })
            .collect();
    }
    if draft.gather {
        return own;
    }
    let mut all = own.clone();
    for edge in edges {
        let mut joined: Vec<Member> = Vec::new();
        for member in &all {
            for needed in members[edge.to].iter().filter(|n| agree(member, n)) {
                if joined.len() > MAX_MEMBERS {
                    break;
                }
                let new =
                    needed.iter().filter(|(k, _)| !member.iter().any(|(k2, _)| k.eq_ignore_ascii_case(k2)));
                joined.push(member.iter().chain(new).cloned().collect());
            }
        }
        let at = edge.node.map_or_else(|| draft.at.clone(), |n| first_line(b.source, &n.span));
        let needed = &drafts[edge.to].name;
        if joined.len() > MAX_MEMBERS {
            let message = format!(
                "{} would run more than {MAX_MEMBERS} times, once per member of what it needs",
                quoted(&draft.name)
            );
            b.findings.add(
                code::MATRIX,
                &at,
                message,
                Some("set `gather: true` to run it once over all members".to_owned()),
            );
            return own;
        }
        let lost = own.iter().find(|o| !joined.iter().any(|j| agree(o, j)));
        // A need that shares no key with the step's own matrix must be used whole.
        let shares = |n: &Member| {
            n.iter().any(|(k, _)| draft.matrix.iter().any(|(own, _)| own.eq_ignore_ascii_case(k)))
        };
        let unused = members[edge.to].iter().find(|n| !shares(n) && !joined.iter().any(|j| agree(j, n)));
        if lost.is_some() || unused.is_some() {
            let message = match (lost, unused) {
                (Some(l), None) if !l.is_empty() => {
                    format!("no member of {} fits {}", quoted(needed), quoted(&member_name(&draft.name, l)))
                }
                (_, Some(u)) => format!(
                    "{} cannot be paired with the other steps that {} needs: their matrix values differ",
                    quoted(&member_name(needed, u)),
                    quoted(&draft.name)
                ),
                _ => format!("the matrices that {} needs have no member in common", quoted(&draft.name)),
            };
            let help =
                "give both the same values, or set `gather: true` to run once over all members".to_owned();
            b.findings.add(code::MATRICES_DISAGREE, &at, message, Some(help));
            return own;
        }
        all = joined;
    }
    all
}

/// `${NAME}` in a step's texts, now that its variables are known.
fn check_texts(b: &mut Builder<'_, '_>, draft: &Draft<'_>, variables: &[String]) {
    let Some(node) = draft.node else { return };
    b.env(node, variables);
    let known: Vec<String> = variables.iter().chain(&draft.env_names).cloned().collect();
    for (key, hash) in [
        ("image", false),
        ("artifacts", false),
        ("checkpoint", false),
        ("reports", false),
        ("inputs", false),
        ("cache", true),
    ] {
        if let Some(value) = node.get(key) {
            b.placeholders(value, &known, hash);
        }
    }
}

/// The directory of a need, with the needed member's values.
fn into(b: &mut Builder<'_, '_>, edge: &Edge<'_>, needed: &Member) -> Option<String> {
    let (text, node) = edge.into?;
    let vars = variables(needed);
    match placeholder::resolve(text, &vars) {
        Ok(resolved) => Some(resolved),
        Err(Unresolved::Unknown { name, at }) => {
            // The same for every member: said once.
            let known: Vec<String> = vars.into_keys().collect();
            if !b.findings.has_errors() {
                b.unknown_placeholder(node, &name, &at, &known);
            }
            None
        }
        Err(_) => None,
    }
}

fn variables(member: &Member) -> BTreeMap<String, String> {
    member.iter().map(|(k, v)| (k.to_ascii_uppercase(), v.clone())).collect()
}

/// Comparisons of globs that one file may cost; beyond it only equal globs are found.
const OVERLAP_BUDGET: u32 = 20_000;

/// No two needs may put their artifacts at the same path.
fn check_artifacts(
    b: &mut Builder<'_, '_>,
    draft: &Draft<'_>,
    edges: &[Edge<'_>],
    drafts: &[Draft<'_>],
    members: &[Vec<Member>],
    budget: &mut u32,
) {
    let paths: Vec<Vec<String>> = edges.iter().map(|e| placed(e, &drafts[e.to])).collect();
    for (n, edge) in edges.iter().enumerate() {
        let producer = &drafts[edge.to];
        if producer.spec.artifacts.is_empty() {
            continue;
        }
        let at = edge.node.map_or_else(|| draft.at.clone(), |n| first_line(b.source, &n.span));
        if draft.gather && members[edge.to].len() > 1 {
            let mut seen = HashSet::new();
            let clash = members[edge.to].iter().any(|member| {
                let vars = variables(member);
                paths[n].iter().any(|path| !seen.insert(replace_known(path, &vars)))
            });
            if clash {
                let keys: Vec<String> = members[edge.to]
                    .first()
                    .map(|m| m.iter().map(|(k, _)| format!("${{{}}}", k.to_ascii_uppercase())).collect())
                    .unwrap_or_default();
                let message = format!(
                    "the members of {} put their artifacts at the same paths",
                    quoted(&producer.name)
                );
                let help =
                    format!("write `needs: [{{step: {0}, as: \"{0}/{1}\"}}]`", producer.name, keys.join("/"));
                b.findings.add(code::SAME_ARTIFACT, &at, message, Some(help));
                continue;
            }
        }
        for (other, other_paths) in edges[..n].iter().zip(&paths) {
            let (mut certain, mut possible) = (None, None);
            for mine in &paths[n] {
                for theirs in other_paths {
                    match overlap(mine, theirs, budget) {
                        Overlap::None => {}
                        Overlap::Possible => possible = possible.or(Some((mine, theirs))),
                        Overlap::Certain => certain = certain.or(Some((mine, theirs))),
                    }
                }
            }
            let other = &drafts[other.to].name;
            let help =
                format!("read one of them elsewhere: `needs: [{{step: {0}, as: {0}}}]`", producer.name);
            if let Some((mine, _)) = certain {
                let message = format!(
                    "{} and {} both make the artifact {}",
                    quoted(other),
                    quoted(&producer.name),
                    quoted(mine)
                );
                b.findings.add(code::SAME_ARTIFACT, &at, message, Some(help));
            } else if let Some((mine, theirs)) = possible {
                let message = format!(
                    "artifacts {} of {} and {} of {} may hold the same paths",
                    quoted(theirs),
                    quoted(other),
                    quoted(mine),
                    quoted(&producer.name)
                );
                b.findings.add(code::MAY_OVERLAP, &at, message, Some(help));
            }
        }
    }
}

/// Where a need's artifacts go, as globs.
fn placed(edge: &Edge<'_>, producer: &Draft<'_>) -> Vec<String> {
    let into = edge.into.map(|(text, _)| format!("{}/", text.trim_end_matches('/'))).unwrap_or_default();
    // Enough to find a clash; a thousand globs on each side would only cost time.
    producer
        .spec
        .artifacts
        .iter()
        .take(64)
        .map(|glob| format!("{into}{}", glob.trim_start_matches("./")))
        .collect()
}

/// Replaces what is known and leaves the rest.
fn replace_known(text: &str, vars: &BTreeMap<String, String>) -> String {
    vars.iter().fold(text.to_owned(), |t, (k, v)| t.replace(&format!("${{{k}}}"), v))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overlap {
    None,
    /// A path could match both.
    Possible,
    /// They are the same, or one is a path that the other matches.
    Certain,
}

fn overlap(a: &str, b: &str, budget: &mut u32) -> Overlap {
    if a == b {
        return Overlap::Certain;
    }
    if *budget == 0 {
        return Overlap::None;
    }
    let (x, y): (Vec<&str>, Vec<&str>) = (a.split('/').collect(), b.split('/').collect());
    if x.len() + y.len() > 64 || !may_meet(&x, &y, budget) {
        return Overlap::None;
    }
    // A path against `*` and `?` alone was matched exactly; the rest is a guess.
    let exact = |t: &str| !t.contains(['[', '{', '$']);
    if (is_literal(a) || is_literal(b)) && exact(a) && exact(b) {
        Overlap::Certain
    } else {
        Overlap::Possible
    }
}

fn is_literal(text: &str) -> bool {
    !text.contains(['*', '?', '[', '{', '$'])
}

/// Could one path match both lists of segments? When `budget` is spent the answer is no.
fn may_meet(a: &[&str], b: &[&str], budget: &mut u32) -> bool {
    *budget = budget.saturating_sub(1);
    if *budget == 0 {
        return false;
    }
    match (a.split_first(), b.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            may_meet(rest, b, budget) || b.split_first().is_some_and(|(_, less)| may_meet(a, less, budget))
        }
        (_, Some((&"**", _))) => may_meet(b, a, budget),
        (Some((x, ra)), Some((y, rb))) => segments_meet(x, y) && may_meet(ra, rb, budget),
        _ => false,
    }
}

fn segments_meet(a: &str, b: &str) -> bool {
    let simple = |t: &str| !t.contains(['[', '{', '$']);
    if is_literal(a) && simple(b) {
        return wildcard(b.as_bytes(), a.as_bytes());
    }
    if is_literal(b) && simple(a) {
        return wildcard(a.as_bytes(), b.as_bytes());
    }
    // Two patterns: what stands before the first and behind the last special character must agree.
    let fixed = |t: &str| {
        let head = t.find(['*', '?', '[', '{', '$']).unwrap_or(t.len());
        let tail = t.rfind(['*', '?', ']', '}']).map_or(0, |i| i + 1);
        (t[..head].to_owned(), t[tail.max(head)..].to_owned())
    };
    let ((head_a, tail_a), (head_b, tail_b)) = (fixed(a), fixed(b));
    (head_a.starts_with(&head_b) || head_b.starts_with(&head_a))
        && (tail_a.ends_with(&tail_b) || tail_b.ends_with(&tail_a))
}

/// Matches `*` and `?` in linear space and without recursion.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps() {
        let cases = [
            ("out/model/**", "out/model/**", Overlap::Certain),
            ("out/x.json", "out/*.json", Overlap::Certain),
            ("out/**", "out/model/**", Overlap::Possible),
            ("*.json", "metrics*", Overlap::Possible),
            ("*.json", "*.html", Overlap::None),
            ("a/**", "b/**", Overlap::None),
            ("**/x.json", "out/x.json", Overlap::Certain),
            ("seeds/${SEED}/m", "seeds/1/m", Overlap::Possible),
            ("a/b", "a/b/c", Overlap::None),
        ];
        for (a, b, want) in cases {
            assert_eq!(overlap(a, b, &mut 1000), want, "{a} {b}");
            assert_eq!(overlap(b, a, &mut 1000), want, "{b} {a}");
        }
    }
}

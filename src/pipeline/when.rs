//! Does an event start a run? Pure: the caller brings the facts.

use globset::{GlobSet, GlobSetBuilder};

use super::text::compile_glob;
use crate::model::plan::When;

/// What is known of an event.
#[derive(Debug, Clone, Copy)]
pub struct TriggerFacts<'a> {
    /// As in `when: {event: ...}`.
    pub event: &'a str,
    /// The pushed branch; of a pull request its head branch.
    pub branch: &'a str,
    /// Of a pull request.
    pub base_branch: Option<&'a str>,
    pub default_branch: &'a str,
    /// Paths that changed; None when that is not known, which never keeps a run from starting.
    pub changed: Option<&'a [String]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    Yes,
    /// A sentence for people, without a full stop.
    No(String),
}

impl Match {
    pub fn is_yes(&self) -> bool {
        *self == Self::Yes
    }
}

/// Does any entry of `when` match? An empty list is the default: pull requests, and pushes to the default branch.
pub fn matches(when: &[When], facts: &TriggerFacts<'_>) -> Match {
    let default = [When::default()];
    let entries = if when.is_empty() { &default[..] } else { when };
    let mut reasons: Vec<String> = Vec::new();
    for entry in entries {
        match no(entry, facts) {
            None => return Match::Yes,
            Some(reason) if !reasons.contains(&reason) => reasons.push(reason),
            Some(_) => {}
        }
    }
    Match::No(reasons.join("; "))
}

/// Why an entry does not match; None when it does.
fn no(when: &When, facts: &TriggerFacts<'_>) -> Option<String> {
    let events: Vec<&str> = if when.event.is_empty() {
        vec!["push", "pull_request"]
    } else {
        when.event.iter().map(String::as_str).collect()
    };
    if !events.contains(&facts.event) {
        return Some(format!("`when` asks for {}, and this is a {}", events.join(" or "), facts.event));
    }
    match facts.event {
        "push" if when.branch.is_empty() && facts.branch != facts.default_branch => {
            return Some(format!("`{}` is not the default branch `{}`", facts.branch, facts.default_branch));
        }
        "pull_request" => {
            let base = facts.base_branch.unwrap_or(facts.default_branch);
            if !when.branch.is_empty() && !any(&when.branch, base) {
                return Some(format!("the base branch `{base}` is not among {}", list(&when.branch)));
            }
        }
        _ if !when.branch.is_empty() && !any(&when.branch, facts.branch) => {
            return Some(format!("the branch `{}` is not among {}", facts.branch, list(&when.branch)));
        }
        _ => {}
    }
    let paths = &when.paths;
    let changed = facts.changed.filter(|_| matches!(facts.event, "push" | "pull_request"))?;
    if paths.include.is_empty() && paths.exclude.is_empty() {
        return None;
    }
    let include = (!paths.include.is_empty()).then(|| set(&paths.include));
    let exclude = set(&paths.exclude);
    let counts = |path: &String| include.as_ref().is_none_or(|i| i.is_match(path)) && !exclude.is_match(path);
    if changed.iter().any(counts) {
        return None;
    }
    Some(match changed {
        [] => "no file changed".to_owned(),
        [only] => format!("the changed file `{only}` does not match `paths`"),
        many => format!("none of the {} changed files matches `paths`", many.len()),
    })
}

fn list(branches: &[String]) -> String {
    branches.iter().map(|b| format!("`{b}`")).collect::<Vec<_>>().join(", ")
}

fn any(globs: &[String], text: &str) -> bool {
    set(globs).is_match(text)
}

/// Globs that do not compile were refused by the check; one that slips through matches nothing.
fn set(globs: &[String]) -> GlobSet {
    let mut builder = GlobSetBuilder::new();
    for glob in globs.iter().filter_map(|g| compile_glob(g).ok()) {
        builder.add(glob);
    }
    builder.build().unwrap_or_else(|_| GlobSet::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::Paths;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn facts<'a>(event: &'a str, branch: &'a str, changed: Option<&'a [String]>) -> TriggerFacts<'a> {
        let base_branch = (event == "pull_request").then_some("main");
        TriggerFacts { event, branch, base_branch, default_branch: "main", changed }
    }

    #[test]
    fn without_when_pull_requests_and_the_default_branch_run() {
        assert!(matches(&[], &facts("push", "main", None)).is_yes());
        assert!(matches(&[], &facts("pull_request", "topic", None)).is_yes());
        assert_eq!(
            matches(&[], &facts("push", "topic", None)),
            Match::No("`topic` is not the default branch `main`".into())
        );
        assert_eq!(
            matches(&[], &facts("tag", "v1", None)),
            Match::No("`when` asks for push or pull_request, and this is a tag".into())
        );
    }

    #[test]
    fn branches_are_globs_and_mean_the_base_of_a_pull_request() {
        let when = [When { branch: texts(&["main", "release/*"]), ..When::default() }];
        assert!(matches(&when, &facts("push", "release/1", None)).is_yes());
        assert!(matches(&when, &facts("pull_request", "topic", None)).is_yes());
        assert!(!matches(&when, &facts("push", "release/1/x", None)).is_yes(), "`*` stops at `/`");
        let other = TriggerFacts { base_branch: Some("dev"), ..facts("pull_request", "main", None) };
        assert_eq!(
            matches(&when, &other),
            Match::No("the base branch `dev` is not among `main`, `release/*`".into())
        );
    }

    #[test]
    fn paths_filter_only_when_the_changes_are_known() {
        let paths = Paths { include: texts(&["src/**", "params.yaml"]), exclude: texts(&["**/*.md"]) };
        let when = [When { paths, ..When::default() }];
        let run = |changed: &[&str]| matches(&when, &facts("push", "main", Some(&texts(changed))));
        assert!(run(&["README.md", "src/a/b.py"]).is_yes());
        assert!(run(&["params.yaml"]).is_yes());
        assert_eq!(
            run(&["src/a.md"]),
            Match::No("the changed file `src/a.md` does not match `paths`".into())
        );
        assert_eq!(run(&[]), Match::No("no file changed".into()));
        assert!(matches(&when, &facts("push", "main", None)).is_yes(), "unknown changes run");
        let mut many: Vec<String> = (0..6000).map(|i| format!("docs/{i}.txt")).collect();
        assert_eq!(
            matches(&when, &facts("push", "main", Some(&many))),
            Match::No("none of the 6000 changed files matches `paths`".into())
        );
        many.push("src/x.py".into());
        assert!(matches(&when, &facts("push", "main", Some(&many))).is_yes());
    }

    #[test]
    fn any_entry_is_enough_and_all_reasons_are_told() {
        let cron = When { event: texts(&["cron"]), cron: Some("0 3 * * *".into()), ..When::default() };
        let push = When { event: texts(&["push"]), branch: texts(&["dev"]), ..When::default() };
        assert_eq!(
            matches(&[cron.clone(), push.clone()], &facts("push", "main", None)),
            Match::No(
                "`when` asks for cron, and this is a push; the branch `main` is not among `dev`".into()
            )
        );
        assert!(matches(&[cron, push], &facts("push", "dev", None)).is_yes());
    }
}

//! Which run a candidate is held against. Every answer carries the sentence that names it.

use crate::forge::{Forge, ForgeError};
use crate::model::plan::Baseline;
use crate::model::{DATA_DIGEST, RunId, RunState, Sha};
use crate::store::Store;
use crate::store::lists::RunFilter;
use crate::store::pulls::{PullRow, RepoRow};
use crate::store::runs::RunRow;

/// How many commits before the merge-base are looked at.
const WALK: u32 = 50;
/// How many runs of a branch are looked at for `branch:<name>`.
const BRANCH_RUNS: i64 = 50;

/// What was chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// A good run: hold the candidate against it.
    Use { run: RunId, note: String },
    /// The right run, but it has not ended yet.
    Wait { run: RunId, note: String, state: RunState },
    /// There is none, and why.
    None { note: String },
}

/// A choice, and what may change it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    pub choice: Choice,
    /// Commits on which a good run, or another one, makes for another choice. None: any good run of the base branch may.
    pub nearer: Option<Vec<Sha>>,
}

impl Chosen {
    fn on(choice: Choice, nearer: Vec<Sha>) -> Self {
        Self { choice, nearer: Some(nearer) }
    }
    fn open(choice: Choice) -> Self {
        Self { choice, nearer: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// Never a permanent one: those become a [`Choice::None`].
    #[error(transparent)]
    Forge(#[from] ForgeError),
}

/// Chooses for one candidate and one target.
pub struct Chooser<'a> {
    pub store: &'a Store,
    pub forge: &'a dyn Forge,
    pub repo: &'a RepoRow,
    pub candidate: &'a RunRow,
}

impl Chooser<'_> {
    /// `pull` is None for a branch without a pull request.
    pub async fn choose(&self, pull: Option<&PullRow>) -> Result<Chosen, ChooseError> {
        if self.candidate.plan.metrics.baseline == Baseline::MergeBase
            && let Some(choice) = self.on_other_data().await?
        {
            return Ok(Chosen::on(choice, Vec::new()));
        }
        let chosen = match &self.candidate.plan.metrics.baseline {
            Baseline::MergeBase => match pull {
                Some(pull) => self.merge_base(&pull.pull.base_branch).await,
                None if self.candidate.branch == self.repo.default_branch => {
                    self.ancestor_of(&self.candidate.head_sha, &self.repo.default_branch, "this commit", None)
                        .await
                }
                None => self.merge_base(&self.repo.default_branch).await,
            },
            Baseline::Branch(name) => self.newest_of(name).await.map(Chosen::open),
            Baseline::Run(text) => self.named(text).await.map(|choice| Chosen::on(choice, Vec::new())),
            Baseline::Model(name) => {
                let note = format!(
                    "no baseline: model:{name} needs a model registry, which this version does not have"
                );
                Ok(Chosen::on(Choice::None { note }, Vec::new()))
            }
        };
        match chosen {
            // A branch or commit that the forge no longer has stays away: that is an answer.
            Err(ChooseError::Forge(error)) if error.is_permanent() => {
                Ok(Chosen::open(Choice::None { note: format!("no baseline: {error}") }))
            }
            other => other,
        }
    }

    /// Of a run that new data started: the same commit on the data before. What differs is the data alone.
    async fn on_other_data(&self) -> Result<Option<Choice>, ChooseError> {
        let Some(data) = self.candidate.variables.get(DATA_DIGEST) else { return Ok(None) };
        for run in self.store.generations_before(self.candidate).await? {
            let same = run.variables.get(DATA_DIGEST) == Some(data);
            if same || !run.trusted || (run.state.is_terminal() && run.state != RunState::Succeeded) {
                continue;
            }
            let note = format!("{} at {}, on the data before", run.branch, run.head_sha.abbreviated());
            return Ok(Some(match run.state {
                RunState::Succeeded => Choice::Use { run: run.id, note },
                state => Choice::Wait { run: run.id, note, state },
            }));
        }
        Ok(None)
    }

    async fn merge_base(&self, base: &str) -> Result<Chosen, ChooseError> {
        let head = &self.candidate.head_sha;
        let Some(sha) = self.forge.merge_base(&self.repo.name, base, head).await? else {
            let note = format!("no baseline: {base} and this commit share no history");
            return Ok(Chosen::open(Choice::None { note }));
        };
        if sha == *head {
            let why = format!("this commit is part of {base} already");
            return self.ancestor_of(&sha, base, "this commit", Some(why)).await;
        }
        let here = format!("{base} at {}, the merge-base", sha.abbreviated());
        let why = match self.run_at(&sha).await? {
            None => "it has no run of this pipeline".to_owned(),
            Some(run) if !run.trusted => "its run is not trusted".to_owned(),
            Some(run) if run.state == RunState::Succeeded => {
                return Ok(Chosen::on(Choice::Use { run: run.id, note: here }, vec![sha]));
            }
            Some(run) if !run.state.is_terminal() => {
                let choice = Choice::Wait { run: run.id, note: here, state: run.state };
                return Ok(Chosen::on(choice, vec![sha]));
            }
            Some(run) => format!("its run {}", past(run.state)),
        };
        let place = format!("the merge-base {}", sha.abbreviated());
        let mut chosen = self.ancestor_of(&sha, base, &place, Some(why)).await?;
        chosen.nearer.get_or_insert_default().push(sha);
        Ok(chosen)
    }

    /// The nearest good run before `sha`, which itself is not looked at. Nearer are the commits from there up to that run's.
    async fn ancestor_of(
        &self,
        sha: &Sha,
        branch: &str,
        place: &str,
        why: Option<String>,
    ) -> Result<Chosen, ChooseError> {
        let because = why.as_deref().map(|w| format!(", because {w}")).unwrap_or_default();
        let history = self.forge.history(&self.repo.name, sha, WALK + 1).await?;
        let mut nearer = Vec::new();
        for (distance, earlier) in history.iter().filter(|s| *s != sha).enumerate() {
            nearer.push(earlier.clone());
            if let Some(run) = self.run_at(earlier).await?
                && run.trusted
                && run.state == RunState::Succeeded
            {
                let commits =
                    if distance == 0 { "1 commit".to_owned() } else { format!("{} commits", distance + 1) };
                let note =
                    format!("{branch} at {}, {commits} before {place}{because}", earlier.abbreviated());
                return Ok(Chosen::on(Choice::Use { run: run.id, note }, nearer));
            }
        }
        let searched = match nearer.len() {
            0 => format!("there is no commit before {place}"),
            1 => format!("the 1 commit before {place} has no good run"),
            n => format!("none of the {n} commits before {place} has a good run"),
        };
        Ok(Chosen::on(Choice::None { note: format!("no baseline: {searched}{because}") }, nearer))
    }

    /// The newest good run of a branch, or the newest one in progress when there is no good one yet.
    async fn newest_of(&self, branch: &str) -> Result<Choice, ChooseError> {
        let filter = RunFilter {
            repo: Some(self.repo.id.clone()),
            branch: Some(branch.to_owned()),
            pipeline: Some(self.candidate.pipeline.clone()),
            ..RunFilter::default()
        };
        let runs: Vec<RunRow> = self
            .store
            .list_runs(filter, None, BRANCH_RUNS)
            .await?
            .into_iter()
            .map(|item| item.run)
            .filter(|run| run.trusted && run.head_sha != self.candidate.head_sha)
            .collect();
        if let Some(run) = runs.iter().find(|r| r.state == RunState::Succeeded) {
            let note = format!("{branch} at {}, its newest good run", run.head_sha.abbreviated());
            return Ok(Choice::Use { run: run.id.clone(), note });
        }
        Ok(match runs.iter().find(|r| !r.state.is_terminal()) {
            Some(run) => Choice::Wait {
                run: run.id.clone(),
                note: format!("{branch} at {}, its newest run", run.head_sha.abbreviated()),
                state: run.state,
            },
            None => Choice::None {
                note: format!("no baseline: branch {branch} has no good run of this pipeline"),
            },
        })
    }

    async fn named(&self, text: &str) -> Result<Choice, ChooseError> {
        let refuse = |why: &str| Choice::None { note: format!("no baseline: run:{text} {why}") };
        let mut found = self.store.find_runs(text, None).await?;
        if found.len() > 1 {
            return Ok(refuse("is how several runs begin: write more of its id"));
        }
        let Some(run) = found.pop() else { return Ok(refuse("is not known")) };
        let note = format!("run {text} of {} at {}", run.branch, run.head_sha.abbreviated());
        Ok(if run.repo_id != self.repo.id {
            refuse("belongs to another repository")
        } else if run.id == self.candidate.id {
            refuse("is this run itself")
        } else if !run.trusted {
            refuse("is not trusted")
        } else if run.state == RunState::Succeeded {
            Choice::Use { run: run.id, note }
        } else if run.state.is_terminal() {
            refuse(past(run.state))
        } else {
            Choice::Wait { run: run.id, note, state: run.state }
        })
    }

    async fn run_at(&self, sha: &Sha) -> Result<Option<RunRow>, ChooseError> {
        Ok(self.store.head_run(&self.repo.id, &self.candidate.pipeline, sha).await?)
    }
}

fn past(state: RunState) -> &'static str {
    match state {
        RunState::Failed => "failed",
        RunState::Errored => "ended in an error",
        RunState::Cancelled => "was cancelled",
        RunState::Superseded => "was superseded",
        RunState::Skipped => "was skipped",
        RunState::Succeeded => "succeeded",
        RunState::Held | RunState::Queued | RunState::Running => "has not ended",
    }
}

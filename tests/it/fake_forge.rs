//! A forge in memory: a commit graph to read, statuses and comments to write, and faults on request. It stands behind the same
//! trait as the real clients, so the rooms above cannot tell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use trainyard::clock::{Millis, SharedClock};
use trainyard::config::ForgeKind;
use trainyard::forge::{
    Capabilities, ChangeWords, Comment, Commit, Folder, Forge, ForgeError, GitAccess, Permission, Status,
    TreeEntry, WebPage,
};
use trainyard::model::{Actor, PullRequest, RepoName, Sha};

/// What goes wrong with one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happened (connection refused, 502, time-out on the way there).
    Before,
    /// It happened, and the answer was lost.
    After,
    Limited(i64),
    Refused(u16),
    NotFound,
}

/// Decides about the n-th write (from 0).
type Plan = Box<dyn FnMut(u64) -> Option<Fault> + Send>;

#[derive(Default)]
pub struct State {
    pub parents: BTreeMap<Sha, Vec<Sha>>,
    pub branches: BTreeMap<String, Sha>,
    pub statuses: Vec<(Sha, Status)>,
    pub comments: BTreeMap<i64, Vec<Comment>>,
    /// Every write that reached us: when, and to what (`sha/context`, `#number`).
    pub writes: Vec<(Millis, String)>,
    /// Questions about the commit graph.
    pub asked: usize,
    plan: Option<Plan>,
    ids: u64,
}

pub struct FakeForge {
    pub me: Actor,
    clock: SharedClock,
    pub state: Mutex<State>,
}

impl std::fmt::Debug for FakeForge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeForge")
    }
}

impl FakeForge {
    pub fn new(clock: SharedClock) -> Arc<Self> {
        let me = Actor { id: "1".into(), login: "trainyard-bot".into() };
        Arc::new(Self { me, clock, state: Mutex::default() })
    }

    /// From now on writes fail as this says; the count starts again.
    pub fn faults(&self, plan: impl FnMut(u64) -> Option<Fault> + Send + 'static) {
        let mut n = 0;
        let mut plan = plan;
        self.state.lock().unwrap().plan = Some(Box::new(move |_| {
            n += 1;
            plan(n - 1)
        }));
    }

    /// A commit on top of another.
    pub fn commit_on(&self, sha: &Sha, parents: &[&Sha]) {
        let parents = parents.iter().map(|p| (*p).clone()).collect();
        self.state.lock().unwrap().parents.insert(sha.clone(), parents);
    }

    pub fn branch(&self, name: &str, sha: &Sha) {
        self.state.lock().unwrap().branches.insert(name.into(), sha.clone());
    }

    pub fn last_status(&self, sha: &Sha, context: &str) -> Option<Status> {
        let state = self.state.lock().unwrap();
        state
            .statuses
            .iter()
            .rev()
            .find(|(s, status)| s == sha && status.context == context)
            .map(|(_, s)| s.clone())
    }

    pub fn statuses(&self, sha: &Sha, context: &str) -> Vec<Status> {
        let state = self.state.lock().unwrap();
        state
            .statuses
            .iter()
            .filter(|(s, status)| s == sha && status.context == context)
            .map(|(_, s)| s.clone())
            .collect()
    }

    pub fn comments_on(&self, number: i64) -> Vec<Comment> {
        self.state.lock().unwrap().comments.get(&number).cloned().unwrap_or_default()
    }

    pub fn say(&self, number: i64, author: &str, body: &str) {
        let mut state = self.state.lock().unwrap();
        state.ids += 1;
        let comment = Comment {
            id: state.ids.to_string(),
            author: Actor { id: author.into(), login: author.into() },
            body: body.into(),
        };
        state.comments.entry(number).or_default().push(comment);
    }

    pub fn delete_comments(&self, number: i64) {
        self.state.lock().unwrap().comments.remove(&number);
    }

    pub fn writes(&self) -> Vec<(Millis, String)> {
        self.state.lock().unwrap().writes.clone()
    }

    /// How many questions about the commit graph have come.
    pub fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    fn write<T>(
        &self,
        what: String,
        act: impl FnOnce(&mut State) -> Result<T, ForgeError>,
    ) -> Result<T, ForgeError> {
        let mut state = self.state.lock().unwrap();
        state.writes.push((self.clock.now_ms(), what.clone()));
        let fault = state.plan.as_mut().and_then(|plan| plan(0));
        let transient = || ForgeError::Transient { what: what.clone(), message: "502 Bad Gateway".into() };
        match fault {
            None => act(&mut state),
            Some(Fault::Before) => Err(transient()),
            Some(Fault::After) => act(&mut state).and_then(|_| Err(transient())),
            Some(Fault::Limited(wait_ms)) => Err(ForgeError::Limited { what, wait_ms }),
            Some(Fault::NotFound) => Err(ForgeError::NotFound { what }),
            Some(Fault::Refused(status)) => Err(ForgeError::Refused { what, status, message: "no".into() }),
        }
    }
}

fn ancestors(state: &State, from: &Sha) -> Vec<Sha> {
    let (mut seen, mut queue) = (Vec::new(), std::collections::VecDeque::from([from.clone()]));
    while let Some(sha) = queue.pop_front() {
        if !seen.contains(&sha) {
            queue.extend(state.parents.get(&sha).cloned().unwrap_or_default());
            seen.push(sha);
        }
    }
    seen
}

fn missing(what: &str) -> ForgeError {
    ForgeError::NotFound { what: what.to_owned() }
}

#[async_trait]
impl Forge for FakeForge {
    async fn whoami(&self) -> Result<Actor, ForgeError> {
        Ok(self.me.clone())
    }
    async fn repo_id(&self, _: &RepoName) -> Result<String, ForgeError> {
        Err(missing("repository"))
    }
    async fn commit(&self, _: &RepoName, _: &Sha) -> Result<Commit, ForgeError> {
        Err(missing("commit"))
    }
    async fn tree(&self, _: &RepoName, _: &Folder) -> Result<Vec<TreeEntry>, ForgeError> {
        Err(missing("tree"))
    }
    async fn file(&self, _: &RepoName, _: &Sha, _: &str) -> Result<Vec<u8>, ForgeError> {
        Err(missing("file"))
    }
    async fn merge_base(&self, _: &RepoName, base: &str, head: &Sha) -> Result<Option<Sha>, ForgeError> {
        let mut state = self.state.lock().unwrap();
        state.asked += 1;
        let tip = state.branches.get(base).ok_or_else(|| missing(base))?;
        let ours = ancestors(&state, head);
        Ok(ancestors(&state, tip).into_iter().find(|sha| ours.contains(sha)))
    }
    async fn history(&self, _: &RepoName, sha: &Sha, limit: u32) -> Result<Vec<Sha>, ForgeError> {
        let mut state = self.state.lock().unwrap();
        state.asked += 1;
        let mut shas = ancestors(&state, sha);
        shas.truncate(limit as usize);
        Ok(shas)
    }
    async fn permission(&self, _: &RepoName, _: &Actor) -> Result<Permission, ForgeError> {
        Ok(Permission::Write)
    }
    async fn has_merged_change(&self, _: &RepoName, _: &Actor) -> Result<bool, ForgeError> {
        Ok(false)
    }
    async fn pull(&self, _: &RepoName, _: i64) -> Result<PullRequest, ForgeError> {
        Err(missing("pull"))
    }
    async fn set_status(&self, _: &RepoName, sha: &Sha, status: &Status) -> Result<(), ForgeError> {
        self.write(format!("{sha}/{}", status.context), |state| {
            state.statuses.push((sha.clone(), status.clone()));
            Ok(())
        })
    }
    async fn comments(&self, _: &RepoName, number: i64) -> Result<Vec<Comment>, ForgeError> {
        Ok(self.comments_on(number))
    }
    async fn create_comment(&self, _: &RepoName, number: i64, body: &str) -> Result<String, ForgeError> {
        self.write(format!("#{number}"), |state| {
            state.ids += 1;
            let id = state.ids.to_string();
            let comment = Comment { id: id.clone(), author: self.me.clone(), body: body.into() };
            state.comments.entry(number).or_default().push(comment);
            Ok(id)
        })
    }
    async fn edit_comment(&self, _: &RepoName, id: &str, body: &str) -> Result<(), ForgeError> {
        self.write(format!("comment {id}"), |state| {
            let comment = state.comments.values_mut().flatten().find(|c| c.id == id);
            comment.ok_or_else(|| missing("comment"))?.body = body.into();
            Ok(())
        })
    }
    fn git(&self, repo: &RepoName) -> GitAccess {
        GitAccess {
            url: format!("http://127.0.0.1/{repo}.git"),
            authorization: None,
            http: reqwest::Client::builder().build().unwrap(),
        }
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            status_description: 140,
            comment_bytes: 65_536,
            change: ChangeWords::of(ForgeKind::Github),
        }
    }
    fn page(&self, repo: &RepoName, what: WebPage<'_>) -> String {
        let home = format!("https://forge.example/{repo}");
        match what {
            WebPage::Repository => home,
            WebPage::Branch(name) => format!("{home}/tree/{name}"),
            WebPage::Commit(sha) => format!("{home}/commit/{sha}"),
            WebPage::Pull(number) => format!("{home}/pull/{number}"),
        }
    }
}

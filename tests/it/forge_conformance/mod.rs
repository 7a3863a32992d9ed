//! What every [`Forge`] must do, run on each client against the sandbox in its shape. What is said to and by the GitHub- and the
//! Gitea-shaped one is held against their makers' own descriptions.

mod calls;
mod contract;
mod strangers;
mod trees;
mod webhooks;

use std::sync::Arc;

use tempfile::TempDir;
use trainyard::clock::SystemClock;
use trainyard::config::{ForgeKind, SecretSource};
use trainyard::forge::{self, Forge};
use trainyard::model::RepoName;
use trainyard::sandbox::{NewPull, Sandbox, SandboxOptions, WRITER};

use crate::worktree::WorkTree;

const KINDS: [ForgeKind; 3] = [ForgeKind::Github, ForgeKind::Gitlab, ForgeKind::Gitea];

struct Stage {
    sandbox: Sandbox,
    forge: Arc<dyn Forge>,
    kind: ForgeKind,
    repo: RepoName,
    tree: WorkTree,
    _dir: TempDir,
}

async fn stage() -> Stage {
    stage_of(ForgeKind::Github).await
}

async fn stage_of(kind: ForgeKind) -> Stage {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let options = SandboxOptions::new(dir.path(), Arc::new(SystemClock)).shaped(kind);
    let sandbox = Sandbox::start(options).await.expect("a sandbox");
    let repo = RepoName::parse("acme/churn").expect("a name");
    sandbox.create_repo(&repo, "main").await.expect("a repository");
    let config = sandbox.forge_config(SecretSource::Env("UNUSED".into()), Vec::new());
    let forge = forge::connect(&config, sandbox.token()).expect("a client");
    let tree = WorkTree::new(&sandbox.git_url(&repo, WRITER));
    Stage { sandbox, forge, kind, repo, tree, _dir: dir }
}

fn new_pull(title: &str, branch: &str) -> NewPull {
    NewPull {
        title: title.into(),
        author: WRITER.into(),
        head_branch: branch.into(),
        head_repo: None,
        base_branch: "main".into(),
        draft: false,
    }
}

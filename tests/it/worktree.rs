//! A git work tree that pushes to a sandbox like a person's.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use trainyard::model::Sha;

pub struct WorkTree {
    dir: TempDir,
    url: String,
}

impl WorkTree {
    /// An empty work tree on the branch `main`, to be pushed to `url` (which holds the password).
    pub fn new(url: &str) -> Self {
        let tree = Self { dir: tempfile::tempdir().expect("a temporary folder"), url: url.to_owned() };
        tree.git(&["init", "--quiet", "--initial-branch=main"]);
        tree
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.file(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    /// Runs git without anybody's own configuration; its standard output without the last line feed.
    pub fn git(&self, args: &[&str]) -> String {
        let out = self.command(args).output().expect("git is installed: run make setup");
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    }

    /// As [`WorkTree::git`], with this on its standard input.
    pub fn git_with_input(&self, args: &[&str], input: &str) -> String {
        let mut git = self.command(args);
        let mut git = git
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git is installed: run make setup");
        git.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("git reads its input");
        let out = git.wait_with_output().expect("git ends");
        assert!(out.status.success(), "git {args:?}");
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.current_dir(self.dir.path())
            .args(args)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("NO_PROXY", "127.0.0.1")
            .envs([("GIT_AUTHOR_NAME", "Ada"), ("GIT_AUTHOR_EMAIL", "ada@example.org")])
            .envs([("GIT_COMMITTER_NAME", "Ada"), ("GIT_COMMITTER_EMAIL", "ada@example.org")]);
        git
    }

    /// Commits all that changed, or nothing.
    pub fn commit(&self, message: &str) -> Sha {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.head()
    }

    pub fn head(&self) -> Sha {
        Sha::parse(&self.git(&["rev-parse", "HEAD"])).expect("a commit id")
    }

    /// Pushes; returns when the forge has sent its webhooks.
    pub fn push(&self, refs: &[&str]) {
        let mut args = vec!["push", "--quiet", &self.url];
        args.extend(refs);
        tokio::task::block_in_place(|| self.git(&args));
    }
}

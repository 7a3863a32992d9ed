//! The repositories of the sandbox: bare, on disk, read by `git` alone and served by `git http-backend`.
//!
//! Must not: run a hook, read a configuration from outside, take a name for an option.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use axum::body::Bytes;
use hyper::{HeaderMap, StatusCode, header::HeaderName, header::HeaderValue};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::model::Sha;

/// One bare repository.
#[derive(Debug, Clone)]
pub(super) struct Bare {
    dir: PathBuf,
}

/// A commit with what GitHub's answers hold of it.
#[derive(Debug, Clone)]
pub(super) struct CommitInfo {
    pub sha: String,
    pub tree: String,
    pub parents: Vec<String>,
    pub author: Signature,
    pub committer: Signature,
    pub message: String,
}

#[derive(Debug, Clone)]
pub(super) struct Signature {
    pub name: String,
    pub email: String,
    /// Seconds since 1970.
    pub at: i64,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub mode: String,
    pub kind: String,
    pub id: String,
    /// Files only.
    pub size: Option<u64>,
    pub path: String,
}

/// What a CGI program answered.
pub(super) struct CgiAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// One request to `git http-backend`.
pub(super) struct CgiRequest<'a> {
    pub method: &'a str,
    /// Below the repository: `info/refs`, `git-upload-pack`, …
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    /// Who pushes; without it nothing may be pushed.
    pub user: Option<&'a str>,
    pub body: Bytes,
}

impl Bare {
    /// Makes an empty repository.
    pub async fn create(dir: PathBuf, default_branch: &str) -> anyhow::Result<Self> {
        tokio::fs::create_dir_all(&dir).await.with_context(|| format!("cannot make {}", dir.display()))?;
        let bare = Self { dir };
        bare.run(&["init", "--quiet", "--bare", &format!("--initial-branch={default_branch}")]).await?;
        // GitHub serves any commit by its id, and partial clones.
        for (key, value) in [
            ("uploadpack.allowAnySHA1InWant", "true"),
            ("uploadpack.allowFilter", "true"),
            ("gc.auto", "0"),
            ("receive.autogc", "false"),
        ] {
            bare.run(&["config", key, value]).await?;
        }
        Ok(bare)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn command(&self) -> Command {
        let mut git = Command::new("git");
        git.env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .env("LC_ALL", "C.UTF-8")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_DIR", &self.dir)
            .args(["-c", "core.hooksPath=/dev/null", "-c", "protocol.allow=never"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        git
    }

    async fn output(&self, args: &[&str]) -> anyhow::Result<std::process::Output> {
        self.command().args(args).output().await.context("cannot start git; is it installed?")
    }

    async fn run(&self, args: &[&str]) -> anyhow::Result<Vec<u8>> {
        let out = self.output(args).await?;
        ensure!(out.status.success(), "git {args:?} failed: {}", String::from_utf8_lossy(&out.stderr).trim());
        Ok(out.stdout)
    }

    async fn text(&self, args: &[&str]) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&self.run(args).await?).trim_end().to_owned())
    }

    /// Branches and tags with their commits.
    pub async fn refs(&self) -> anyhow::Result<Vec<(String, String)>> {
        let text = self
            .text(&["for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags"])
            .await?;
        Ok(text
            .lines()
            .filter_map(|l| l.split_once(' '))
            .map(|(r, o)| (r.to_owned(), o.to_owned()))
            .collect())
    }

    /// The commit that a branch name or a commit id means.
    pub async fn resolve(&self, name: &str) -> Option<String> {
        let spec = match Sha::parse(name) {
            Ok(sha) => format!("{sha}^{{commit}}"),
            Err(_) => format!("refs/heads/{name}^{{commit}}"),
        };
        self.text(&["rev-parse", "--verify", "--quiet", "--end-of-options", &spec]).await.ok()
    }

    /// Commits from `sha` back, newest first.
    pub async fn log(&self, range: &str, skip: usize, count: usize) -> anyhow::Result<Vec<CommitInfo>> {
        let (skip, count) = (format!("--skip={skip}"), format!("--max-count={count}"));
        let format = "--format=%H%n%T%n%P%n%an%n%ae%n%at%n%cn%n%ce%n%ct%n%B";
        let text = self.text(&["log", "-z", &skip, &count, format, "--end-of-options", range, "--"]).await?;
        text.split('\0').filter(|part| !part.is_empty()).map(parse_commit).collect()
    }

    pub async fn commit(&self, sha: &str) -> Option<CommitInfo> {
        self.log(sha, 0, 1).await.ok()?.pop()
    }

    /// Entries of a tree by its id or a commit's, not recursive; with `path`, that entry alone.
    pub async fn entries(&self, tree: &str, path: Option<&str>) -> anyhow::Result<Vec<Entry>> {
        let mut args =
            vec!["--literal-pathspecs", "ls-tree", "-z", "-l", "--full-tree", "--end-of-options", tree];
        args.extend(path);
        let out = self.run(&args).await?;
        let lines = out.split(|b| *b == 0).filter(|line| !line.is_empty());
        lines.map(|line| parse_entry(&String::from_utf8_lossy(line))).collect()
    }

    pub async fn blob(&self, id: &str) -> anyhow::Result<Vec<u8>> {
        self.run(&["cat-file", "blob", id]).await
    }

    pub async fn merge_base(&self, a: &str, b: &str) -> Option<String> {
        self.text(&["merge-base", "--end-of-options", a, b]).await.ok().filter(|t| !t.is_empty())
    }

    /// How many commits `head` lacks and has over `base`.
    pub async fn behind_ahead(&self, base: &str, head: &str) -> anyhow::Result<(u64, u64)> {
        let range = format!("{base}...{head}");
        let text =
            self.text(&["rev-list", "--left-right", "--count", "--end-of-options", &range, "--"]).await?;
        let (left, right) = text.split_once('\t').context("git rev-list --count printed no pair")?;
        Ok((left.parse()?, right.parse()?))
    }

    pub async fn is_ancestor(&self, old: &str, new: &str) -> bool {
        let out = self.output(&["merge-base", "--is-ancestor", "--end-of-options", old, new]).await;
        out.is_ok_and(|o| o.status.success())
    }

    /// Letters (`A`, `M`, `D`, …) and paths that a commit changes against its first parent.
    pub async fn changes(&self, sha: &str) -> anyhow::Result<Vec<(String, String)>> {
        let args = [
            "diff-tree",
            "-r",
            "-z",
            "--root",
            "--no-commit-id",
            "--name-status",
            "--no-renames",
            "--end-of-options",
            sha,
        ];
        let text = self.text(&args).await?;
        let mut parts = text.split('\0');
        let mut found = Vec::new();
        while let (Some(letter), Some(path)) = (parts.next(), parts.next()) {
            found.push((letter.to_owned(), path.to_owned()));
        }
        Ok(found)
    }

    pub async fn set_ref(&self, name: &str, sha: &str) -> anyhow::Result<()> {
        self.run(&["update-ref", "--end-of-options", name, sha]).await.map(drop)
    }

    /// Brings a commit over from another repository of the sandbox, as a forge's forks share their objects.
    pub async fn take_over(&self, from: &Self, sha: &str, as_ref: &str) -> anyhow::Result<()> {
        let spec = format!("+{sha}:{as_ref}");
        let from = from.dir.to_str().context("the sandbox's folder has a name that is not UTF-8")?;
        self.run(&[
            "-c",
            "protocol.file.allow=always",
            "fetch",
            "--quiet",
            "--no-tags",
            "--end-of-options",
            from,
            &spec,
        ])
        .await
        .map(drop)
    }

    /// Runs `git http-backend` for one request, whole in memory.
    pub async fn cgi(&self, request: CgiRequest<'_>) -> anyhow::Result<CgiAnswer> {
        let header = |name: &str| {
            request.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
        };
        let mut git = self.command();
        git.arg("http-backend")
            .env_remove("GIT_DIR")
            .env("GIT_PROJECT_ROOT", &self.dir)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("GATEWAY_INTERFACE", "CGI/1.1")
            .env("SERVER_PROTOCOL", "HTTP/1.1")
            .env("REMOTE_ADDR", "127.0.0.1")
            .env("REQUEST_METHOD", request.method)
            .env("PATH_INFO", format!("/{}", request.path))
            .env("QUERY_STRING", request.query)
            .env("CONTENT_TYPE", header("content-type"))
            .env("CONTENT_LENGTH", request.body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
            .env("GIT_PROTOCOL", header("git-protocol"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(user) = request.user {
            git.env("REMOTE_USER", user);
        }
        let mut child = git.spawn().context("cannot start git http-backend; is git installed?")?;
        let mut stdin = child.stdin.take().context("git http-backend has no input")?;
        let body = request.body;
        // A child that does not read all of its input closes the pipe: that is its own affair.
        let feed = tokio::spawn(async move {
            let _ = stdin.write_all(&body).await;
        });
        let out = child.wait_with_output().await.context("cannot read from git http-backend")?;
        let _ = feed.await;
        parse_cgi(&out.stdout)
            .with_context(|| format!("git http-backend: {}", String::from_utf8_lossy(&out.stderr).trim()))
    }
}

fn parse_commit(text: &str) -> anyhow::Result<CommitInfo> {
    let mut lines = text.splitn(10, '\n').map(str::to_owned);
    let mut next = || lines.next().context("git log printed less than a commit");
    let (sha, tree, parents) = (next()?, next()?, next()?);
    let author = Signature { name: next()?, email: next()?, at: next()?.parse()? };
    let committer = Signature { name: next()?, email: next()?, at: next()?.parse()? };
    let message = next()?.trim_end_matches('\n').to_owned();
    let parents = parents.split_whitespace().map(str::to_owned).collect();
    Ok(CommitInfo { sha, tree, parents, author, committer, message })
}

fn parse_entry(line: &str) -> anyhow::Result<Entry> {
    let (head, path) = line.split_once('\t').context("git ls-tree printed no path")?;
    let mut words = head.split_whitespace().map(str::to_owned);
    let (Some(mode), Some(kind), Some(id), Some(size)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        bail!("git ls-tree printed {head:?}");
    };
    Ok(Entry { mode, kind, id, size: size.parse().ok(), path: path.to_owned() })
}

fn parse_cgi(out: &[u8]) -> anyhow::Result<CgiAnswer> {
    let end = out.windows(4).position(|w| w == b"\r\n\r\n").context("no end of headers")?;
    let (mut status, mut headers) = (StatusCode::OK, HeaderMap::new());
    for line in std::str::from_utf8(&out[..end])?.split("\r\n") {
        let (name, value) = line.split_once(':').context("a header without a colon")?;
        if name.eq_ignore_ascii_case("status") {
            status = value.split_whitespace().next().context("an empty status")?.parse()?;
        } else {
            headers.append(HeaderName::try_from(name)?, HeaderValue::from_str(value.trim())?);
        }
    }
    Ok(CgiAnswer { status, headers, body: out[end + 4..].to_vec() })
}

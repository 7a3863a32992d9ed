//! GitHub's JSON, as its API and its webhooks spell it. Each function makes one of its documented objects, from plain values;
//! the tests hold all of it against GitHub's own descriptions.

use serde_json::{Value, json};

use super::git::{CommitInfo, Entry, Signature};
use super::state::{Account, PostedComment, PostedStatus, Pull, Repo};

/// Where the sandbox is reached: `http://127.0.0.1:port`.
#[derive(Clone, Copy)]
pub(super) struct At<'a>(pub &'a str);

impl At<'_> {
    fn api(self, path: impl std::fmt::Display) -> String {
        format!("{}/api/v3{path}", self.0)
    }
    fn web(self, path: impl std::fmt::Display) -> String {
        format!("{}/{path}", self.0)
    }
    fn repo(self, repo: &Repo, path: impl std::fmt::Display) -> String {
        self.api(format_args!("/repos/{}{path}", repo.name))
    }
}

pub(super) fn date(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

fn node(kind: &str, id: impl std::fmt::Display) -> String {
    format!("{kind}_{id}")
}

pub(super) fn error(status: u16, message: &str) -> Value {
    json!({"message": message, "documentation_url": "https://docs.github.com/rest", "status": status.to_string()})
}

pub(super) fn invalid(resource: &str, field: &str, code: &str, message: &str) -> Value {
    json!({
        "message": "Validation Failed", "documentation_url": "https://docs.github.com/rest", "status": "422",
        "errors": [{"resource": resource, "field": field, "code": code, "message": message}],
    })
}

pub(super) fn user(at: At<'_>, account: &Account) -> Value {
    let url = |rest: &str| at.api(format_args!("/users/{}{rest}", account.login));
    json!({
        "login": account.login, "id": account.id, "node_id": node("U", account.id),
        "avatar_url": at.web(format_args!("avatars/{}", account.id)), "gravatar_id": "",
        "url": url(""), "html_url": at.web(&account.login),
        "followers_url": url("/followers"), "following_url": url("/following{/other_user}"),
        "gists_url": url("/gists{/gist_id}"), "starred_url": url("/starred{/owner}{/repo}"),
        "subscriptions_url": url("/subscriptions"), "organizations_url": url("/orgs"), "repos_url": url("/repos"),
        "events_url": url("/events{/privacy}"), "received_events_url": url("/received_events"),
        "type": account.kind, "site_admin": false,
    })
}

/// The account of a token, to itself.
pub(super) fn own_user(at: At<'_>, account: &Account, now_ms: i64) -> Value {
    let more = json!({
        "name": null, "company": null, "blog": null, "location": null, "email": null, "hireable": null, "bio": null,
        "public_repos": 0, "public_gists": 0, "followers": 0, "following": 0,
        "created_at": date(now_ms), "updated_at": date(now_ms), "private_gists": 0, "total_private_repos": 1,
        "owned_private_repos": 1, "disk_usage": 0, "collaborators": 0, "two_factor_authentication": true,
    });
    merged(user(at, account), more)
}

fn merged(mut into: Value, from: Value) -> Value {
    if let (Value::Object(into), Value::Object(from)) = (&mut into, from) {
        into.extend(from);
    }
    into
}

pub(super) fn repository(at: At<'_>, repo: &Repo, owner: &Account, now_ms: i64) -> Value {
    let api = |rest: &str| at.repo(repo, rest);
    let web = at.web(&repo.name);
    let names = json!({
        "id": repo.id, "node_id": node("R", repo.id), "name": repo.name.name(), "full_name": repo.name,
        "private": repo.private, "owner": user(at, owner), "html_url": web, "description": null, "fork": repo.fork,
        "url": api(""), "clone_url": format!("{web}.git"), "svn_url": web,
        "git_url": format!("git://sandbox.invalid/{}.git", repo.name), "ssh_url": format!("git@sandbox.invalid:{}.git", repo.name),
        "default_branch": repo.default_branch, "visibility": if repo.private { "private" } else { "public" },
        "created_at": date(repo.created_ms), "updated_at": date(now_ms), "pushed_at": date(now_ms),
    });
    let numbers = json!({
        "homepage": null, "size": 1, "stargazers_count": 0, "watchers_count": 0, "language": null, "has_issues": true,
        "has_projects": false, "has_downloads": true, "has_wiki": false, "has_pages": false, "has_discussions": false,
        "forks_count": 0, "mirror_url": null, "archived": false, "disabled": false, "open_issues_count": 0, "license": null,
        "allow_forking": true, "is_template": false, "web_commit_signoff_required": false, "topics": [], "forks": 0,
        "open_issues": 0, "watchers": 0, "custom_properties": {},
    });
    let urls = json!({
        "forks_url": api("/forks"), "keys_url": api("/keys{/key_id}"), "teams_url": api("/teams"), "hooks_url": api("/hooks"),
        "collaborators_url": api("/collaborators{/collaborator}"), "issue_events_url": api("/issues/events{/number}"),
        "events_url": api("/events"), "assignees_url": api("/assignees{/user}"), "branches_url": api("/branches{/branch}"),
        "tags_url": api("/tags"), "blobs_url": api("/git/blobs{/sha}"), "git_tags_url": api("/git/tags{/sha}"),
        "git_refs_url": api("/git/refs{/sha}"), "trees_url": api("/git/trees{/sha}"), "statuses_url": api("/statuses/{sha}"),
        "languages_url": api("/languages"), "stargazers_url": api("/stargazers"), "contributors_url": api("/contributors"),
        "subscribers_url": api("/subscribers"), "subscription_url": api("/subscription"), "commits_url": api("/commits{/sha}"),
        "git_commits_url": api("/git/commits{/sha}"), "comments_url": api("/comments{/number}"),
        "issue_comment_url": api("/issues/comments{/number}"), "contents_url": api("/contents/{+path}"),
        "compare_url": api("/compare/{base}...{head}"), "merges_url": api("/merges"),
        "archive_url": api("/{archive_format}{/ref}"), "downloads_url": api("/downloads"), "issues_url": api("/issues{/number}"),
        "pulls_url": api("/pulls{/number}"), "milestones_url": api("/milestones{/number}"),
        "notifications_url": api("/notifications{?since,all,participating}"), "labels_url": api("/labels{/name}"),
        "releases_url": api("/releases{/id}"), "deployments_url": api("/deployments"),
    });
    merged(merged(names, numbers), urls)
}

/// One side of a pull request.
pub(super) struct End<'a> {
    pub branch: &'a str,
    pub sha: &'a str,
    /// None: the fork is gone.
    pub repo: Option<(&'a Repo, &'a Account)>,
    pub user: &'a Account,
}

pub(super) fn pull(
    at: At<'_>,
    repo: &Repo,
    pull: &Pull,
    author: &Account,
    head: &End<'_>,
    base: &End<'_>,
    now_ms: i64,
) -> Value {
    let api = |rest: &str| at.repo(repo, format_args!("/pulls/{}{rest}", pull.number));
    let issue = |rest: &str| at.repo(repo, format_args!("/issues/{}{rest}", pull.number));
    let web = at.web(format_args!("{}/pull/{}", repo.name, pull.number));
    let end = |end: &End<'_>| {
        json!({
            "label": format!("{}:{}", end.user.login, end.branch), "ref": end.branch, "sha": end.sha,
            "user": user(at, end.user), "repo": end.repo.map(|(repo, owner)| repository(at, repo, owner, now_ms)),
        })
    };
    let link = |href: String| json!({ "href": href });
    let statuses = at.repo(repo, format_args!("/statuses/{}", head.sha));
    let review_comment = at.repo(repo, "/pulls/comments{/number}");
    let closed = (!pull.open).then(|| date(now_ms));
    let state = json!({
        "id": pull.id, "node_id": node("PR", pull.id), "number": pull.number,
        "state": if pull.open { "open" } else { "closed" }, "locked": false, "title": pull.title, "user": user(at, author),
        "body": null, "created_at": date(pull.created_ms), "updated_at": date(now_ms), "closed_at": closed, "merged_at": pull.merged.then(|| date(now_ms)),
        "merge_commit_sha": null, "assignee": null, "assignees": [], "requested_reviewers": [], "requested_teams": [],
        "labels": [], "milestone": null, "draft": pull.draft, "head": end(head), "base": end(base),
        "author_association": "CONTRIBUTOR", "auto_merge": null, "active_lock_reason": null, "merged": pull.merged,
        "mergeable": null, "rebaseable": null, "mergeable_state": "unknown", "merged_by": null, "comments": 0,
        "review_comments": 0, "maintainer_can_modify": false, "commits": 1, "additions": 0, "deletions": 0, "changed_files": 0,
    });
    let urls = json!({
        "url": api(""), "html_url": web, "diff_url": format!("{web}.diff"), "patch_url": format!("{web}.patch"),
        "issue_url": issue(""), "commits_url": api("/commits"), "review_comments_url": api("/comments"),
        "review_comment_url": review_comment, "comments_url": issue("/comments"), "statuses_url": statuses,
        "_links": {
            "self": link(api("")), "html": link(web.clone()), "issue": link(issue("")), "comments": link(issue("/comments")),
            "review_comments": link(api("/comments")), "review_comment": link(review_comment.clone()),
            "commits": link(api("/commits")), "statuses": link(statuses.clone()),
        },
    });
    merged(state, urls)
}

fn reactions(url: &str) -> Value {
    json!({
        "url": format!("{url}/reactions"), "total_count": 0, "+1": 0, "-1": 0, "laugh": 0, "hooray": 0, "confused": 0,
        "heart": 0, "rocket": 0, "eyes": 0,
    })
}

/// A pull request as the issue that it also is.
pub(super) fn issue(
    at: At<'_>,
    repo: &Repo,
    pull: &Pull,
    author: &Account,
    comments: usize,
    now_ms: i64,
) -> Value {
    let api = |rest: &str| at.repo(repo, format_args!("/issues/{}{rest}", pull.number));
    let web = at.web(format_args!("{}/pull/{}", repo.name, pull.number));
    json!({
        "url": api(""), "repository_url": at.repo(repo, ""), "labels_url": api("/labels{/name}"),
        "comments_url": api("/comments"), "events_url": api("/events"), "html_url": web, "id": pull.id,
        "node_id": node("I", pull.id), "number": pull.number, "title": pull.title, "user": user(at, author), "labels": [],
        "state": if pull.open { "open" } else { "closed" }, "locked": false, "assignee": null, "assignees": [],
        "milestone": null, "comments": comments, "created_at": date(pull.created_ms), "updated_at": date(now_ms),
        "closed_at": (!pull.open).then(|| date(now_ms)), "author_association": "CONTRIBUTOR", "active_lock_reason": null,
        "draft": pull.draft, "body": null, "reactions": reactions(&api("")), "performed_via_github_app": null,
        "pull_request": {
            "url": at.repo(repo, format_args!("/pulls/{}", pull.number)), "html_url": web, "diff_url": format!("{web}.diff"),
            "patch_url": format!("{web}.patch"), "merged_at": null,
        },
    })
}

/// A merged pull request as search finds it.
pub(super) fn found_issue(at: At<'_>, repo: &Repo, pull: &Pull, author: &Account, now_ms: i64) -> Value {
    let mut shape = issue(at, repo, pull, author, 0, now_ms);
    shape["pull_request"]["merged_at"] = json!(date(now_ms));
    shape["body"] = json!("");
    shape["score"] = json!(1.0);
    shape
}

pub(super) fn comment(at: At<'_>, repo: &Repo, comment: &PostedComment, author: &Account) -> Value {
    let url = at.repo(repo, format_args!("/issues/comments/{}", comment.id));
    json!({
        "url": url, "html_url": at.web(format_args!("{}/pull/{}#issuecomment-{}", repo.name, comment.number, comment.id)),
        "issue_url": at.repo(repo, format_args!("/issues/{}", comment.number)), "id": comment.id,
        "node_id": node("IC", comment.id), "user": user(at, author), "created_at": date(comment.created_ms),
        "updated_at": date(comment.updated_ms), "author_association": "CONTRIBUTOR", "body": comment.body(),
        "reactions": reactions(&url), "performed_via_github_app": null,
    })
}

pub(super) fn status(at: At<'_>, repo: &Repo, status: &PostedStatus, creator: &Account) -> Value {
    json!({
        "url": at.repo(repo, format_args!("/statuses/{}", status.sha)), "avatar_url": at.web(format_args!("avatars/{}", creator.id)),
        "id": status.id, "node_id": node("SC", status.id), "state": status.state, "description": status.description,
        "target_url": status.target_url, "context": status.context, "created_at": date(status.at_ms),
        "updated_at": date(status.at_ms), "creator": user(at, creator),
    })
}

fn signature(by: &Signature) -> Value {
    json!({"name": by.name, "email": by.email, "date": date(by.at * 1000)})
}

fn unverified() -> Value {
    json!({"verified": false, "reason": "unsigned", "signature": null, "payload": null, "verified_at": null})
}

/// `GET …/git/commits/{sha}`.
pub(super) fn git_commit(at: At<'_>, repo: &Repo, commit: &CommitInfo) -> Value {
    let url = |sha: &str| at.repo(repo, format_args!("/git/commits/{sha}"));
    let web = |sha: &str| at.web(format_args!("{}/commit/{sha}", repo.name));
    let parents: Vec<Value> =
        commit.parents.iter().map(|p| json!({"sha": p, "url": url(p), "html_url": web(p)})).collect();
    json!({
        "sha": commit.sha, "node_id": node("C", &commit.sha), "url": url(&commit.sha), "html_url": web(&commit.sha),
        "author": signature(&commit.author), "committer": signature(&commit.committer), "message": commit.message,
        "tree": {"sha": commit.tree, "url": at.repo(repo, format_args!("/git/trees/{}", commit.tree))},
        "parents": parents, "verification": unverified(),
    })
}

/// A commit in a list or a comparison. Its accounts are null: no e-mail address belongs to one here.
pub(super) fn commit(at: At<'_>, repo: &Repo, commit: &CommitInfo) -> Value {
    let url = |sha: &str| at.repo(repo, format_args!("/commits/{sha}"));
    let web = |sha: &str| at.web(format_args!("{}/commit/{sha}", repo.name));
    let parents: Vec<Value> =
        commit.parents.iter().map(|p| json!({"sha": p, "url": url(p), "html_url": web(p)})).collect();
    json!({
        "sha": commit.sha, "node_id": node("C", &commit.sha), "url": url(&commit.sha), "html_url": web(&commit.sha),
        "comments_url": format!("{}/comments", url(&commit.sha)), "author": null, "committer": null, "parents": parents,
        "commit": {
            "author": signature(&commit.author), "committer": signature(&commit.committer), "message": commit.message,
            "tree": {"sha": commit.tree, "url": at.repo(repo, format_args!("/git/trees/{}", commit.tree))},
            "url": at.repo(repo, format_args!("/git/commits/{}", commit.sha)), "comment_count": 0, "verification": unverified(),
        },
    })
}

pub(super) struct Comparison<'a> {
    pub head_name: &'a str,
    pub base: &'a CommitInfo,
    pub merge_base: &'a CommitInfo,
    pub behind: u64,
    pub ahead: u64,
    /// Oldest first, one page of them.
    pub commits: &'a [CommitInfo],
}

pub(super) fn comparison(at: At<'_>, repo: &Repo, it: &Comparison<'_>) -> Value {
    let web = at.web(format_args!("{}/compare/{}...{}", repo.name, it.base.sha, it.head_name));
    let status = match (it.behind, it.ahead) {
        (0, 0) => "identical",
        (0, _) => "ahead",
        (_, 0) => "behind",
        _ => "diverged",
    };
    let commits: Vec<Value> = it.commits.iter().map(|c| commit(at, repo, c)).collect();
    json!({
        "url": at.repo(repo, format_args!("/compare/{}...{}", it.base.sha, it.head_name)), "html_url": web,
        "permalink_url": web, "diff_url": format!("{web}.diff"), "patch_url": format!("{web}.patch"),
        "base_commit": commit(at, repo, it.base), "merge_base_commit": commit(at, repo, it.merge_base), "status": status,
        "ahead_by": it.ahead, "behind_by": it.behind, "total_commits": it.ahead, "commits": commits, "files": [],
    })
}

pub(super) fn tree(at: At<'_>, repo: &Repo, id: &str, entries: &[Entry]) -> Value {
    let entry = |entry: &Entry| {
        let mut shape = json!({"path": entry.path, "mode": entry.mode, "type": entry.kind, "sha": entry.id});
        let folder = if entry.kind == "tree" { "trees" } else { "blobs" };
        if entry.kind != "commit" {
            shape["url"] = json!(at.repo(repo, format_args!("/git/{folder}/{}", entry.id)));
        }
        if let Some(size) = entry.size {
            shape["size"] = json!(size);
        }
        shape
    };
    let entries: Vec<Value> = entries.iter().map(entry).collect();
    json!({"sha": id, "url": at.repo(repo, format_args!("/git/trees/{id}")), "tree": entries, "truncated": false})
}

/// An entry of `GET …/contents/{path}`; `content` is base64 for files of up to 1 MiB, and a link's target.
pub(super) fn content(
    at: At<'_>,
    repo: &Repo,
    reference: &str,
    path: &str,
    entry: &Entry,
    content: Option<&str>,
) -> Value {
    let kind = match (entry.kind.as_str(), entry.mode.as_str()) {
        ("tree", _) => "dir",
        ("commit", _) => "submodule",
        (_, "120000") => "symlink",
        _ => "file",
    };
    let encoded: Vec<String> =
        path.split('/').map(|p| p.replace('%', "%25").replace(' ', "%20").replace('#', "%23")).collect();
    let encoded = encoded.join("/");
    let url = at.repo(repo, format_args!("/contents/{encoded}?ref={reference}"));
    let git =
        at.repo(repo, format_args!("/git/{}/{}", if kind == "dir" { "trees" } else { "blobs" }, entry.id));
    let web = at.web(format_args!("{}/blob/{reference}/{encoded}", repo.name));
    let mut shape = json!({
        "type": kind, "size": entry.size.unwrap_or(0), "name": path.rsplit('/').next(), "path": path, "sha": entry.id,
        "url": url, "git_url": git, "html_url": web, "download_url": null,
        "_links": {"self": url, "git": git, "html": web},
    });
    match kind {
        "file" => {
            shape["encoding"] = json!(if content.is_some() { "base64" } else { "none" });
            shape["content"] = json!(content.unwrap_or_default());
        }
        "symlink" => shape["target"] = json!(content.unwrap_or_default()),
        "submodule" => shape["submodule_git_url"] = json!(at.web("submodule")),
        _ => {}
    }
    shape
}

/// A commit within a push. `changes` are letters and paths.
pub(super) fn push_commit(
    at: At<'_>,
    repo: &Repo,
    commit: &CommitInfo,
    changes: &[(String, String)],
) -> Value {
    let by = |by: &Signature| json!({"name": by.name, "email": by.email});
    let paths = |letters: &str| -> Vec<&str> {
        changes
            .iter()
            .filter(|(letter, _)| letters.contains(letter.as_str()))
            .map(|(_, path)| path.as_str())
            .collect()
    };
    json!({
        "id": commit.sha, "tree_id": commit.tree, "distinct": true, "message": commit.message,
        "timestamp": date(commit.committer.at * 1000), "url": at.web(format_args!("{}/commit/{}", repo.name, commit.sha)),
        "author": by(&commit.author), "committer": by(&commit.committer),
        "added": paths("A"), "modified": paths("MT"), "removed": paths("D"),
    })
}

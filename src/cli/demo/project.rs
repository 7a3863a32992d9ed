//! The demo's project: the files of `examples/churn`, carried in the binary, and the three commits that are pushed.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;

const FILES: &[(&str, &str)] = &[
    (".trainyard.yaml", include_str!("../../../examples/churn/.trainyard.yaml")),
    ("data.py", include_str!("../../../examples/churn/data.py")),
    ("evaluate.py", include_str!("../../../examples/churn/evaluate.py")),
    ("features.py", include_str!("../../../examples/churn/features.py")),
    ("params.json", include_str!("../../../examples/churn/params.json")),
    ("train.py", include_str!("../../../examples/churn/train.py")),
];

/// What the branch adds: the interaction that a linear model cannot see by itself.
const LAST_FEATURE: &str = "        (usage - 40) / 30,\n";
const NEW_FEATURE: &str =
    "        (tenure - 36) / 36 * (charge - 60) / 45,  # a high price hurts new customers most\n";

pub const BRANCH: &str = "price-by-tenure";
const MENDED: &str = "Export prices without tax, and contracts by their own words";
pub const TITLE: &str = "Let the model see that a high price hurts new customers most";

/// A working tree with a remote `origin`.
pub struct Project {
    dir: PathBuf,
}

impl Project {
    /// Writes the files and commits them on `main`.
    pub fn create(dir: PathBuf, remote: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for (name, text) in FILES {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let project = Self { dir };
        project.git(&["init", "-q", "-b", "main"])?;
        for (key, value) in
            [("user.name", "Demo"), ("user.email", "demo@example.com"), ("commit.gpgsign", "false")]
        {
            project.git(&["config", key, value])?;
        }
        project.git(&["remote", "add", "origin", remote])?;
        project.customers(&[])?;
        project.commit("Predict churn from six numbers about a customer")?;
        Ok(project)
    }

    /// Writes the customers' file by the project's own script.
    fn customers(&self, options: &[&str]) -> anyhow::Result<()> {
        let mut script = Command::new("python3");
        script
            .args(["data.py", "data/customers.csv"])
            .args(options)
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        let out =
            script.output().context("cannot run python3, which the demo trains with; is it installed?")?;
        anyhow::ensure!(
            out.status.success(),
            "the demo's data.py failed: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
        Ok(())
    }

    /// Commits the second word on the pull request: the data as it should be.
    pub fn mend(&self) -> anyhow::Result<()> {
        self.customers(&[])?;
        self.commit(MENDED)
    }

    /// Commits the change of the demo's pull request on a branch of its own, with an export of the customers that went wrong.
    pub fn change(&self) -> anyhow::Result<()> {
        self.git(&["checkout", "-q", "-b", BRANCH])?;
        let path = self.dir.join("features.py");
        let text = std::fs::read_to_string(&path).context("cannot read the demo's features.py")?;
        anyhow::ensure!(text.contains(LAST_FEATURE), "the demo's features.py is not as expected");
        std::fs::write(&path, text.replace(LAST_FEATURE, &format!("{LAST_FEATURE}{NEW_FEATURE}")))
            .context("cannot write the demo's features.py")?;
        let path = self.dir.join("params.json");
        let params = std::fs::read_to_string(&path).context("cannot read the demo's params.json")?;
        std::fs::write(&path, params.replace("\"rate\": 0.02", "\"rate\": 0.03"))
            .context("cannot write the demo's params.json")?;
        self.customers(&["--broken"])?;
        self.commit(TITLE)
    }

    fn commit(&self, message: &str) -> anyhow::Result<()> {
        self.git(&["add", "-A"])?;
        self.git(&["commit", "-q", "-m", message])
    }

    pub fn push(&self, branch: &str) -> anyhow::Result<()> {
        self.git(&["push", "-q", "-u", "origin", branch])
    }

    pub fn head(&self) -> anyhow::Result<String> {
        let out = self.command(&["rev-parse", "HEAD"]).output().context("cannot run git")?;
        anyhow::ensure!(out.status.success(), "git rev-parse failed");
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    fn git(&self, args: &[&str]) -> anyhow::Result<()> {
        let out = self.command(args).output().context("cannot run git; is it installed?")?;
        anyhow::ensure!(
            out.status.success(),
            "git {} failed in {}: {}",
            args.join(" "),
            self.dir.display(),
            String::from_utf8_lossy(&out.stderr).trim()
        );
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .args(args)
            .current_dir(&self.dir)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(Stdio::null());
        command
    }
}

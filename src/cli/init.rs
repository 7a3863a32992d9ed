//! `trainyard init`: a first pipeline file for what lies in the directory. It looks at names only, runs nothing, and
//! never overwrites.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::pipeline;

/// Write a first .trainyard.yaml
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The repository's root
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Print the file instead of writing it
    #[arg(long)]
    print: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !args.dir.is_dir() {
        bail!("cannot write a pipeline into {}: it is not a directory", args.dir.display());
    }
    let found = Found::look(&args.dir);
    let text = found.file();
    if let Err(findings) = pipeline::parse(pipeline::FILE, text.as_bytes()) {
        let told: Vec<String> = findings.iter().map(pipeline::Diagnostic::one_line).collect();
        bail!("the file for this directory would not be valid, please report it: {}", told.join("; "));
    }
    if args.print {
        super::output::print(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = args.dir.join(pipeline::FILE);
    let mut file = match std::fs::File::create_new(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            eprintln!(
                "trainyard: {} is there already and was not changed; see another with `trainyard init --print`",
                path.display()
            );
            return Ok(ExitCode::from(2));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
    };
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    let mut said = format!("Wrote {}", path.display());
    if !found.seen.is_empty() {
        let _ = write!(said, " from {}", found.seen.join(", "));
    }
    println!(
        "{said}.\nNext: read it, try it with `trainyard run`, and push it to the default branch: its run there is what changes are held \
         against. Then push a branch and open a pull request."
    );
    Ok(ExitCode::SUCCESS)
}

/// What the names in a directory say about a project.
#[derive(Debug, Default)]
struct Found {
    /// Files that decided something, for the person.
    seen: Vec<&'static str>,
    setup: Vec<&'static str>,
    train: Option<String>,
    evaluate: Option<String>,
    tests: bool,
    params: bool,
}

impl Found {
    fn look(dir: &Path) -> Self {
        let has = |name: &str| dir.join(name).exists();
        let mut found = Self::default();
        // A system's own Python refuses `pip install` (PEP 668), and Debian has no `python`: a venv in the workspace has both.
        let mut install: Vec<&'static str> = Vec::new();
        if has("uv.lock") {
            found.seen.push("uv.lock");
            // Inexact: uv itself lies in the environment that it fills.
            install = vec!["pip install --quiet uv", "uv sync --frozen --inexact"];
        } else if has("poetry.lock") {
            found.seen.push("poetry.lock");
            install = vec!["pip install --quiet poetry", "poetry install --no-interaction"];
        } else if has("requirements.txt") {
            found.seen.push("requirements.txt");
            install = vec!["pip install --quiet -r requirements.txt"];
        } else if has("pyproject.toml") || has("setup.py") {
            found.seen.push(if has("pyproject.toml") { "pyproject.toml" } else { "setup.py" });
            install = vec!["pip install --quiet ."];
        }
        if !install.is_empty() {
            found.setup = vec!["python3 -m venv .venv", ". .venv/bin/activate"];
            found.setup.append(&mut install);
        }
        let python = found.python();
        let script = |names: &[&'static str]| names.iter().copied().find(|n| dir.join(n).is_file());
        if has("dvc.yaml") {
            found.seen.push("dvc.yaml");
            found.train = Some("dvc repro".to_owned());
        } else if let Some(name) =
            script(&["train.py", "src/train.py", "scripts/train.py", "training/train.py", "main.py"])
        {
            found.seen.push(name);
            found.train = Some(format!("{python} {name}"));
        } else if has("Makefile")
            && std::fs::read_to_string(dir.join("Makefile"))
                .is_ok_and(|m| m.lines().any(|l| l.starts_with("train:")))
        {
            found.seen.push("Makefile");
            found.train = Some("make train".to_owned());
        }
        if let Some(name) = script(&[
            "eval.py",
            "evaluate.py",
            "src/eval.py",
            "src/evaluate.py",
            "scripts/eval.py",
            "scripts/evaluate.py",
        ]) {
            found.seen.push(name);
            found.evaluate = Some(format!("{python} {name}"));
        }
        if dir.join("tests").is_dir() {
            found.seen.push("tests/");
            found.tests = true;
        }
        if has("params.yaml") {
            found.seen.push("params.yaml");
            found.params = true;
        }
        found
    }

    /// An activated environment has a `python`; Debian itself has not.
    fn python(&self) -> &'static str {
        if self.setup.is_empty() { "python3" } else { "python" }
    }

    fn file(&self) -> String {
        let mut out = String::from(
            "# What runs when this repository changes. All keys: `trainyard schema --keys`; check it: `trainyard lint`.\n\
             version: 1\n\n\
             # Without `when`, pull requests and pushes to the default branch run. To run only when some files change:\n",
        );
        let extra = if self.params { ", \"params.yaml\"" } else { "" };
        let _ = writeln!(out, "# when: [{{paths: [\"src/**\", \"*.py\"{extra}]}}]\n");
        let image =
            "image: \"python:3.12-slim\"  # the container that steps run in, where pools run containers";
        if self.setup.is_empty() {
            let _ = writeln!(out, "# defaults:\n#   {image}");
            out.push_str("#   # Commands before those of each step:\n#   setup: [\"python3 -m venv .venv\", \". .venv/bin/activate\", \"pip install --quiet -r requirements.txt\"]\n");
        } else {
            let _ =
                writeln!(out, "defaults:\n  # {image}\n  # Commands before those of each step.\n  setup:");
            for line in &self.setup {
                let _ = writeln!(out, "    - {line}");
            }
        }
        out.push_str("\nsteps:\n");
        if self.tests {
            let python = self.python();
            let _ = writeln!(
                out,
                "  - name: test\n    commands:\n      - {python} -m pytest -q --junitxml=junit.xml\n    reports: {{junit: junit.xml}}\n"
            );
        }
        out.push_str("  - name: train\n");
        if self.train.is_none() {
            out.push_str("    # No training script was found: write here how yours is started.\n");
        }
        let train = self.train.as_deref().unwrap_or("python3 train.py");
        let _ = writeln!(out, "    commands:\n      - {train}");
        out.push_str(
            "    # Once for each seed, so that luck is not taken for progress ($SEED in the command):\n    # matrix: {seed: [1, 2, 3]}\n    \
             # gpu: 1\n    # What later steps and people get:\n    # artifacts: [\"out/model/**\"]\n",
        );
        if let Some(evaluate) = &self.evaluate {
            let _ = writeln!(out, "\n  - name: eval\n    commands:\n      - {evaluate}");
        }
        out.push_str(
            "\n# Metrics are found without any change to the code: metrics.json, JSON lines, or\n\
             # `echo accuracy=0.91 >> $TRAINYARD_OUTPUT`. A gate makes the status of a pull request fail:\n\
             # metrics:\n\
             #   primary: accuracy\n\
             #   gates:\n\
             #     accuracy: {goal: max, no_worse_than: 1%}\n",
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_for(names: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            if name.ends_with('/') {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "train:\n\techo\n").unwrap();
            }
        }
        Found::look(dir.path()).file()
    }

    #[test]
    fn every_first_file_lints_clean() {
        let projects: [(&[&str], &str); 8] = [
            (&[], "python3 train.py"),
            (&["requirements.txt", "train.py"], "python train.py"),
            (
                &["uv.lock", "pyproject.toml", "src/train.py", "src/evaluate.py", "tests/"],
                "python src/train.py",
            ),
            (&["poetry.lock", "train.py", "tests/"], "python train.py"),
            (&["pyproject.toml", "main.py", "params.yaml"], "python main.py"),
            (&["dvc.yaml", "requirements.txt", "train.py"], "dvc repro"),
            (&["Makefile"], "make train"),
            (&["setup.py", "train.py", "eval.py"], "python train.py"),
        ];
        for (names, train) in projects {
            let text = file_for(names);
            let checked = pipeline::parse(pipeline::FILE, text.as_bytes())
                .unwrap_or_else(|e| panic!("{names:?}: {e:?}\n{text}"));
            assert_eq!(checked.warnings, [], "{names:?}");
            assert_eq!(checked.plan.step("train").unwrap().commands, [train], "{names:?}");
        }
    }

    /// What is commented out works when the `#` is taken away.
    #[test]
    fn the_comments_hold_valid_keys() {
        let text = file_for(&["requirements.txt", "train.py", "params.yaml"]);
        let keys =
            ["when:", "matrix:", "gpu:", "artifacts:", "metrics:", "  primary:", "  gates:", "    accuracy:"];
        let mut uncommented = String::new();
        for line in text.lines() {
            let body = line.trim_start();
            let indent = &line[..line.len() - body.len()];
            let commented = body.strip_prefix("# ").filter(|b| keys.iter().any(|k| b.starts_with(k)));
            let _ = writeln!(uncommented, "{indent}{}", commented.unwrap_or(body));
        }
        let plan = pipeline::parse(pipeline::FILE, uncommented.as_bytes())
            .unwrap_or_else(|e| panic!("{e:?}\n{uncommented}"))
            .plan;
        assert_eq!(plan.steps.len(), 3);
        assert_eq!(plan.steps[0].resources.gpu, 1);
        assert_eq!(plan.metrics.gates.len(), 1);
    }

    #[test]
    fn a_file_that_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let args = Args { dir: dir.path().to_owned(), print: false };
        assert_eq!(run(&args).unwrap(), ExitCode::SUCCESS);
        let path = dir.path().join(pipeline::FILE);
        std::fs::write(&path, "train: mine").unwrap();
        assert_eq!(run(&args).unwrap(), ExitCode::from(2));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "train: mine");
    }
}

//! The one shell script that an attempt runs, and the environment it runs in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// `setup` and `commands` for one `/bin/sh -e`; before each command its text is printed behind `+ `.
pub fn text(setup: &[String], commands: &[String]) -> String {
    let mut script =
        String::from("# Written by trainyard: setup, then commands, each printed before it runs.\n");
    for command in setup.iter().chain(commands) {
        let shown = format!("+ {}", command.trim_end().replace('\n', "\n  "));
        // The empty line ends a command whose last character is a backslash.
        let _ = write!(script, "printf '%s\\n' {}\n{command}\n\n", quoted(&shown));
    }
    script
}

/// One word of a shell, whatever is in it.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The places of one attempt below its own directory.
#[derive(Debug, Clone)]
pub struct Places {
    pub source: PathBuf,
    pub home: PathBuf,
    pub tmp: PathBuf,
    /// `$TRAINYARD_OUTPUT`: lines `name=value`.
    pub output: PathBuf,
    /// `$TRAINYARD_METRICS`: a directory for metric files that do not belong into the source tree.
    pub metrics: PathBuf,
    pub script: PathBuf,
    /// What is logged to the attempt's MLflow endpoint.
    pub mlflow: PathBuf,
}

impl Places {
    pub fn below(dir: &Path, source: PathBuf) -> Self {
        Self {
            source,
            home: dir.join("home"),
            tmp: dir.join("tmp"),
            output: dir.join("out/output"),
            metrics: dir.join("out/metrics"),
            script: dir.join("script.sh"),
            mlflow: dir.join("out/mlflow"),
        }
    }

    pub fn make(&self) -> std::io::Result<()> {
        for dir in [&self.source, &self.home, &self.tmp, &self.metrics] {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(&self.output, "")
    }
}

/// The whole environment of the commands; nothing is inherited but `PATH`, the language and the user's name, which the machine's
/// tables may not have.
pub fn environment(
    places: &Places,
    env: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, String>,
    gpus: &[u32],
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let path = |p: &Path| p.to_string_lossy().into_owned();
    let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
    set(
        "PATH",
        std::env::var("PATH")
            .unwrap_or_else(|_| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
    );
    set("LANG", std::env::var("LANG").unwrap_or_else(|_| "C.UTF-8".into()));
    for name in ["USER", "LOGNAME"] {
        if let Ok(value) = std::env::var(name) {
            set(name, value);
        }
    }
    set("HOME", path(&places.home));
    set("TMPDIR", path(&places.tmp));
    set("CI", "true".into());
    set("PYTHONUNBUFFERED", "1".into());
    all.extend(env.clone());
    all.extend(secrets.clone());
    let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
    set("TRAINYARD", "true".into());
    set("TRAINYARD_OUTPUT", path(&places.output));
    set("TRAINYARD_METRICS", path(&places.metrics));
    // Empty hides every GPU: a step that asked for none must not take another's.
    set("CUDA_VISIBLE_DEVICES", gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
    all
}

/// Linux takes no single variable beyond 128 KiB (`MAX_ARG_STRLEN`, execve(2)). Names the first that is too long.
pub fn too_long(env: &BTreeMap<String, String>) -> Option<&str> {
    env.iter().find(|(name, value)| name.len() + value.len() + 2 > 128 * 1024).map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_printed_and_run_whatever_they_hold() {
        let commands = ["echo 'it''s' \\", "printf '%s' \"a\nb\"", "echo done"].map(str::to_owned);
        let out = std::process::Command::new("/bin/sh")
            .args(["-e", "-c", &text(&["true".to_owned()], &commands)])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(out.stdout).unwrap(),
            "+ true\n+ echo 'it''s' \\\nits\n+ printf '%s' \"a\n  b\"\na\nb+ echo done\ndone\n"
        );
        assert!(out.status.success());
    }
}

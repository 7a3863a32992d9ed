//! `trainyard run`: the steps of a pipeline, here and now, in the working tree, with no daemon.
//!
//! The same script, environment, masking and metric collection as in an attempt; what differs is said. Gates that need no
//! baseline are judged.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::collect::{Collectors, Found, Wanted};
use crate::agent::mask::Masker;
use crate::agent::outcome::{self, Outcome, Signs};
use crate::agent::process::{self, Limits, Output, Stop};
use crate::agent::script::{self, Places};
use crate::agent::{artifacts, data, features, mlflow, paths, predictions};
use crate::clock::SystemClock;
use crate::model::plan::StepSpec;
use crate::model::{EndClass, Plan};
use crate::pipeline;

/// Run steps here, without a daemon
///
/// Exit status: 0 when all steps succeeded and no gate failed, 1 when one did, 2 when the pipeline is not valid. Gates that
/// need a baseline are not judged here.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Step to run, with the steps it needs; all steps when left out
    step: Option<String>,
    /// Pipeline file
    #[arg(long, value_name = "FILE", default_value = pipeline::FILE)]
    file: PathBuf,
}

/// After SIGINT a step may take so long to save its state.
const GRACE: Duration = Duration::from_secs(10);

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(plan) = read(&args.file)? else { return Ok(ExitCode::from(2)) };
    let steps = chosen(&plan, args.step.as_deref())?;
    process::become_reaper()?;
    let tree = std::env::current_dir().context("cannot tell the working directory")?;
    let scratch =
        tempfile::Builder::new().prefix("trainyard-run-").tempdir().context("cannot make a directory")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the threads of this process")?;
    let here =
        Here { plan: &plan, tree, scratch: scratch.path().to_owned(), containers: Containers::find(&steps) };
    runtime.block_on(here.run(&steps))
}

/// The plan, with warnings printed; None when the file has errors, which are printed too.
fn read(file: &Path) -> anyhow::Result<Option<Plan>> {
    let bytes = std::fs::read(file).with_context(|| match super::lint::elsewhere() {
        Some(there) => format!("cannot read {}; there is {there}", file.display()),
        None => format!("cannot read {} (write one with `trainyard init`)", file.display()),
    })?;
    let name = file.display().to_string();
    let source = String::from_utf8_lossy(&bytes);
    let (plan, findings) = match pipeline::parse(&name, &bytes) {
        Ok(checked) => (Some(checked.plan), checked.warnings),
        Err(findings) => (None, findings),
    };
    for finding in findings {
        eprintln!("{}", finding.excerpt(&name, &source));
    }
    Ok(plan)
}

/// The step (all members of a matrix) and what it needs, in graph order.
fn chosen<'a>(plan: &'a Plan, wanted: Option<&str>) -> anyhow::Result<Vec<&'a StepSpec>> {
    let Some(wanted) = wanted else { return Ok(plan.steps.iter().collect()) };
    let mut names: BTreeSet<&str> =
        plan.steps.iter().filter(|s| s.name == wanted || s.base == wanted).map(|s| s.name.as_str()).collect();
    if names.is_empty() {
        let known: BTreeSet<&str> = plan.steps.iter().map(|s| s.base.as_str()).collect();
        bail!("there is no step {wanted:?}; there are: {}", known.into_iter().collect::<Vec<_>>().join(", "));
    }
    // Steps stand in graph order, so one pass from the end finds all that is needed.
    for step in plan.steps.iter().rev() {
        if names.contains(step.name.as_str()) {
            names.extend(step.needs.iter().map(|n| n.step.as_str()));
        }
    }
    Ok(plan.steps.iter().filter(|s| names.contains(s.name.as_str())).collect())
}

struct Here<'a> {
    plan: &'a Plan,
    tree: PathBuf,
    scratch: PathBuf,
    containers: Containers,
}

/// What is used for `image`.
enum Containers {
    /// `podman` or `docker`, whose service answers.
    With(&'static str),
    None,
}

impl Containers {
    fn find(steps: &[&StepSpec]) -> Self {
        if steps.iter().all(|s| s.image.is_none()) {
            return Self::None;
        }
        let answers = |program: &&'static str| {
            let mut info = Command::new(program);
            info.arg("info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            info.status().is_ok_and(|s| s.success())
        };
        let Some(program) = ["podman", "docker"].into_iter().find(answers) else {
            say(
                "neither podman nor docker answers here, so `image` is ignored: commands run on this machine",
            );
            return Self::None;
        };
        Self::With(program)
    }
}

fn say(text: &str) {
    eprintln!("[trainyard] {text}");
}

impl Here<'_> {
    async fn run(&self, steps: &[&StepSpec]) -> anyhow::Result<ExitCode> {
        let (stop, stopped) = watch::channel(None);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                let _ = stop.send(Some(Stop::Cancelled));
            }
            // Kept: a closed channel says nothing more.
            std::future::pending::<()>().await;
        });
        let (mut bad, mut reports) = (BTreeSet::new(), Vec::new());
        for (n, step) in steps.iter().enumerate() {
            if stopped.borrow().is_some() {
                break;
            }
            if let Some(need) = step.needs.iter().find(|n| bad.contains(&n.step)) {
                say(&format!("step {} is skipped, since {} did not succeed", step.name, need.step));
                bad.insert(step.name.clone());
                continue;
            }
            say(&format!("step {} ({} of {})", step.name, n + 1, steps.len()));
            let begun = Instant::now();
            let (outcome, found) = self.step(step, n, stopped.clone()).await?;
            let class = outcome.class.to_string();
            let why = if outcome.reason == class { String::new() } else { format!(", {}", outcome.reason) };
            say(&format!("step {}: {class}{why} ({:.1} s)", step.name, begun.elapsed().as_secs_f64()));
            for source in &found.sources {
                say(&report::source(source));
            }
            for note in &found.notes {
                say(note);
            }
            if outcome.class != EndClass::Succeeded {
                bad.insert(step.name.clone());
            }
            reports.push((step.name.as_str(), found.points));
        }
        print!("{}", report::table(&reports));
        if let Some(missing) = report::missing_primary(self.plan, &reports) {
            say(&missing);
        }
        let whole = bad.is_empty() && steps.len() == self.plan.steps.len();
        let (gates, good) = report::gates(self.plan, &reports, whole);
        print!("{gates}");
        super::output::flush()?;
        Ok(match (stopped.borrow().is_some(), bad.is_empty() && good) {
            (true, _) => ExitCode::from(130),
            (false, true) => ExitCode::SUCCESS,
            (false, false) => ExitCode::from(1),
        })
    }

    async fn step(
        &self,
        step: &StepSpec,
        n: usize,
        asked: watch::Receiver<Option<Stop>>,
    ) -> anyhow::Result<(Outcome, Found)> {
        let dir = self.scratch.join(n.to_string());
        let places = Places::below(&dir, self.tree.clone());
        places.make().context("cannot make the step's directories")?;
        for need in &step.needs {
            self.take(&need.step, need.into.as_deref())?;
        }
        let mut secrets = BTreeMap::new();
        for secret in &step.secrets {
            let value =
                std::env::var(&secret.env).or_else(|_| std::env::var(&secret.name)).with_context(|| {
                    format!("step {} needs the secret {}: set it in the environment", step.name, secret.name)
                })?;
            secrets.insert(secret.env.clone(), value);
        }
        let masker = Masker::new(&secrets.iter().collect::<Vec<_>>());
        masker.notes().iter().for_each(|note| say(note));
        let gpus: Vec<u32> = (0..step.resources.gpu).collect();
        let mut env = script::environment(&places, &self.environment(step)?, &secrets, &gpus);
        if let (false, Ok(visible)) = (gpus.is_empty(), std::env::var("CUDA_VISIBLE_DEVICES")) {
            env.insert("CUDA_VISIBLE_DEVICES".into(), visible);
        }
        if let Some(name) = script::too_long(&env) {
            bail!(
                "{name} is longer than 128 KiB, which Linux does not take as an environment variable: use a file"
            );
        }
        std::fs::write(&places.script, script::text(&step.setup, &step.commands))?;

        let mut found = Found::new(masker.clone(), Arc::new(SystemClock));
        let wanted = Wanted {
            files: self.plan.metrics.files.clone(),
            junit: step.junit.clone(),
            patterns: self.plan.metrics.patterns.clone(),
        };
        let (mut collectors, mut scanner) = Collectors::new(&places, &wanted);
        let tracking = self.tracking(step, &places, &env, &mut found).await;
        if let Some(server) = &tracking {
            collectors.add(Box::new(server.runs()));
            env.extend(server.environment(&env));
        }
        if let Some(wanted) = &self.plan.metrics.predictions {
            collectors.add_last(Box::new(predictions::Reader::new(&self.tree, wanted.clone())));
        }
        let deadline = Instant::now() + Duration::from_millis(step.timeout_ms.max(0) as u64);
        let (mut stream, mut out, mut tail) = (masker.stream(), Vec::new(), Vec::new());
        let mut show = |out: &mut Vec<u8>| {
            // A terminal that is gone must not end a training.
            let _ = std::io::stdout().write_all(out).and_then(|()| std::io::stdout().flush());
            tail.extend_from_slice(out);
            let extra = tail.len().saturating_sub(8 * 1024);
            tail.drain(..extra);
            out.clear();
        };
        let (command, report) = if !step.transforms.is_empty() {
            env.extend(features::prepare(&dir, &step.transforms, &features::alone(&step.transforms))?);
            (self.command(step, &places, &env), Some(dir.join(data::REPORT)))
        } else if step.data.is_empty() {
            (self.command(step, &places, &env), None)
        } else {
            let (mut check, report) =
                data::command(&std::env::current_exe()?, &dir, &data::alone(&step.data))?;
            check.current_dir(&self.tree).env_clear().envs(&env);
            (check, Some(report))
        };
        let ended =
            process::supervise(
                command,
                Limits { deadline, grace: GRACE, stop: asked },
                |output| match output {
                    Output::Bytes(bytes) => {
                        if let Some(scanner) = &mut scanner {
                            scanner.push(bytes);
                        }
                        stream.push(bytes, &mut out);
                        show(&mut out);
                    }
                    Output::Tick => {
                        stream.flush(&mut out);
                        show(&mut out);
                        collectors.poll(&mut found, false);
                    }
                },
            )
            .await
            .with_context(|| format!("cannot start step {}", step.name))?;
        stream.finish(&mut out);
        show(&mut out);
        if let Some(scanner) = &mut scanner {
            scanner.finish();
        }
        collectors.poll(&mut found, true);
        let tail = String::from_utf8_lossy(&tail).into_owned();
        let mut outcome = outcome::of(&ended, step.timeout_ms, Signs { tail: &tail, ..Signs::default() });
        if let Some(why) = report.as_deref().map(data::reports).and_then(|found| data::failure(&found)) {
            outcome.reason = why;
        }
        if ended.killed > 0 {
            say(&ended.killed_sentence());
        }
        if outcome.class == EndClass::Succeeded
            && let Err(why) = self.keep(step, &mut found)
        {
            return Ok((Outcome { class: EndClass::Artifacts, reason: why, ..outcome }, found));
        }
        Ok((outcome, found))
    }

    /// The step's MLflow endpoint. A container does not reach this machine's loopback address, so it has none.
    async fn tracking(
        &self,
        step: &StepSpec,
        places: &Places,
        env: &BTreeMap<String, String>,
        found: &mut Found,
    ) -> Option<mlflow::Server> {
        let contained = matches!(self.containers, Containers::With(_)) && step.image.is_some();
        let why = if mlflow::has_own_server(env.keys()) {
            "the step sets MLFLOW_TRACKING_URI itself".to_owned()
        } else if contained {
            "a container does not reach it here".to_owned()
        } else {
            match mlflow::Server::start(&places.mlflow).await {
                Ok(server) => return Some(server),
                Err(error) => format!("it could not be opened: {error}"),
            }
        };
        found.passed_over("mlflow", "the tracking endpoint", why);
        None
    }

    /// What a daemon would set, as far as the working tree tells.
    fn environment(&self, step: &StepSpec) -> anyhow::Result<BTreeMap<String, String>> {
        let git = |args: &[&str]| {
            let out = Command::new("git")
                .args(args)
                .current_dir(&self.tree)
                .output()
                .ok()
                .filter(|o| o.status.success());
            out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
        };
        let folder = self.tree.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let (branch, sha) = (git(&["rev-parse", "--abbrev-ref", "HEAD"]), git(&["rev-parse", "HEAD"]));
        let mut env: BTreeMap<String, String> = [
            ("CI", "true".to_owned()),
            ("CI_COMMIT_BRANCH", branch.clone()),
            ("CI_COMMIT_SHA", sha.clone()),
            ("CI_PIPELINE_EVENT", "manual".to_owned()),
            ("CI_PIPELINE_NAME", self.plan.name.clone()),
            ("CI_REF", format!("refs/heads/{branch}")),
            ("CI_REPO", format!("local/{folder}")),
            ("CI_REPO_NAME", folder),
            ("CI_REPO_OWNER", "local".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let members = step.member.iter().map(|(name, value)| (name.to_uppercase(), value.clone()));
        let known: BTreeMap<String, String> = env.clone().into_iter().chain(members.clone()).collect();
        for (name, value) in &step.env {
            let value = pipeline::resolve(value, &known)
                .map_err(|e| anyhow::anyhow!("env.{name} of step {} cannot be resolved: {e}", step.name))?;
            env.insert(name.clone(), value);
        }
        env.extend(members);
        for (name, value) in
            [("TRAINYARD_PIPELINE", &self.plan.name), ("TRAINYARD_STEP", &step.name), ("TRAINYARD_SHA", &sha)]
        {
            env.insert(name.to_owned(), value.clone());
        }
        Ok(env)
    }

    fn command(&self, step: &StepSpec, places: &Places, env: &BTreeMap<String, String>) -> Command {
        if let (Containers::With(program), Some(image)) = (&self.containers, &step.image) {
            let mut command = Command::new(program);
            let mount = |dir: &Path| format!("{0}:{0}", dir.display());
            command.args([
                "run",
                "--rm",
                "--init",
                "--volume",
                &mount(&self.tree),
                "--volume",
                &mount(&self.scratch),
            ]);
            command.arg("--workdir").arg(&self.tree);
            if step.resources.gpu > 0 {
                command.args(if *program == "podman" {
                    ["--device", "nvidia.com/gpu=all"]
                } else {
                    ["--gpus", "all"]
                });
            }
            // By name: values on a command line could be read by everybody on the machine. The client itself must keep
            // its own PATH and HOME, and the image has its own PATH.
            for (name, value) in env.iter().filter(|(name, _)| !["PATH", "HOME"].contains(&name.as_str())) {
                command.arg("--env").arg(name).env(name, value);
            }
            command.arg("--env").arg(format!("HOME={}", places.home.display()));
            command.args(["--entrypoint", "/bin/sh", image, "-e"]).arg(&places.script);
            return command;
        }
        let mut command = Command::new("/bin/sh");
        command.arg("-e").arg(&places.script).current_dir(&self.tree).env_clear().envs(env);
        command
    }

    fn shelf(&self, step: &str) -> PathBuf {
        self.scratch.join("artifacts").join(hex::encode(step))
    }

    /// Copies a step's artifacts aside: the next member of a matrix may write to the same paths.
    fn keep(&self, step: &StepSpec, found: &mut Found) -> Result<(), String> {
        let matches = artifacts::find(&self.tree, &step.artifacts)?;
        found.notes.extend(matches.notes);
        let aside = self.shelf(&step.name);
        std::fs::create_dir_all(&aside).map_err(|e| format!("artifacts cannot be kept: {e}"))?;
        for file in matches.files {
            let copied =
                paths::place(&aside, &file).and_then(|to| Ok(std::fs::copy(self.tree.join(&file), to)?));
            copied.map_err(|e| format!("the artifact {file} cannot be kept: {e:#}"))?;
        }
        Ok(())
    }

    /// Puts the artifacts of a step that ran before into the tree.
    fn take(&self, step: &str, into: Option<&str>) -> anyhow::Result<()> {
        let aside = self.shelf(step);
        let mut files = Vec::new();
        artifacts::walk(&aside, "", &mut |path| files.push(path.to_owned()));
        for file in files {
            let place = into.map_or(file.clone(), |dir| format!("{}/{file}", dir.trim_end_matches('/')));
            let to = self.tree.join(paths::relative(&place)?);
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::copy(aside.join(&file), to)
                .with_context(|| format!("cannot put the artifact {place} of {step} in place"))?;
        }
        Ok(())
    }
}

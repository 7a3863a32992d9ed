//! The numbers of `make bench`: each measured beside its peer or its limit in one run, since machines differ and are noisy.
//!
//! Prints `BENCH <name> <value> <unit> [ratio=<r>]`, each name once; `ratio=` is against the limit that the line's case names, the
//! worst of several cases. Arguments choose cases by the start of their names; none means all. Lines that begin with `#` say what
//! was measured and how it spread.

mod cluster;
mod daemon;
mod floor;
mod intake;
mod launches;
mod load;
mod peers;
mod runs;
mod scale;
/// Where agents call, for what is applied by hand.
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::result_large_err,
    reason = "the tests' own, which the tests use whole"
)]
#[path = "../../tests/it/agent/daemon.rs"]
mod stub;

use std::process::ExitCode;

/// One measured number.
pub struct Line {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// The value against its limit or peer.
    pub ratio: Option<f64>,
    /// Does it keep the goal, and which is that?
    pub goal: (&'static str, bool),
}

fn print(line: &Line) {
    let ratio = line.ratio.map_or(String::new(), |r| format!(" ratio={r:.3}"));
    println!("BENCH {} {:.3} {}{ratio}", line.name, line.value, line.unit);
    let (goal, kept) = line.goal;
    println!("# {} {}: {goal}", if kept { "kept" } else { "MISSED" }, line.name);
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [word, port, db] = args.as_slice()
        && word == "floor"
    {
        floor::serve(port.parse().expect("a port"), db);
    }
    let wanted = |name: &str| args.is_empty() || args.iter().any(|a| name.starts_with(a.as_str()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (mut missed, mut failed) = (Vec::new(), Vec::new());
    for (name, case) in CASES {
        if !wanted(name) {
            continue;
        }
        println!("# -- {name}");
        match runtime.block_on(case()) {
            Ok(lines) => {
                for line in lines {
                    print(&line);
                    if !line.goal.1 {
                        missed.push(line.name);
                    }
                }
            }
            Err(error) => {
                println!("# FAILED {name}: {error:#}");
                failed.push(*name);
            }
        }
    }
    println!("# missed: {}; failed: {}", list(&missed), list(&failed));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

type Case = fn() -> std::pin::Pin<Box<dyn Future<Output = anyhow::Result<Vec<Line>>>>>;

/// A case may print several lines; its name is the common start of theirs.
const CASES: &[(&str, Case)] = &[
    ("intake", || Box::pin(intake::measure())),
    ("dispatch", || Box::pin(runs::dispatch())),
    ("dispatch.k8s", || Box::pin(cluster::dispatch())),
    ("launch", || Box::pin(launches::measure())),
    ("log", || Box::pin(runs::log())),
    ("idle", || Box::pin(scale::idle())),
    ("start", || Box::pin(scale::start())),
    ("list", || Box::pin(scale::list())),
];

/// The middle of some figures.
pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    percentile(&all, 0.5)
}

/// Of sorted figures.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64) * share).round() as usize).copied().unwrap_or(f64::NAN)
}

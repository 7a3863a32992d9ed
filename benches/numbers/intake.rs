//! Durable intake of 20 KB deliveries: trainyard against the floor of this machine and against what people use.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::process::{Child, Command};

use crate::daemon::{Daemon, SECRET, Wishes, cpu_s, memory_mib, ports};
use crate::load::{Load, Target, closed, open};
use crate::{Line, median, peers};

const ROUNDS: usize = 3;
const CONNECTIONS: [usize; 2] = [8, 64];

fn target(address: SocketAddr) -> Target {
    // A star: verified, stored and decided ("ignored") as it arrives, like all that an organisation's hook sends beside pushes
    // and pull requests.
    Target { address, path: "/hooks/github/main", secret: SECRET.into(), sha1: false, event: "watch" }
}

fn time() -> Duration {
    Duration::from_secs(2)
}

pub async fn measure() -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    let (sqlite, rss) = against_the_floor(None).await.context("SQLite")?;
    lines.push(sqlite.line("intake.sqlite", "at least 0.8 of the floor", 0.8));
    lines.push(Line {
        name: "intake.peak_rss_mib",
        value: rss,
        unit: "MiB",
        ratio: Some(rss / 40.0),
        goal: ("at most 40 MiB under 64 connections", rss <= 40.0),
    });
    lines.push(open_loop().await.context("open loop")?);
    lines.extend(against_peers().await.context("peers")?);
    let postgres = peers::Postgres::start().await.context("Postgres")?;
    let (measured, _) = against_the_floor(Some(&postgres)).await.context("Postgres")?;
    lines.push(measured.line("intake.postgres", "at least 0.7 of its floor", 0.7));
    Ok(lines)
}

/// Rates and ratios by number of connections.
struct Measured(Vec<(usize, f64, f64)>);

impl Measured {
    /// The rate of the last case and the worst ratio of all.
    fn line(&self, name: &'static str, goal: &'static str, least: f64) -> Line {
        let worst = self.0.iter().map(|c| c.2).fold(f64::INFINITY, f64::min);
        let value = self.0.last().map_or(f64::NAN, |c| c.1);
        Line { name, value, unit: "deliveries/s", ratio: Some(worst), goal: (goal, worst >= least) }
    }
}

struct Floor {
    address: SocketAddr,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Floor {
    async fn start(postgres: Option<&peers::Postgres>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("trainyard-floor-").tempdir()?;
        let [address] = ports::<1>()?;
        let db = match postgres {
            Some(server) => server.url("floor").await?,
            None => dir.path().join("floor.db").display().to_string(),
        };
        let child = Command::new(std::env::current_exe()?)
            .args(["floor", &address.port().to_string(), &db])
            .kill_on_drop(true)
            .spawn()?;
        peers::until_open(address).await?;
        Ok(Self { address, child, _dir: dir })
    }
}

async fn against_the_floor(postgres: Option<&peers::Postgres>) -> anyhow::Result<(Measured, f64)> {
    let mut cases = Vec::new();
    let mut rss = 0.0_f64;
    for connections in CONNECTIONS {
        let (mut ours, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mut floor = Floor::start(postgres).await?;
            let at_floor = closed(&target(floor.address), connections, time()).await?;
            let floor_cpu = cpu_s(floor.child.id().context("the floor runs")?)?;
            floor.child.kill().await?;
            let url = match postgres {
                Some(server) => Some(server.url("trainyard").await?),
                None => None,
            };
            let mut daemon = Daemon::new(&Wishes { database: url.as_deref(), ..Wishes::default() })?;
            daemon.start().await?;
            let started = cpu_s(daemon.pid()?)?;
            let at_ours = closed(&target(daemon.hooks), connections, time()).await?;
            let our_cpu = cpu_s(daemon.pid()?)? - started;
            rss = rss.max(memory_mib(daemon.pid()?, "VmHWM")?);
            daemon.kill().await?;
            say_with_cpu("floor", connections, at_floor, floor_cpu);
            say_with_cpu("trainyard", connections, at_ours, our_cpu);
            floors.push(at_floor.per_second);
            ours.push(at_ours.per_second);
        }
        let (ours, floor) = (median(ours), median(floors));
        cases.push((connections, ours, ours / floor));
    }
    Ok((Measured(cases), rss))
}

fn say(who: &str, connections: usize, load: Load) {
    println!(
        "# {who}: {connections} connections, {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
        load.per_second, load.p50_ms, load.p99_ms
    );
}

/// Processor time counts the deciding in the background as well, which the floor does not do.
fn say_with_cpu(who: &str, connections: usize, load: Load, cpu_s: f64) {
    say(who, connections, load);
    println!("#   {:.0} us of processor a delivery", cpu_s / (load.per_second * time().as_secs_f64()) * 1e6);
}

async fn open_loop() -> anyhow::Result<Line> {
    let mut daemon = Daemon::new(&Wishes::default())?;
    daemon.start().await?;
    let mut p99 = Vec::new();
    for _ in 0..ROUNDS {
        let load = open(&target(daemon.hooks), 200, Duration::from_secs(5)).await?;
        println!("# open loop at 200/s: p50 {:.2} ms, p99 {:.2} ms", load.p50_ms, load.p99_ms);
        p99.push(load.p99_ms);
    }
    daemon.stop().await?;
    let p99 = median(p99);
    Ok(Line {
        name: "intake.open_p99_ms",
        value: p99,
        unit: "ms",
        ratio: Some(p99 / 50.0),
        goal: ("at most 50 ms at 200/s", p99 <= 50.0),
    })
}

/// Debian's `webhook`, a FastAPI handler that stores under FULL, and Prow's hook where it builds; same load, same minute.
async fn against_peers() -> anyhow::Result<Vec<Line>> {
    const AT: usize = 64;
    let peers = peers::all().await?;
    let mut rates: Vec<(String, f64, Vec<f64>)> =
        peers.iter().map(|p| (p.name.to_owned(), p.wanted, Vec::new())).collect();
    let mut ours = Vec::new();
    for _ in 0..ROUNDS {
        for (peer, (_, _, rate)) in peers.iter().zip(&mut rates) {
            let mut running = peer.start().await.with_context(|| peer.name.to_owned())?;
            let load = closed(&running.target, AT, time()).await.with_context(|| peer.name.to_owned())?;
            running.child.kill().await?;
            say(peer.name, AT, load);
            rate.push(load.per_second);
        }
        let mut daemon = Daemon::new(&Wishes::default())?;
        daemon.start().await?;
        let load = closed(&target(daemon.hooks), AT, time()).await?;
        daemon.kill().await?;
        say("trainyard", AT, load);
        ours.push(load.per_second);
    }
    let ours = median(ours);
    let mut worst = f64::INFINITY;
    for (name, wanted, rate) in rates {
        let ratio = ours / median(rate);
        println!("# trainyard / {name}: {ratio:.2} (wanted: {wanted})");
        worst = worst.min(ratio / wanted);
    }
    Ok(vec![Line {
        name: "intake.vs_peers",
        value: ours,
        unit: "deliveries/s",
        ratio: Some(worst),
        goal: ("1.5 x Prow's hook, 3 x FastAPI with SQLite FULL; 1 is reached", worst >= 1.0),
    }])
}

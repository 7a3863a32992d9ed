//! `trainyard deliveries`: what forges sent and what became of it. Works beside a running daemon, on its machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Subcommand;
use sha2::{Digest, Sha256};

use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ForgeKind};
use crate::forge::{ChangeWords, Forges};
use crate::http::api::DeliveryJson;
use crate::intake::{Intake, explain};
use crate::model::DeliveryState;
use crate::store::Store;
use crate::store::deliveries::DeliveryRow;

/// Look at received webhook deliveries, and decide them again
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The daemon's configuration
    #[arg(
        long,
        global = true,
        env = "TRAINYARD_CONFIG",
        default_value = "/etc/trainyard/trainyard.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The newest deliveries
    List {
        #[arg(long, default_value_t = 20)]
        limit: i64,
        /// As the API has them
        #[arg(long)]
        json: bool,
    },
    /// One delivery: its headers, its decision, its body
    Show {
        /// Our id, or the forge's delivery id
        id: String,
        /// The body alone, byte for byte: `trainyard plan --event` reads it
        #[arg(long)]
        body: bool,
        /// As the API has it, without the body
        #[arg(long, conflicts_with = "body")]
        json: bool,
    },
    /// Decide a delivery again, with the configuration and the forge as they are now
    Replay {
        /// Our id, or the forge's delivery id
        id: String,
        /// Print what would be decided and why; write nothing
        #[arg(long)]
        dry_run: bool,
    },
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(run_async(args))
}

async fn run_async(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let store = Store::open_beside(&super::store_options(&config, "")?).await?;
    let code = match &args.command {
        Command::List { limit, json: true } => {
            let rows = store.list_deliveries(None, *limit).await?;
            let rows: Vec<DeliveryJson> = rows.into_iter().map(DeliveryJson::new).collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
            ExitCode::SUCCESS
        }
        Command::List { limit, json: false } => {
            for row in store.list_deliveries(None, *limit).await? {
                println!("{}", line(&row));
            }
            ExitCode::SUCCESS
        }
        Command::Show { id, body, json } => match store.find_delivery(id).await? {
            Some(row) if *body => {
                let bytes =
                    store.delivery_body(&row.id).await?.context("the body was deleted by retention")?;
                super::output::print(&bytes)?;
                ExitCode::SUCCESS
            }
            Some(row) if *json => {
                println!("{}", serde_json::to_string_pretty(&DeliveryJson::new(row))?);
                ExitCode::SUCCESS
            }
            Some(row) => {
                show(&store, &row).await?;
                ExitCode::SUCCESS
            }
            None => missing(id),
        },
        Command::Replay { id, dry_run } => match store.find_delivery(id).await? {
            Some(row) => {
                replay(config, &store, &row, *dry_run).await?;
                ExitCode::SUCCESS
            }
            None => missing(id),
        },
    };
    store.close().await;
    Ok(code)
}

fn missing(id: &str) -> ExitCode {
    eprintln!(
        "trainyard: there is no delivery {id:?}, or more than one hook received it; `trainyard deliveries list` shows our ids"
    );
    ExitCode::from(4)
}

async fn replay(config: Config, store: &Store, row: &DeliveryRow, dry_run: bool) -> anyhow::Result<()> {
    if dry_run {
        let forges = Forges::connect(&config)?;
        let kind = config.forge.get(&row.forge).map_or(ForgeKind::Github, |forge| forge.kind);
        let intake = Intake::new(store.clone(), Arc::new(SystemClock), Arc::new(config), forges);
        let (event, plan) = intake.preview(row).await?;
        print!("{}", safe(&explain(event.as_ref(), &plan, ChangeWords::of(kind))));
        println!("dry run: nothing was written");
    } else {
        anyhow::ensure!(
            store.replay_delivery(&row.id, SystemClock.now_ms()).await?,
            "delivery {} is gone",
            row.id
        );
        println!("{} is to be decided again; the daemon does that within a second", row.id);
    }
    Ok(())
}

async fn show(store: &Store, row: &DeliveryRow) -> anyhow::Result<()> {
    println!("{}", line(row));
    println!("forge {} hook {} delivery {}", row.forge, row.hook_id, safe(&row.delivery_id));
    println!("{} bytes of {}", row.body_bytes, safe(&row.content_type));
    for (name, value) in &row.headers {
        println!("{}: {}", safe(name), safe(value));
    }
    match store.delivery_body(&row.id).await? {
        Some(body) => {
            println!(
                "sha256 {}\n\n{}",
                hex::encode(Sha256::digest(&body)),
                safe(&String::from_utf8_lossy(&body))
            );
        }
        None => println!("\nthe body was deleted by retention"),
    }
    Ok(())
}

fn line(row: &DeliveryRow) -> String {
    let when =
        jiff::Timestamp::from_millisecond(row.received_ms).map(|t| format!("{t:.0}")).unwrap_or_default();
    let reason = match (row.state, row.reason.as_str()) {
        (DeliveryState::Stored, "") => "not decided yet",
        (_, reason) => reason,
    };
    safe(&format!(
        "{} {when} {:<12} {:<11} {}",
        row.id,
        row.event,
        row.state.word(),
        reason.lines().next().unwrap_or_default()
    ))
}

/// Text from outside, without what a terminal would obey.
fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

//! `trainyard token`: API tokens.

use std::process::ExitCode;

use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use super::client::{Client, Place, segment};
use crate::http::api::{Done, TokenJson};
use crate::http::text::{instant, shown_cut};
use crate::store::tokens::Scope;

/// Make, list and revoke API tokens
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token; its text is printed once and kept nowhere
    Create {
        /// Who or what uses it
        name: String,
        /// `read`, `run` (also cancel and release) or `admin`
        #[arg(long, default_value = "read")]
        scope: Scope,
        /// `owner/name`: the token sees this repository only
        #[arg(long)]
        repo: Option<String>,
    },
    /// Every token, without its text
    List {
        /// The API's answer
        #[arg(long)]
        json: bool,
    },
    /// End a token and the logins made with it
    Revoke {
        /// From `trainyard token list`
        id: String,
    },
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.place)?;
    match args.command {
        Command::Create { name, scope, repo } => {
            let ask = json!({"name": name, "scope": scope, "repo": repo});
            let made: TokenJson = client.call(Method::POST, "/tokens", Some(&ask)).await?;
            eprintln!("token {} of scope {}; it is shown this once:", made.id, made.scope);
            println!("{}", made.token.unwrap_or_default());
        }
        Command::List { json } => {
            let tokens: Vec<TokenJson> = client.get("/tokens").await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&tokens)?);
                return Ok(ExitCode::SUCCESS);
            }
            for t in tokens {
                let state = t.revoked_ms.map_or("live".to_owned(), |at| format!("revoked {}", instant(at)));
                let bound = if t.repo.is_some() { "one repository" } else { "all" };
                println!(
                    "{}  {:<6}  {bound:<14}  made {}  {:<32}  {state}",
                    t.id,
                    t.scope,
                    instant(t.created_ms),
                    shown_cut(&t.name, 31).as_str()
                );
            }
        }
        Command::Revoke { id } => {
            let done: Done = client.call(Method::DELETE, &format!("/tokens/{}", segment(&id)?), None).await?;
            println!("{id}: {}", done.detail);
        }
    }
    Ok(ExitCode::SUCCESS)
}

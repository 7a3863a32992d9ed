//! `trainyard schema`: the grammar for editors, the description of the API, and the pages that are made from it.

use std::process::ExitCode;

use crate::pipeline;

/// Print the JSON Schema of the pipeline file
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the page of all lint codes instead (docs/pipeline-errors.md)
    #[arg(long, conflicts_with = "keys")]
    errors: bool,
    /// Print the tables of all keys instead (a part of docs/pipeline.md)
    #[arg(long)]
    keys: bool,
    /// Print the API as OpenAPI 3.1 instead (docs/openapi.json)
    #[arg(long, conflicts_with_all = ["keys", "errors"])]
    api: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    super::output::print(text(args)?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn text(args: &Args) -> anyhow::Result<String> {
    if args.api {
        return Ok(serde_json::to_string_pretty(&serde_json::to_value(
            crate::http::api::openapi::openapi(),
        )?)? + "\n");
    }
    if args.errors {
        return Ok(pipeline::codes_page());
    }
    if args.keys {
        return Ok(pipeline::reference() + "\n");
    }
    Ok(serde_json::to_string_pretty(&pipeline::schema())? + "\n")
}

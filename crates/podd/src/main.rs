//! podd: pods on one machine.
//!
//! This crate is the command line and the composition root: it reads arguments and configuration
//! and joins the planes (API, agent, runtime). Decisions live elsewhere.

mod cli;
mod client;
mod commands;
mod config;
mod daemon;
mod kinds;
mod manifests;
mod print;
mod yaml;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let failure = cli.command.failure();
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(failure)
        }
    }
}

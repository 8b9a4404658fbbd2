//! The command line: one file a command. Results go to stdout, logs and progress to stderr; exit codes are sysexits.

mod agent;
mod apply;
mod blockdev;
mod check;
mod client;
mod config;
mod decide;
mod demo;
mod denied;
mod disk_arg;
mod events;
mod exec;
mod fsck;
mod gc;
mod inspect;
mod lf_edge;
mod log_escape;
mod log_queue;
mod logging;
mod login;
mod options;
mod output;
mod owner;
mod placeholder;
mod progress;
mod prompt;
mod pull;
mod pullfiles;
mod push;
mod reconcile;
mod remarks;
mod remote;
mod screen;
mod serve;
mod since;
mod snapshots;
mod source;
mod status;
mod table;
mod tree;
mod version;
mod workload;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::failure::{Failure, Kind};
use crate::unpack::work_if_asked;
use logging::{complain, warn};
use options::Options;

/// Blocking work is disk work; more threads than this would only fight over the disk.
const BLOCKING_THREADS: usize = 24;
/// One for the network, one for everything else, as edge nodes have few cores.
const WORKERS: usize = 2;

/// Keeps an edge node's virtual machine images at the state that a file desires.
#[derive(Parser)]
#[command(name = "eci", version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    leading: lf_edge::Leading,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the whole loop: a registry, an image, the agent, a deployment and an update. Nothing is left behind.
    Demo(demo::Args),
    /// Run the agent: watch the desired state, pull images, swap `current`.
    Agent(agent::Args),
    /// Show what runs, what is on its way and what is wrong.
    Status(status::Args),
    /// Follow what happens.
    Events(events::Args),
    /// Check a desired-state file, show what changes, and install it atomically.
    Apply(apply::Args),
    /// Make the agent look again now.
    Reconcile(reconcile::Args),
    /// Let a staged generation pass, or try again what was rolled back.
    Activate(decide::Args),
    /// Keep what runs: it is right.
    Confirm(decide::Args),
    /// Go back to what ran before, and do not try again what is left.
    Rollback(decide::Args),
    /// Run a command, such as a hypervisor, on what a workload boots now, and keep that for as long as it runs.
    Exec(exec::Args),
    /// Remove generations and blobs that nothing leads to any more.
    Gc(gc::Args),
    /// Check or show the agent's configuration.
    Config(config::Args),
    /// Verify everything on disk, and repair it.
    Fsck(fsck::Args),
    /// Make an image of files and push it to a registry or an image layout.
    Push(push::Args),
    /// Pull an image back into files.
    Pull(pull::Args),
    /// Pull some files of an image, each to where it is wanted.
    Pullfiles(pullfiles::Args),
    /// Show what an image is made of, without fetching it.
    Inspect(inspect::Args),
    /// Save a user's login for a registry, after trying it there.
    Login(login::Args),
    /// Remove the login for a registry.
    Logout(login::LogoutArgs),
    /// Serve an image layout as a read-only registry.
    Serve(serve::Args),
    /// Show the version of this program, and what it is made of.
    Version(version::Args),
}

impl Cli {
    /// The command, with what stands before its name and is meant for it alone.
    fn with_leading(mut self) -> Result<(Options, Command), Failure> {
        if self.leading.is_given() {
            let own = match &mut self.command {
                Command::Push(args) => &mut args.remote,
                Command::Pull(args) => &mut args.source.remote,
                Command::Pullfiles(args) => &mut args.source.remote,
                Command::Inspect(args) => &mut args.source.remote,
                _ => {
                    return Err(Failure::usage(
                        "--remote and --namespace are flags of push, pull, pullfiles and inspect",
                    ));
                }
            };
            *own = own.take().or(self.leading.remote);
        }
        Ok((self.options, self.command))
    }
}

/// Parses, runs, and says how it went.
pub fn main() -> ExitCode {
    // First of all: a worker has one thread, and reads neither arguments of ours nor files.
    if let Some(ended) = work_if_asked() {
        return ended;
    }
    std::panic::set_hook(Box::new(|panic| {
        complain(&format!("internal error, please report it: {panic}"));
        std::process::exit(i32::from(Kind::Internal.exit_code()));
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = error.print();
            return ExitCode::from(if asked_for { 0 } else { Kind::Usage.exit_code() });
        }
    };
    let ended = run(cli);
    logging::flush();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// The exit code of a command that did not fail.
fn run(cli: Cli) -> Result<u8, Failure> {
    let (options, command) = cli.with_leading()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("no runtime: {error}")))?;
    let result = runtime.block_on(async {
        let done = match command {
            Command::Demo(args) => args.run(&options).await,
            Command::Agent(args) => args.run(&options).await,
            Command::Status(args) => return args.run(&options).await,
            Command::Events(args) => args.run(&options).await,
            Command::Apply(args) => args.run(&options).await,
            Command::Reconcile(args) => args.run(&options).await,
            Command::Activate(args) => args.run("activate", &options).await,
            Command::Confirm(args) => args.run("confirm", &options).await,
            Command::Rollback(args) => args.run("rollback", &options).await,
            Command::Exec(args) => args.run(&options),
            Command::Gc(args) => args.run(&options).await,
            Command::Fsck(args) => args.run(&options).await,
            Command::Push(args) => args.run(&options).await,
            Command::Pull(args) => args.run(&options).await,
            Command::Pullfiles(args) => args.run(&options).await,
            Command::Inspect(args) => args.run(&options).await,
            Command::Login(args) => args.run(&options).await,
            Command::Logout(args) => args.run(&options).await,
            Command::Config(args) => args.run(&options),
            Command::Serve(args) => args.run(&options).await,
            Command::Version(args) => args.run(),
        };
        done.map(|()| 0)
    });
    // What the disk is busy with may end; beyond that nobody waits.
    runtime.shutdown_timeout(agent::DRAIN);
    result
}

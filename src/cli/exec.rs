//! `eci exec`: run a command, such as a hypervisor, on what a workload boots.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::{fs, io, process};

use super::options::Options;
use super::owner::as_owner;
use super::placeholder::{FillError, Values};
use super::workload::{self, list};
use crate::deploy::{GUEST_GROUP, Generations, Launch, Lease, Links};
use crate::desired::WorkloadName;
use crate::durable::DurableError;
use crate::failure::{Classify, Failure, Kind, Retry};

/// How often the link is read again where its generation went before it could be kept: another one was activated each time.
const TRIES: usize = 16;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The workload; it may be left out where only one has something to boot.
    workload: Option<String>,
    /// The command, and its arguments. In each, `{kernel}`, `{initrd}`, `{disk-root}`, `{disk-0}` … stand for the paths
    /// of what the image has, `{disk-root.format}`, `{disk-0.format}` … for formats; `{disk-root.blockdev}` … for a
    /// disk as QEMU's `-blockdev` takes it; `{cmdline}`, `{dir}`, `{workload}` and `{generation}` for themselves. `{{`
    /// and `}}` are braces.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Why nothing is run.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("{}: no workload has anything to boot yet (eci status says why)", .0.display())]
    Nothing(PathBuf),
    #[error("workload {workload} has nothing to boot yet (eci status says why){}", instead(.others))]
    NothingOf { workload: WorkloadName, others: Vec<WorkloadName> },
    #[error(
        "generation {workload}/{generation} is not complete (eci fsck says what is wrong; the agent lays out another one)"
    )]
    Incomplete { workload: WorkloadName, generation: u64 },
    #[error(
        "generation {workload}/{generation} cannot be read: run this as a user who can, such as a member of the group \
         {GUEST_GROUP} ([cache] access)"
    )]
    Unreadable {
        workload: WorkloadName,
        generation: u64,
        #[source]
        source: DurableError,
    },
    #[error("{argument}")]
    Argument {
        argument: String,
        #[source]
        source: FillError,
    },
    #[error("cannot run {}", .program.display())]
    Run {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Disk(#[from] DurableError),
}

/// The workloads that could be named instead.
fn instead(others: &[WorkloadName]) -> String {
    if others.is_empty() { String::new() } else { format!("; workloads with something to boot: {}", list(others)) }
}

/// The error for a command that is missing; `word` is what stands before the `--` that may be missing.
fn no_command(word: Option<&str>) -> Failure {
    let meant = match word {
        Some(word) => {
            format!("write eci exec -- {word} to run {word}, or eci exec {word} -- CMD for the workload {word}")
        }
        None => "write eci exec [WORKLOAD] -- CMD".to_owned(),
    };
    Failure::usage(format!("CMD is missing, the command to run after --: {meant}"))
}

impl Classify for ExecError {
    fn kind(&self) -> Kind {
        match self {
            Self::Nothing(_) | Self::NothingOf { .. } => Kind::NothingToBoot,
            Self::Incomplete { .. } => Kind::Damaged,
            Self::Argument { source, .. } => source.kind(),
            Self::Run { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Kind::ToolMissing,
                io::ErrorKind::PermissionDenied => Kind::Forbidden,
                _ => Kind::Usage,
            },
            Self::Disk(error) | Self::Unreadable { source: error, .. } => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Nothing(_) | Self::NothingOf { .. } | Self::Incomplete { .. } => Retry::Later,
            Self::Argument { .. } | Self::Run { .. } => Retry::Never,
            Self::Disk(error) | Self::Unreadable { source: error, .. } => error.retry(),
        }
    }
}

impl Args {
    /// Returns only where the command is not run.
    pub(super) fn run(self, options: &Options) -> Result<(), Failure> {
        if self.command.is_empty() {
            return Err(no_command(self.workload.as_deref()));
        }
        // A machine boots whatever else of the configuration is wrong.
        let settings = options.client_settings()?.settings;
        let named = self.workload.as_deref().map(workload::named).transpose()?;
        // Run as root, everything below the state directory is looked up with its owner's rights: a link that the owner
        // has planted there opens nothing that the owner could not open.
        let (ready, _lease) = as_owner(&settings.state_dir, || prepare(&settings.state_dir, named, &self.command))??;
        Err(ready.run().into())
    }
}

/// A command whose arguments are filled in.
struct Ready {
    words: Vec<OsString>,
    launch: Launch,
    dir: PathBuf,
}

/// Resolves what a workload boots, leases it, and fills in the arguments of the command.
fn prepare(
    state_dir: &Path,
    named: Option<WorkloadName>,
    command: &[OsString],
) -> Result<(Ready, Option<Lease>), Failure> {
    let (generations, links) = (Generations::at(state_dir), Links::at(state_dir));
    let name = match named {
        Some(name) => name,
        None => workload::only(bootable(&links)?)?.ok_or_else(|| ExecError::Nothing(state_dir.to_owned()))?,
    };
    let (lease, launch) = pin(&generations, &links, &name)?;
    // Not through any link that may come to lead elsewhere while the command runs.
    let dir = generations.dir(&name, launch.generation);
    let dir = fs::canonicalize(&dir).map_err(|error| DurableError::new("resolve", &dir, error))?;
    // The files of a generation are no links; one that is would open what it leads to with the command's rights.
    let is_file = |name: &str| fs::symlink_metadata(dir.join(name)).is_ok_and(|found| found.is_file());
    if !launch.names().all(|(name, _)| is_file(name)) {
        return Err(ExecError::Incomplete { workload: name, generation: launch.generation }.into());
    }
    let values = Values { launch: &launch, dir: &dir };
    let fill = |argument: &OsString| {
        let said = || argument.to_string_lossy().into_owned();
        values.fill(argument).map_err(|source| ExecError::Argument { argument: said(), source })
    };
    let words = command.iter().map(fill).collect::<Result<_, ExecError>>()?;
    if let Some(Err(source)) = lease.as_ref().map(Lease::hand_on) {
        return Err(DurableError::new("keep", &dir, source).into());
    }
    Ok((Ready { words, launch, dir }, lease))
}

impl Ready {
    /// Has this process become the command; the result says why it has not.
    fn run(self) -> ExecError {
        let mut words = self.words.into_iter();
        let program = PathBuf::from(words.next().unwrap_or_default());
        let source = process::Command::new(&program)
            .args(words)
            .env("ECI_WORKLOAD", self.launch.workload.as_str())
            .env("ECI_GENERATION", self.launch.generation.to_string())
            .env("ECI_DIR", self.dir)
            .exec();
        ExecError::Run { program, source }
    }
}

/// The workloads that have something to boot.
fn bootable(links: &Links) -> Result<Vec<WorkloadName>, DurableError> {
    let mut all = Vec::new();
    for name in links.workloads() {
        if links.current(&name)?.is_some() {
            all.push(name);
        }
    }
    all.sort();
    Ok(all)
}

/// Pins the generation that `current` points at, so that it is not collected. If no lease can be had, a warning says
/// so: a machine has to boot whatever has become of its lease.
fn pin(generations: &Generations, links: &Links, name: &WorkloadName) -> Result<(Option<Lease>, Launch), ExecError> {
    let mut last = None;
    for _ in 0..TRIES {
        let Some(number) = links.current(name)? else {
            return Err(ExecError::NothingOf { workload: name.clone(), others: bootable(links)? });
        };
        let (lease, problem) = match generations.lease(name, number) {
            Ok(lease) => (lease, None),
            Err(error) => (generations.lock_directory(name, number), Some(error)),
        };
        if (lease.is_some() || problem.is_some())
            && let Some(launch) = generations.complete(name, number)
        {
            if let Some(error) = problem {
                warn_of_no_lease(name, number, error);
            }
            return Ok((lease, launch));
        }
        // It is gone, or not complete. Where the link leads elsewhere by now, a collection was faster; else nothing
        // will come of it.
        if last.replace(number) == Some(number) {
            break;
        }
    }
    let (workload, generation) = (name.clone(), last.unwrap_or_default());
    Err(match generations.described(name, generation) {
        Err(source) if source.kind() == Kind::Forbidden => ExecError::Unreadable { workload, generation, source },
        _ => ExecError::Incomplete { workload, generation },
    })
}

fn warn_of_no_lease(name: &WorkloadName, number: u64, error: DurableError) {
    let advice = match error.kind() {
        Kind::Forbidden => format!("; run this as root, as the agent's user or as a member of the group {GUEST_GROUP}"),
        _ => String::new(),
    };
    super::complain(&format!(
        "warning: generation {name}/{number} runs without a lease and may be removed meanwhile: {}{advice}",
        Failure::from(error)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::deploy::Order;
    use crate::desired::Disks;
    use crate::oci::{Descriptor, Platform};

    #[test]
    fn a_generation_that_goes_before_it_is_kept_is_passed_over() {
        const LAST: u64 = 60;
        let dir = tempfile::tempdir().unwrap();
        let (cache, links) = (Cache::open(dir.path()).unwrap(), Links::open(dir.path()).unwrap());
        let (generations, name) = (Generations::open(dir.path()).unwrap(), WorkloadName::default_name());
        let document = cache.insert(b"{}").unwrap();
        let order = Order {
            workload: name.clone(),
            reference: "a.example/b:c".parse().unwrap(),
            digest: document,
            index_digest: None,
            platform: Platform::host(),
            cmdline: None,
            disks: Disks::ReadOnly,
            current: None,
            config: Descriptor::new("x", document, 2),
            files: Vec::new(),
            after: 0,
        };
        let next = |n: u64| {
            generations.materialize(&cache, &order).unwrap();
            links.activate(&name, n, None).unwrap();
        };
        next(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 2..=LAST {
                    next(n);
                    generations.retire(&name, n - 1).unwrap();
                    generations.update_leases().unwrap();
                }
            });
            while pin(&generations, &links, &name).unwrap().1.generation != LAST {}
        });

        generations.retire(&name, LAST).unwrap();
        let lost = pin(&generations, &links, &name).unwrap_err();
        assert!(matches!(lost, ExecError::Incomplete { generation: LAST, .. }), "{lost}");
        links.retire(&name).unwrap();
        assert!(matches!(pin(&generations, &links, &name), Err(ExecError::NothingOf { .. })));
    }
}

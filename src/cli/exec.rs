//! `eci exec`: run a command, such as a hypervisor, on what a workload boots.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::{fs, io, process};

use super::options::Options;
use super::placeholder::{FillError, Values};
use super::workload::{self, list};
use crate::deploy::{Generations, Launch, Lease, Links};
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
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Why nothing is run.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("no workload in {} has anything to boot yet (eci status says why)", .0.display())]
    Nothing(PathBuf),
    #[error("workload {workload} has nothing to boot, or not yet (eci status says why); what has: {}", list(.others))]
    NothingOf { workload: WorkloadName, others: Vec<WorkloadName> },
    #[error(
        "generation {workload}/{generation} is not complete (eci fsck says what is wrong; the agent lays out another one)"
    )]
    Incomplete { workload: WorkloadName, generation: u64 },
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
            Self::Disk(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Nothing(_) | Self::NothingOf { .. } | Self::Incomplete { .. } => Retry::Later,
            Self::Argument { .. } | Self::Run { .. } => Retry::Never,
            Self::Disk(error) => error.retry(),
        }
    }
}

impl Args {
    /// Returns only where the command is not run.
    pub(super) fn run(self, options: &Options) -> Result<(), Failure> {
        let settings = options.settings()?;
        let named = self.workload.as_deref().map(workload::named).transpose()?;
        let (generations, links) = (Generations::at(&settings.state_dir), Links::at(&settings.state_dir));
        let name = match named {
            Some(name) => name,
            None => workload::only(bootable(&links)?)?.ok_or(ExecError::Nothing(settings.state_dir))?,
        };
        let (lease, launch) = pin(&generations, &links, &name)?;
        // Not through any link that may come to lead elsewhere while the command runs.
        let dir = generations.dir(&name, launch.generation);
        let dir = fs::canonicalize(&dir).map_err(|error| DurableError::new("resolve", &dir, error))?;
        let error = become_command(&self.command, &Values { launch: &launch, dir: &dir }, &lease);
        Err(error.into())
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

/// What `current` points at, kept from being collected.
fn pin(generations: &Generations, links: &Links, name: &WorkloadName) -> Result<(Lease, Launch), ExecError> {
    let mut last = None;
    for _ in 0..TRIES {
        let Some(number) = links.current(name)? else {
            return Err(ExecError::NothingOf { workload: name.clone(), others: bootable(links)? });
        };
        if let Some(lease) = generations.lease(name, number)? {
            let incomplete = || ExecError::Incomplete { workload: name.clone(), generation: number };
            return Ok((lease, generations.complete(name, number).ok_or_else(incomplete)?));
        }
        // It is gone. Where the link leads elsewhere by now, a collection was faster; else nothing will come of it.
        if last.replace(number) == Some(number) {
            break;
        }
    }
    Err(ExecError::Incomplete { workload: name.clone(), generation: last.unwrap_or_default() })
}

/// Has this process become the command; the result says why it has not.
fn become_command(command: &[OsString], values: &Values, lease: &Lease) -> ExecError {
    let filled = command.iter().map(|argument| {
        let said = || argument.to_string_lossy().into_owned();
        values.fill(argument).map_err(|source| ExecError::Argument { argument: said(), source })
    });
    let filled: Vec<OsString> = match filled.collect() {
        Ok(filled) => filled,
        Err(error) => return error,
    };
    let mut words = filled.into_iter();
    let program = PathBuf::from(words.next().unwrap_or_default());
    if let Err(source) = lease.hand_on() {
        return DurableError::new("keep", values.dir, source).into();
    }
    let source = process::Command::new(&program)
        .args(words)
        .env("ECI_WORKLOAD", values.launch.workload.as_str())
        .env("ECI_GENERATION", values.launch.generation.to_string())
        .env("ECI_DIR", values.dir)
        .exec();
    ExecError::Run { program, source }
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

//! Confinement of a worker: what it may call, and how much it may use.
//!
//! The filter lists what is allowed; every other system call fails with EPERM, as in the unit. A worker has two
//! descriptors to use, which it is given, so nothing that the agent may have left open is of use to it. It cannot open,
//! connect, start, trace or signal anything, and the memory that it maps is never executable.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::libc;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// Address space of a worker beside its program and the memory of decompression, in bytes: buffers, extended headers of
/// 1 MiB and names of three times that, and the outcome.
const SPARE: u64 = 32 << 20;
/// Processor time of a worker, in seconds. The largest image on the slowest node takes hours; this ends an endless
/// loop.
const MAX_CPU_SECONDS: u64 = 24 * 3600;

/// Reasons for not working.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfineError {
    /// A limit or an attribute cannot be set.
    #[error("{0}: {1}")]
    Limit(&'static str, #[source] io::Error),
    /// The filter cannot be made or installed.
    #[error("seccomp: {0}")]
    Filter(String),
    /// The filter is installed, and does not work.
    #[error("seccomp: the filter has no effect")]
    NoEffect,
}

/// Confines this process for good. `memory` is the most that decompression may use, in bytes. Returns the address space
/// that the process had before.
pub(super) fn confine(layer: BorrowedFd<'_>, channel: BorrowedFd<'_>, memory: u64) -> Result<u64, ConfineError> {
    let limit = |what, resource, limit: Rlimit| {
        setrlimit(resource, limit).map_err(|error| ConfineError::Limit(what, error.into()))
    };
    let exactly = |value| Rlimit { current: Some(value), maximum: Some(value) };
    // If memory runs out, a worker is what to end: the agent goes on. A system that does not take the wish ends
    // another.
    let _ = File::options().write(true).open("/proc/self/oom_score_adj").and_then(|mut file| file.write_all(b"1000"));
    let used = address_space().map_err(|error| ConfineError::Limit("/proc/self/status", error))?;
    // The descriptors are closed with the agent as well; this ends a worker that does not look.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| ConfineError::Limit("PR_SET_PDEATHSIG", error.into()))?;
    limit("RLIMIT_AS", Resource::As, address_limit(used, 0, memory))?;
    limit("RLIMIT_CPU", Resource::Cpu, exactly(MAX_CPU_SECONDS))?;
    for (what, resource) in [
        ("RLIMIT_CORE", Resource::Core),
        ("RLIMIT_FSIZE", Resource::Fsize),
        ("RLIMIT_MEMLOCK", Resource::Memlock),
        ("RLIMIT_NOFILE", Resource::Nofile),
        ("RLIMIT_NPROC", Resource::Nproc),
    ] {
        limit(what, resource, exactly(0))?;
    }
    let filter = filter(layer, channel).map_err(|error| ConfineError::Filter(error.to_string()))?;
    apply_filter(&filter).map_err(|error| {
        // The crate's text of it does not name the system's error.
        let cause = match &error {
            seccompiler::Error::Prctl(cause) | seccompiler::Error::Seccomp(cause) => Some(cause.to_string()),
            _ => None,
        };
        ConfineError::Filter(cause.unwrap_or_else(|| error.to_string()))
    })?;
    // A limit on descriptors would answer otherwise.
    match File::open("/") {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(used),
        _ => Err(ConfineError::NoEffect),
    }
}

/// The limit on the address space of a worker that had `used` before it was confined, and may use `granted` of the
/// `memory` of all decompression.
pub(super) fn address_limit(used: u64, granted: u64, memory: u64) -> Rlimit {
    let with = |more: u64| Some(used.saturating_add(SPARE).saturating_add(more));
    Rlimit { current: with(granted.min(memory)), maximum: with(memory) }
}

/// The address space of this process, in bytes.
fn address_space() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib = size.and_then(|size| size.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib.saturating_mul(1024)).ok_or_else(|| io::Error::other("it has no VmSize"))
}

fn filter(layer: BorrowedFd<'_>, channel: BorrowedFd<'_>) -> Result<BpfProgram, seccompiler::BackendError> {
    let number = |descriptor: BorrowedFd<'_>| u64::from(descriptor.as_raw_fd().unsigned_abs());
    let (layer, channel, stderr) = (number(layer), number(channel), number(io::stderr().as_fd()));
    let itself = u64::from(std::process::id());
    let is = |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let lacks =
        |argument, bits| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), 0);
    let abort = u64::from(libc::SIGABRT.unsigned_abs());
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    let private = u64::from((libc::MAP_PRIVATE | libc::MAP_SHARED).unsigned_abs());
    let is_private = SeccompCondition::new(
        3,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(private),
        u64::from(libc::MAP_PRIVATE.unsigned_abs()),
    )?;
    // Each call, and the conditions on its arguments: one of the lists has to hold as a whole.
    let conditional = [
        (libc::SYS_read, vec![vec![is(0, layer)?], vec![is(0, channel)?]]),
        (libc::SYS_write, vec![vec![is(0, channel)?], vec![is(0, stderr)?]]),
        (libc::SYS_lseek, vec![vec![is(0, layer)?]]),
        (libc::SYS_mmap, vec![vec![lacks(2, executable)?, is_private]]),
        (libc::SYS_mprotect, vec![vec![lacks(2, executable)?]]),
        // Of a program that aborts, the signal tells why.
        (libc::SYS_tgkill, vec![vec![is(0, itself)?, is(2, abort)?]]),
        (libc::SYS_tkill, vec![vec![is(0, itself)?, is(1, abort)?]]),
    ];
    let free = [
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_brk,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_sched_yield,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        free.into_iter().map(|call| (call, Vec::new())).collect();
    for (call, alternatives) in conditional {
        rules.insert(call, alternatives.into_iter().map(SeccompRule::new).collect::<Result<_, _>>()?);
    }
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::process::Command;

    /// Tells a run of the child below what to do.
    const VARIABLE: &str = "ECI_TEST_CONFINED";
    const MIB: usize = 1 << 20;

    /// Attempts at what a worker may not do, and the result of each.
    fn attempts(other: &File) -> Vec<(&'static str, io::Result<()>)> {
        let reserved = |bytes: usize| {
            let mut room: Vec<u8> = Vec::new();
            room.try_reserve_exact(bytes).map_err(io::Error::other).map(|()| room.push(1))
        };
        let made = std::env::temp_dir().join(format!("eci-{}", std::process::id()));
        let core = Rlimit { current: Some(1), maximum: Some(1) };
        vec![
            ("open", File::open("/etc/passwd").map(drop)),
            ("create", File::create(&made).and_then(|_| std::fs::remove_file(&made))),
            ("stat", std::fs::metadata("/etc/passwd").map(drop)),
            ("list", std::fs::read_dir("/").map(drop)),
            ("chdir", std::env::set_current_dir("/")),
            ("tcp", TcpListener::bind("127.0.0.1:0").map(drop)),
            ("udp", UdpSocket::bind("127.0.0.1:0").map(drop)),
            ("unix", UnixStream::pair().map(drop)),
            ("datagram", UnixDatagram::unbound().map(drop)),
            ("exec", Command::new("/bin/true").status().map(drop)),
            ("thread", std::thread::Builder::new().spawn(|| ()).map(drop)),
            ("signal", nix::sys::signal::kill(nix::unistd::getppid(), None).map_err(io::Error::from)),
            ("abort-other", nix::sys::signal::kill(nix::unistd::Pid::this(), None).map_err(io::Error::from)),
            ("limit", setrlimit(Resource::Core, core).map_err(io::Error::from)),
            ("duplicate", other.try_clone().map(drop)),
            ("write-other", { other }.write_all(b"x")),
            ("memory", reserved(256 * MIB)),
        ]
    }

    /// Runs as a child of the test below; by itself it does nothing.
    #[test]
    fn child() {
        let Ok(confined) = std::env::var(VARIABLE) else { return };
        let mut report = File::from(io::stdout().as_fd().try_clone_to_owned().unwrap());
        let input = File::open("/dev/null").unwrap();
        let other = File::options().write(true).open("/dev/null").unwrap();
        if confined == "true" {
            confine(input.as_fd(), report.as_fd(), 1 << 20).unwrap();
        }
        for (name, outcome) in attempts(&other) {
            let code = outcome.err().map_or("done".to_owned(), |error| {
                error.raw_os_error().map_or(error.to_string(), |code| format!("errno {code}"))
            });
            writeln!(report, "attempt {name}: {code}").unwrap();
        }
        let mut room: Vec<u8> = Vec::new();
        let some = room.try_reserve_exact(8 * MIB);
        writeln!(report, "attempt some-memory: {}", some.map_or("none", |()| "done")).unwrap();
        let read = io::Read::read(&mut { &input }, &mut [0]).is_ok();
        writeln!(report, "attempt read: {}", if read { "done" } else { "denied" }).unwrap();
        std::process::exit(0);
    }

    fn run_child(confined: bool) -> Vec<(String, String)> {
        let module = module_path!().split_once("::").unwrap().1;
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", &format!("{module}::child"), "--nocapture", "--test-threads=1"]);
        let output = child.env(VARIABLE, confined.to_string()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
        let lines = text.lines().filter_map(|line| line.split_once("attempt ")?.1.split_once(": "));
        lines.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect()
    }

    #[test]
    fn a_confined_process_opens_connects_and_starts_nothing() {
        let (free, confined) = (run_child(false), run_child(true));
        assert!(free.len() > 17 && free.len() == confined.len(), "{free:?} {confined:?}");
        for ((name, before), (_, after)) in free.iter().zip(&confined) {
            assert_eq!(before, "done", "{name} works when nothing is confined");
            match name.as_str() {
                "some-memory" | "read" => assert_eq!(after, "done", "{name}"),
                "memory" => assert!(after.contains("memory"), "{after}"),
                _ => assert_eq!(after, &format!("errno {}", libc::EPERM), "{name}"),
            }
        }
    }

    #[test]
    fn memory_is_limited_by_what_is_granted() {
        let bytes = |limit: Rlimit| (limit.current.unwrap(), limit.maximum.unwrap());
        assert_eq!(bytes(address_limit(100, 0, 50)), (100 + SPARE, 150 + SPARE));
        assert_eq!(bytes(address_limit(100, 30, 50)), (130 + SPARE, 150 + SPARE));
        assert_eq!(bytes(address_limit(100, 60, 50)), (150 + SPARE, 150 + SPARE), "never beyond");
        assert_eq!(bytes(address_limit(u64::MAX, u64::MAX, u64::MAX)), (u64::MAX, u64::MAX));
    }
}

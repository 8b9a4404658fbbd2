//! The stable names of what can go wrong, shared by status, metrics, problem documents and exit codes.
//!
//! Every module has an error type of its own; what they share is this vocabulary. Whether trying again may help is
//! decided once, where a failure is first seen, and travels with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::printable::one_line_char;
use crate::wording::without_error_numbers;

/// What went wrong, by a name that users and tools may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// The agent's configuration is wrong.
    ConfigInvalid,
    /// The desired-state file is not there.
    DesiredAbsent,
    /// The desired-state file cannot be accepted.
    DesiredInvalid,
    /// A reference to an image is malformed.
    ReferenceInvalid,
    /// Content does not have the digest that names it.
    DigestMismatch,
    /// Content is longer or shorter than its descriptor says.
    SizeMismatch,
    /// A manifest or index cannot be understood, or breaks a rule of the format.
    ManifestInvalid,
    /// A file name in an image is not safe.
    FileNameInvalid,
    /// Two files of an image want one name.
    FileNameDuplicate,
    /// Two files of an image want a role that only one can have.
    RoleDuplicate,
    /// A layer's media type contradicts its role, or a disk's format its bytes.
    MediaTypeMismatch,
    /// A disk image names other files, is encrypted, or cannot be told to stand alone.
    UnsafeDisk,
    /// An image's config, which is to name its files, is none.
    ConfigDamaged,
    /// An image names a file that it does not have.
    FileMissing,
    /// An image has neither a root disk nor a kernel.
    NotBootable,
    /// A manifest is larger than any registry should serve.
    ManifestTooLarge,
    /// A file is larger than `[transfer] max_file_bytes`.
    FileTooLarge,
    /// A layer's archive is cut short or damaged.
    ArchiveDamaged,
    /// A layer's archive has in it what must not be.
    ArchiveRefused,
    /// Indexes lead through too many others, or in a circle.
    IndexNested,
    /// An index holds no manifest for the platform.
    NoPlatformMatch,
    /// The image is well-formed but of a form this version does not handle.
    Unsupported,
    /// The registry does not have it.
    NotFound,
    /// The registry wants other credentials.
    Unauthorized,
    /// The registry, or this machine, does not allow it.
    Forbidden,
    /// The registry asks for fewer requests.
    RateLimited,
    /// The registry failed.
    RegistryError,
    /// Nothing answers at the address.
    Unreachable,
    /// The other side stopped sending.
    Timeout,
    /// The TLS handshake failed.
    Tls,
    /// The other side broke the protocol.
    Protocol,
    /// An OCI image layout on disk lacks something or is damaged.
    LayoutInvalid,
    /// An update takes more than `[transfer] max_wire_bytes`.
    OverBudget,
    /// This machine's clock is wrong, so that no certificate can be checked.
    ClockWrong,
    /// No room on the disk, or over quota.
    DiskFull,
    /// The file system is read-only.
    ReadOnly,
    /// Another read or write error of the disk.
    Io,
    /// The state directory's file system lacks an operation, or the directory is on several.
    UnsuitableFileSystem,
    /// What is on disk is not what was put there.
    Damaged,
    /// A state directory has nothing in it.
    StateAbsent,
    /// Another process holds the state directory.
    Locked,
    /// A hook refused or failed.
    HookFailed,
    /// No agent answers on the socket.
    AgentUnreachable,
    /// No such workload.
    UnknownWorkload,
    /// What is asked for makes no sense as things are.
    Conflict,
    /// The image was rolled back, and is not tried again.
    Quarantined,
    /// A generation was not confirmed in time, and there is none to go back to.
    Unconfirmed,
    /// A workload has no generation that it could boot, as yet.
    NothingToBoot,
    /// A program that is needed is not installed.
    ToolMissing,
    /// The process that reads untrusted bytes ended before its work did.
    WorkerFailed,
    /// The process that reads untrusted bytes cannot confine itself.
    WorkerUnconfined,
    /// A defect of this program.
    Internal,
}

impl Kind {
    /// The name as it stands in status, metrics and problem documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::ConfigInvalid => "config-invalid",
            Self::DesiredAbsent => "desired-absent",
            Self::DesiredInvalid => "desired-invalid",
            Self::ReferenceInvalid => "reference-invalid",
            Self::DigestMismatch => "digest-mismatch",
            Self::SizeMismatch => "size-mismatch",
            Self::ManifestInvalid => "manifest-invalid",
            Self::FileNameInvalid => "file-name-invalid",
            Self::FileNameDuplicate => "file-name-duplicate",
            Self::RoleDuplicate => "role-duplicate",
            Self::MediaTypeMismatch => "media-type-mismatch",
            Self::UnsafeDisk => "unsafe-disk",
            Self::ConfigDamaged => "config-damaged",
            Self::FileMissing => "file-missing",
            Self::NotBootable => "not-bootable",
            Self::ManifestTooLarge => "manifest-too-large",
            Self::FileTooLarge => "file-too-large",
            Self::ArchiveDamaged => "archive-damaged",
            Self::ArchiveRefused => "archive-refused",
            Self::IndexNested => "index-nested",
            Self::NoPlatformMatch => "no-platform-match",
            Self::Unsupported => "unsupported",
            Self::NotFound => "not-found",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::RateLimited => "rate-limited",
            Self::RegistryError => "registry-error",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::LayoutInvalid => "layout-invalid",
            Self::OverBudget => "over-budget",
            Self::ClockWrong => "clock-wrong",
            Self::DiskFull => "disk-full",
            Self::ReadOnly => "read-only",
            Self::Io => "io",
            Self::UnsuitableFileSystem => "unsuitable-file-system",
            Self::Damaged => "damaged",
            Self::StateAbsent => "state-absent",
            Self::Locked => "locked",
            Self::HookFailed => "hook-failed",
            Self::AgentUnreachable => "agent-unreachable",
            Self::UnknownWorkload => "unknown-workload",
            Self::Conflict => "conflict",
            Self::Quarantined => "quarantined",
            Self::Unconfirmed => "unconfirmed",
            Self::NothingToBoot => "nothing-to-boot",
            Self::ToolMissing => "tool-missing",
            Self::WorkerFailed => "worker-failed",
            Self::WorkerUnconfined => "worker-unconfined",
            Self::Internal => "internal",
        }
    }

    /// The exit code of a command that fails so, from `sysexits.h`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage | Self::UnknownWorkload | Self::ReferenceInvalid => 64,
            Self::DigestMismatch
            | Self::SizeMismatch
            | Self::ManifestInvalid
            | Self::FileNameInvalid
            | Self::FileNameDuplicate
            | Self::RoleDuplicate
            | Self::MediaTypeMismatch
            | Self::UnsafeDisk
            | Self::ConfigDamaged
            | Self::FileMissing
            | Self::NotBootable
            | Self::ManifestTooLarge
            | Self::FileTooLarge
            | Self::ArchiveDamaged
            | Self::ArchiveRefused
            | Self::IndexNested
            | Self::NoPlatformMatch
            | Self::Unsupported
            | Self::LayoutInvalid
            | Self::Damaged
            | Self::Quarantined => 65,
            Self::NotFound
            | Self::RegistryError
            | Self::Unreachable
            | Self::Tls
            | Self::ClockWrong
            | Self::Protocol
            | Self::AgentUnreachable
            | Self::ToolMissing
            | Self::WorkerUnconfined => 69,
            Self::Internal => 70,
            Self::DiskFull | Self::ReadOnly | Self::Io => 73,
            Self::RateLimited
            | Self::Timeout
            | Self::Locked
            | Self::Unconfirmed
            | Self::Conflict
            | Self::NothingToBoot
            | Self::HookFailed
            | Self::WorkerFailed => 75,
            Self::Unauthorized | Self::Forbidden => 77,
            Self::ConfigInvalid
            | Self::DesiredAbsent
            | Self::DesiredInvalid
            | Self::OverBudget
            | Self::UnsuitableFileSystem
            | Self::StateAbsent => 78,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether trying the same thing again may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It will fail again until a person changes something.
    Never,
    /// It may work later; the caller chooses when.
    Later,
    /// It may work later, and the other side said not to come back before this long.
    After(Duration),
}

/// An error that knows its stable name and whether to try again.
pub trait Classify: std::error::Error {
    /// The stable name.
    fn kind(&self) -> Kind;
    /// Whether trying again may help.
    fn retry(&self) -> Retry;
}

/// A failure as the agent remembers and reports it: the error's classification and its full text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The stable name.
    pub kind: Kind,
    /// The text for a person, causes included.
    pub message: String,
    /// Whether trying again may help.
    pub retry: Retry,
}

impl Failure {
    /// A failure with a text of its own, which may hold the text of a system error.
    pub fn new(kind: Kind, message: impl Into<String>, retry: Retry) -> Self {
        let message = message.into();
        Self { kind, message: without_error_numbers(&message).into_owned(), retry }
    }

    /// A mistake on the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message, Retry::Never)
    }

    /// A defect of this program.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message, Retry::Later)
    }
}

impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { kind: error.kind(), retry: error.retry(), message: full_text(&error) }
    }
}

/// The longest text of a failure, in characters: some of it comes from outside, and it is kept, logged and sent.
const MAX_TEXT: usize = 4096;

/// An error and its causes in one line, without the numbers of system errors, leaving out a cause whose text the line
/// already holds. What comes from outside can neither forge lines of a log, nor speak to a terminal, nor fill the memory.
pub fn full_text(error: &dyn std::error::Error) -> String {
    let said = |error: &dyn std::error::Error| without_error_numbers(&error.to_string()).into_owned();
    let mut text = said(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let more = said(cause);
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    let mut rest = text.chars().map(one_line_char);
    let kept: String = rest.by_ref().take(MAX_TEXT).collect();
    if rest.next().is_some() { kept + "…" } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_one_line_of_bounded_length() {
        let text = full_text(&std::io::Error::other(format!("a\n<3>forged \u{1b}[31m{}", "é".repeat(MAX_TEXT))));
        assert!(text.starts_with("a <3>forged \u{fffd}[31mé"), "{text}");
        assert!(text.ends_with('…') && text.chars().count() == MAX_TEXT + 1);
    }

    #[test]
    fn no_text_has_the_number_of_a_system_error() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
        assert_eq!(full_text(&error), "No such file or directory");
        let failure = Failure::usage(format!("cannot read x: {error}"));
        assert_eq!(failure.message, "cannot read x: No such file or directory");
        let internal = Failure::internal(format!("no runtime: {error}; report (7)"));
        assert_eq!(internal.message, "no runtime: No such file or directory; report (7)");
    }

    #[test]
    fn a_kind_is_written_the_same_by_serde_and_by_as_str() {
        for kind in [Kind::DigestMismatch, Kind::Io, Kind::Tls, Kind::ManifestTooLarge, Kind::UnknownWorkload] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}

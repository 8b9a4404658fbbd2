//! `eci apply FILE`: check, show the changes, install atomically.

mod ask;
mod base;
mod changes;
mod install;
mod render;
mod wait;

use std::fmt::Write;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;

use super::client::Client;
use super::options::{Options, absolute};
use super::output::print;
use base::Base;
use changes::Changes;
use wait::Wait;

use crate::config::Span;
use crate::desired::{MAX_FILE_BYTES, Reading, read_bytes};
use crate::failure::{Failure, Kind, Retry};

/// The FILE that stands for stdin.
const STDIN: &str = "-";
/// The time-out of `--wait` without a TIME.
const WAIT: &str = "10m";

#[derive(clap::Args)]
pub(super) struct Args {
    /// The file to install; "-" reads it from stdin.
    #[arg(required_unless_present = "wait")]
    file: Option<PathBuf>,
    /// The desired-state file to replace.
    #[arg(long, value_name = "FILE")]
    desired: Option<PathBuf>,
    /// Show the changes, and change nothing.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until what the file names is active, staged or on probation, or has failed; for TIME at most (10m).
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = WAIT)]
    wait: Option<String>,
    /// Retire workloads that the file does not name without asking, and at once, also those that still had time.
    #[arg(long)]
    retire: bool,
}

impl Args {
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let (file, wait) = self.file_and_wait()?;
        let settings = options.settings()?;
        let target = match &self.desired {
            Some(desired) => absolute(desired)?,
            None => settings.desired.path.clone(),
        };
        let target = install::resolved(&target);
        let bytes = if file == Path::new(STDIN) { stdin()? } else { read_bytes(&file)? };
        let name = if file == Path::new(STDIN) { Path::new("stdin") } else { &file };
        let reading = Reading::of(name, &bytes)?;
        let client = Client::new(&settings.api.socket);
        let base = Base::find(&settings, &client, &target).await;
        let changes = Changes::between(&base.known, &reading.desired);
        let mut text = render::text(&changes);
        for note in &base.notes {
            let _ = writeln!(text, "{note}");
        }
        if self.dry_run {
            let needs = !changes.retired.is_empty() && !self.retire;
            let needs = if needs { "; without a terminal, --retire is needed to apply it" } else { "" };
            return print(&format!("{text}not installed (--dry-run){needs}\n"));
        }
        let is_agreed = if self.retire || changes.retired.is_empty() {
            self.retire
        } else {
            // An operator has to know what is asked, and why it is refused.
            print(&std::mem::take(&mut text))?;
            ask::ask(&changes, &file)?;
            true
        };
        install::install(&target, &bytes)?;
        let _ = writeln!(text, "installed as {}", target.display());
        text += &base.reader.remark(&target, &changes, settings.desired.retire);
        if !is_agreed && !changes.pending.is_empty() {
            text += &render::pending(&changes);
        }
        print(&text)?;
        let is_read = base.reader.may_read();
        if is_agreed && is_read {
            retire(&client, &reading, &target).await?;
        }
        match wait {
            None => Ok(()),
            Some(_) if !is_read => Err(nobody(&target)),
            Some(limit) => Wait::new(&client, &reading, &changes, is_agreed).run(limit).await,
        }
    }

    /// The FILE, and the time-out of `--wait`. The word after `--wait` is TIME if it is a length of time, and FILE if
    /// it is not and no other word is there.
    fn file_and_wait(&self) -> Result<(PathBuf, Option<Duration>), Failure> {
        match (&self.file, &self.wait) {
            (Some(file), Some(text)) => Ok((file.clone(), Some(time(text)?))),
            (Some(file), None) => Ok((file.clone(), None)),
            (None, Some(text)) if time(text).is_err() => Ok((text.into(), Some(time(WAIT)?))),
            (None, _) => Err(Failure::usage("FILE is missing: name the desired-state file to install, or - for stdin")),
        }
    }
}

/// A length of time as the configuration writes it.
fn time(text: &str) -> Result<Duration, Failure> {
    let value: serde::de::value::StrDeserializer<'_, ValueError> = text.into_deserializer();
    Span::deserialize(value).map(|span| span.0).map_err(|why| Failure::usage(format!("--wait: {why}")))
}

/// The bytes of stdin, as many as a desired-state file may have.
fn stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    let invalid = |message: String| Failure::new(Kind::DesiredInvalid, message, Retry::Never);
    read.map_err(|error| invalid(format!("cannot read stdin: {error}")))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid("stdin is larger than 1 MiB, the limit of a desired-state file".to_owned()));
    }
    Ok(bytes)
}

/// Has the agent read the file and end every grace. The agent refuses if it read another file than this one.
async fn retire(client: &Client, reading: &Reading, target: &Path) -> Result<(), Failure> {
    let path = format!("/v1/retire?sha256={}", reading.sha256);
    client.send(Method::POST, &path, None).await.map(|_| ()).map_err(|error| {
        let failure = Failure::from(error);
        let message = format!(
            "{} is installed, but pending retirements were not ended: {}; run \"eci apply --retire {}\" again",
            target.display(),
            failure.message,
            target.display()
        );
        Failure { message, ..failure }
    })
}

fn nobody(target: &Path) -> Failure {
    let message = format!("{} is installed, but no agent reads it: there is nothing to wait for", target.display());
    Failure { kind: Kind::AgentUnreachable, message, retry: Retry::Later }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(file: Option<&str>, wait: Option<&str>) -> Result<(String, Option<u64>), Kind> {
        let (file, wait) = (file.map(PathBuf::from), wait.map(str::to_owned));
        let args = Args { file, desired: None, dry_run: false, wait, retire: false };
        let found = args.file_and_wait().map_err(|failure| failure.kind)?;
        Ok((found.0.display().to_string(), found.1.map(|time| time.as_secs())))
    }

    #[test]
    fn wait_takes_a_time_or_none() {
        assert_eq!(args(Some("f"), None), Ok(("f".to_owned(), None)));
        assert_eq!(args(Some("f"), Some("30s")), Ok(("f".to_owned(), Some(30))));
        assert_eq!(args(None, Some("f.toml")), Ok(("f.toml".to_owned(), Some(600))));
        assert_eq!(args(None, Some("30s")), Err(Kind::Usage));
        assert_eq!(args(Some("f"), Some("soon")), Err(Kind::Usage));
    }
}

//! `eci config`: the agent's configuration, checked or shown.

use std::fmt::Write;

use serde::Serialize;
use toml::Value;

use super::options::Options;
use super::output::{json, print};
use super::{complain, warn};
use crate::config::{ConfigFiles, EffectiveValue};
use crate::desired::{DesiredError, read};
use crate::failure::{Failure, Kind};

/// The arguments of `eci config`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Check the main file, every drop-in, and the path of the desired-state file.
    Check,
    /// Show every value in force, and the file that sets it.
    Show {
        /// A JSON document.
        #[arg(long)]
        json: bool,
    },
}

/// The document of `eci config show --json`.
#[derive(Serialize)]
struct Document {
    /// The files that were read, least important first.
    files: Vec<String>,
    values: Vec<Entry>,
}

/// A value in force.
#[derive(Serialize)]
struct Entry {
    /// The keys that lead to it, dotted as TOML writes them.
    key: String,
    value: Value,
    /// `default`, `file` or `command-line`; the last one stands for a flag or a variable of the environment.
    set_by: &'static str,
    file: Option<String>,
    line: Option<usize>,
    #[serde(skip)]
    path: Vec<String>,
}

impl Args {
    pub(super) fn run(self, options: &Options) -> Result<(), Failure> {
        let files = ConfigFiles::read(&options.source());
        no_errors(&files)?;
        match self.action {
            Action::Check => check(&files, options),
            Action::Show { json: is_json } => {
                let document = document(&files, options)?;
                print(&if is_json { json(&document)? } else { render(&document) })
            }
        }
    }
}

/// Prints all errors but the last, which it returns.
fn no_errors(files: &ConfigFiles) -> Result<(), Failure> {
    let mut failures: Vec<_> = files.errors().into_iter().map(Failure::from).collect();
    // A file that is wrong decides on the exit code, not one that this user may not read.
    failures.sort_by_key(|failure| failure.kind != Kind::Forbidden);
    let Some(last) = failures.pop() else { return Ok(()) };
    for failure in failures {
        complain(&failure.message);
    }
    Err(last)
}

fn check(files: &ConfigFiles, options: &Options) -> Result<(), Failure> {
    let settings = options.settings()?;
    let mut text = String::new();
    for file in files.files() {
        let _ = writeln!(text, "ok: {}", file.display());
    }
    if text.is_empty() {
        text.push_str("ok: there is no configuration file; the defaults are in force\n");
    }
    let desired = &settings.desired.path;
    match read(desired) {
        Ok(_) => {
            let _ = writeln!(text, "ok: {}", desired.display());
        }
        Err(DesiredError::Absent(_)) => {
            let _ = writeln!(text, "ok: {} is not there yet", desired.display());
        }
        Err(error @ DesiredError::Read { .. }) => return Err(error.into()),
        // The configuration is right; the agent keeps what it accepted last.
        Err(error) => warn(&Failure::from(error).message),
    }
    print(&text)
}

fn document(files: &ConfigFiles, options: &Options) -> Result<Document, Failure> {
    let settings = options.settings()?;
    let mut values: Vec<_> = files.effective().into_iter().map(Entry::from).collect();
    let flags = [
        (options.state_dir.is_some(), ["state_dir"].as_slice(), &settings.state_dir),
        (options.socket.is_some(), &["api", "socket"], &settings.api.socket),
    ];
    for (_, path, value) in flags.into_iter().filter(|(is_given, ..)| *is_given) {
        if let Some(entry) = values.iter_mut().find(|entry| entry.path == path) {
            entry.value = Value::String(value.display().to_string());
            (entry.set_by, entry.file, entry.line) = ("command-line", None, None);
        }
    }
    Ok(Document { files: files.files().map(|file| file.display().to_string()).collect(), values })
}

impl From<EffectiveValue> for Entry {
    fn from(value: EffectiveValue) -> Self {
        let (file, line) = value.origin.map(|origin| (origin.file.display().to_string(), origin.line)).unzip();
        let set_by = if file.is_some() { "file" } else { "default" };
        Self { key: dotted(&value.path), value: value.value, set_by, file, line, path: value.path }
    }
}

/// The values as TOML, each with a comment that says what sets it.
fn render(document: &Document) -> String {
    let mut text = String::new();
    let mut table: &[String] = &[];
    for entry in &document.values {
        let Some((key, parents)) = entry.path.split_last() else { continue };
        if parents != table {
            let _ = writeln!(text, "\n[{}]", dotted(parents));
            table = parents;
        }
        let place = match (&entry.file, entry.line) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            _ if entry.set_by == "default" => "default".to_owned(),
            _ => "command line or environment".to_owned(),
        };
        let _ = writeln!(text, "{} = {}  # {place}", quoted(key), entry.value);
    }
    text
}

fn dotted(path: &[String]) -> String {
    path.iter().map(|key| quoted(key)).collect::<Vec<_>>().join(".")
}

/// A key as TOML writes it.
fn quoted(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !key.is_empty() && key.bytes().all(is_bare) { key.to_owned() } else { Value::String(key.to_owned()).to_string() }
}

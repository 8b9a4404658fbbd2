//! Logs, on stderr: for the journal under systemd, for a person on a terminal, or as JSON.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use super::log_escape::Escaping;
use super::log_queue::LogQueue;
use crate::config::{LogFormat, LogSettings};
use crate::printable::escaped;
use crate::registry::EXCHANGE_TARGET;
use crate::wording::without_error_numbers;

/// Longest wait for a reader of the log when the program ends.
const FLUSH: Duration = Duration::from_millis(500);

/// The queue of log lines of a program that never waits for the reader of its log.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Changes the level while the program runs.
pub(super) struct LevelHandle(reload::Handle<Targets, Registry>);

/// The lowest level at which requests and answers are logged: `debug` by the agent, `trace` (`--debug`) by commands.
const EXCHANGES_OF_AGENT: Level = Level::DEBUG;
const EXCHANGES_OF_COMMAND: Level = Level::TRACE;

impl LevelHandle {
    pub(super) fn set(&self, level: Level) {
        // It fails only where the subscriber is gone, and with it the log.
        let _ = self.0.reload(targets(level, EXCHANGES_OF_AGENT));
    }
}

/// Starts logging as `settings` say.
pub(super) fn init(settings: &LogSettings) -> LevelHandle {
    start(settings, EXCHANGES_OF_COMMAND, BoxMakeWriter::new(io::stderr))
}

/// The same for a program that runs unattended: no log line ever stops it.
pub(super) fn init_unattended(settings: &LogSettings) -> LevelHandle {
    // A descriptor of its own: whoever writes to stderr otherwise does not wait for the lock that a write holds.
    let out = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    match out.and_then(LogQueue::start) {
        Ok(queue) => start(settings, EXCHANGES_OF_AGENT, BoxMakeWriter::new(QUEUE.get_or_init(|| queue).clone())),
        Err(_) => start(settings, EXCHANGES_OF_AGENT, BoxMakeWriter::new(io::stderr)),
    }
}

fn start(settings: &LogSettings, exchanges: Level, out: BoxMakeWriter) -> LevelHandle {
    let (filter, handle) = reload::Layer::new(targets(settings.level, exchanges));
    // A line that cannot be written is lost. To say so would be one more such line, and a panic.
    let layer = tracing_subscriber::fmt::layer().with_writer(Escaping(out)).log_internal_errors(false);
    let layer: Box<dyn Layer<_> + Send + Sync> = match settings.format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Auto if is_journal() => layer.with_ansi(false).event_format(Journal::default()).boxed(),
        LogFormat::Auto => layer.compact().with_target(false).with_ansi(io::stderr().is_terminal()).boxed(),
    };
    // A second call, as tests make it, leaves the first in place.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    LevelHandle(handle)
}

/// Waits for the queued lines to be written, for half a second at most.
pub(super) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH);
    }
}

/// Prints an error on stderr, after all log lines. If stderr has no reader, only the exit code tells.
pub(super) fn complain(message: &str) {
    say(Level::ERROR, message);
}

/// Prints a warning on stderr, after all log lines.
pub(super) fn warn(message: &str) {
    say(Level::WARN, &format!("warning: {message}"));
}

fn say(level: Level, message: &str) {
    let prefix = if is_journal() { format!("<{}>", priority(level)) } else { String::new() };
    let line = escaped(&format!("{prefix}eci: {}\n", without_error_numbers(message))).into_owned();
    match QUEUE.get() {
        Some(queue) => {
            queue.push_last(line.as_bytes());
            queue.flush(FLUSH);
        }
        None => {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

/// Whether stderr is the journal's. The variable alone does not say so: it is inherited by what runs in a terminal or
/// with its output redirected, so it names the stream by device and inode (`systemd.exec(5)`).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    nix::sys::stat::fstat(std::io::stderr()).is_ok_and(|found| stream == format!("{}:{}", found.st_dev, found.st_ino))
}

/// The priority of syslog that the journal files a line under.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Our own words at `level`, requests and answers only from the level `exchanges` on, those of libraries only when
/// something is wrong.
fn targets(level: Level, exchanges: Level) -> Targets {
    let exchanges = if level >= exchanges { level } else { Level::ERROR };
    Targets::new()
        .with_target(EXCHANGE_TARGET, exchanges)
        .with_target("eci_agent", level)
        .with_default(level.min(Level::WARN))
}

/// Lines for the journal: it knows the time, and takes the priority from a prefix (`sd-daemon(3)`).
struct Journal(Format<Compact, ()>);

impl Default for Journal {
    fn default() -> Self {
        Self(Format::default().compact().without_time().with_level(false).with_target(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

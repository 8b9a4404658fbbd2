//! Progress on stderr: a bar on a terminal, else a line every ten seconds; and the summary at the end.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use crate::printable::one_line;
use crate::publish::{Moved, Observer};
use crate::transfer::{Progress, ProgressNow};

/// Time between two drawings of a bar.
const TICK: Duration = Duration::from_millis(100);
/// Time between two lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Columns of a terminal that does not tell its width.
const DEFAULT_COLUMNS: u16 = 80;

/// Bars if stderr is a terminal, else lines.
pub(super) fn observer() -> Box<dyn Observer> {
    if std::io::stderr().is_terminal() { Box::new(Bars::default()) } else { Box::new(Lines::start(say)) }
}

/// Prints the summary of a push or a pull, which began at `started`: `pushed REF: 3 MiB in 2.1 s, 1 MiB sent, …`.
pub(super) fn print_summary(done: &str, way: &str, moved: Moved, started: Instant) {
    say(&summary(done, way, moved, started.elapsed()));
}

fn summary(done: &str, way: &str, moved: Moved, took: Duration) -> String {
    let Moved { bytes, reused } = moved;
    let (whole, moved) = (ByteSize(bytes), ByteSize(bytes.saturating_sub(reused)));
    format!("{done}: {whole} in {:.1} s, {moved} {way}, {} there already", took.as_secs_f64(), ByteSize(reused))
}

/// A line on stderr. Without a reader of it, nothing is lost that matters.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", one_line(line));
}

/// The template of a bar for a terminal of so many columns: the name, the bar, how much of how much, the speed, the time
/// that is left. The bar itself takes what the other parts leave.
fn template(columns: u16) -> &'static str {
    match columns {
        110.. => "{msg:24!} {wide_bar} {bytes:>11}/{total_bytes:<11} {binary_bytes_per_sec:>13} {eta:>4}",
        76.. => "{msg:16!} {wide_bar} {bytes:>11}/{total_bytes:<11} {binary_bytes_per_sec:>13} {eta:>4}",
        48.. => "{msg:12!} {wide_bar} {percent:>3}% {binary_bytes_per_sec:>13} {eta:>4}",
        24.. => "{msg:10!} {percent:>3}% {eta:>4}",
        _ => "{percent:>3}%",
    }
}

/// The width of the terminal that stderr is.
fn columns() -> u16 {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok().map(|size| size.ws_col).filter(|columns| *columns > 0).unwrap_or(DEFAULT_COLUMNS)
}

/// One bar at a time: blobs move one after another.
#[derive(Default)]
struct Bars(Mutex<Option<Bar>>);

struct Bar {
    shown: ProgressBar,
    progress: Arc<Progress>,
    drawing: JoinHandle<()>,
}

impl Observer for Bars {
    fn begin(&self, name: &str, progress: &Arc<Progress>) {
        let shown = ProgressBar::new(progress.now().bytes_total);
        fit(&shown, columns());
        shown.set_message(one_line(name));
        let drawing = tokio::spawn(draw(shown.clone(), Arc::clone(progress)));
        let bar = Bar { shown, progress: Arc::clone(progress), drawing };
        *lock(&self.0) = Some(bar);
    }

    fn end(&self) {
        let bar = lock(&self.0).take();
        if let Some(bar) = bar {
            bar.drawing.abort();
            fit(&bar.shown, columns());
            bar.shown.set_position(bar.progress.now().bytes_done);
            bar.shown.abandon();
        }
    }
}

async fn draw(shown: ProgressBar, progress: Arc<Progress>) {
    let mut width = 0;
    loop {
        let columns = columns();
        if columns != width {
            fit(&shown, columns);
            width = columns;
        }
        shown.set_position(progress.now().bytes_done);
        tokio::time::sleep(TICK).await;
    }
}

fn fit(shown: &ProgressBar, columns: u16) {
    // The templates are constants; a bar without one is still a bar.
    if let Ok(style) = ProgressStyle::with_template(template(columns)) {
        shown.set_style(style);
    }
}

/// The name and the progress of the blob that moves now.
type Moving = Option<(String, Arc<Progress>)>;

/// The blob that moves now, as lines.
struct Lines {
    now: Arc<Mutex<Moving>>,
    printing: JoinHandle<()>,
}

impl Lines {
    /// Prints a line every ten seconds while something moves.
    fn start(print: impl Fn(&str) + Send + 'static) -> Self {
        let now: Arc<Mutex<Moving>> = Arc::default();
        let shared = Arc::clone(&now);
        let printing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LINE_EVERY).await;
                let moving = lock(&shared).clone();
                if let Some((name, progress)) = moving {
                    print(&line(&name, progress.now()));
                }
            }
        });
        Self { now, printing }
    }
}

impl Observer for Lines {
    fn begin(&self, name: &str, progress: &Arc<Progress>) {
        *lock(&self.now) = Some((name.to_owned(), Arc::clone(progress)));
    }

    fn end(&self) {
        *lock(&self.now) = None;
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.printing.abort();
    }
}

fn line(name: &str, now: ProgressNow) -> String {
    let ProgressNow { bytes_total, bytes_done, bytes_per_s, eta_s, .. } = now;
    let percent = if bytes_total == 0 { 100 } else { u128::from(bytes_done) * 100 / u128::from(bytes_total) };
    let (done, total, speed) = (ByteSize(bytes_done), ByteSize(bytes_total), ByteSize(bytes_per_s));
    let left = eta_s.map(|left| format!(", {left} s left")).unwrap_or_default();
    format!("{name}: {percent}%, {done} of {total}, {speed}/s{left}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_printed_every_ten_seconds_while_something_moves() {
        let printed: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = Arc::clone(&printed);
        let lines = Lines::start(move |line| lock(&sink).push(line.to_owned()));
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert!(lock(&printed).is_empty(), "nothing moves");
        let progress = Arc::new(Progress::new(2048, 0));
        lines.begin("root.raw", &progress);
        progress.receive(1024);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(lock(&printed).is_empty());
        tokio::time::sleep(Duration::from_secs(25)).await;
        let said = lock(&printed).clone();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].starts_with("root.raw: 50%, 1.0 KiB of 2.0 KiB, "), "{said:?}");
        lines.end();
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert_eq!(lock(&printed).len(), 3);
    }

    #[test]
    fn the_summary_counts_what_was_there() {
        let moved = Moved { bytes: 3 << 20, reused: 1 << 20 };
        let said = summary("pushed r:1", "sent", moved, Duration::from_millis(2140));
        assert_eq!(said, "pushed r:1: 3.0 MiB in 2.1 s, 2.0 MiB sent, 1.0 MiB there already");
    }

    #[test]
    fn every_template_is_valid() {
        for columns in 0..200 {
            ProgressStyle::with_template(template(columns)).unwrap();
        }
    }
}

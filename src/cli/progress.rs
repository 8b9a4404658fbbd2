//! A progress bar for what moves, on stderr, where that is a terminal.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use crate::printable::one_line;
use crate::publish::{Observer, Silent};
use crate::transfer::Progress;

/// How often a bar is drawn anew.
const TICK: Duration = Duration::from_millis(100);
/// Name, bar, how much of how much, how fast, how long still.
const STYLE: &str = "{msg:24!} {bar:24} {bytes:>10}/{total_bytes:<10} {binary_bytes_per_sec:>12} {eta:>4}";

/// Bars where somebody looks at stderr, else nothing.
pub(super) fn observer() -> Box<dyn Observer> {
    if std::io::stderr().is_terminal() { Box::new(Bars::default()) } else { Box::new(Silent) }
}

/// One bar at a time: things move one after another.
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
        // The style is a constant; a bar without it is a bar still.
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            shown.set_style(style);
        }
        shown.set_message(one_line(name));
        let drawing = tokio::spawn(draw(shown.clone(), Arc::clone(progress)));
        let bar = Bar { shown, progress: Arc::clone(progress), drawing };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    fn end(&self) {
        if let Some(bar) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.drawing.abort();
            bar.shown.set_position(bar.progress.now().bytes_done);
            bar.shown.abandon();
        }
    }
}

async fn draw(shown: ProgressBar, progress: Arc<Progress>) {
    loop {
        shown.set_position(progress.now().bytes_done);
        tokio::time::sleep(TICK).await;
    }
}

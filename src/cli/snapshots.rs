//! Every screen at 60, 80 and 120 columns, with UTF-8 and without, as `tests/data/screens` has it.
//!
//! `UPDATE_SCREENS=1 cargo test --lib snapshots` writes the files anew, for a person to read the difference.

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::PathBuf;

    use jiff::Timestamp;

    use crate::agent::{Entry, Status};
    use crate::cli::check::Check;
    use crate::cli::events;
    use crate::cli::screen::Screen;
    use crate::cli::table::{NoAgent, render};

    const WIDTHS: [usize; 3] = [60, 80, 120];

    fn dir() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/screens")
    }

    fn status() -> Status {
        serde_json::from_slice(&std::fs::read(dir().join("status.json")).unwrap()).unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-30T08:00:00Z".parse().unwrap()
    }

    /// Holds what `draw` makes of each screen to the file of that name, and to the width.
    fn holds(name: &str, draw: impl Fn(&Screen) -> String) {
        for (width, is_utf8) in WIDTHS.into_iter().flat_map(|width| [(width, true), (width, false)]) {
            let drawn = draw(&Screen { width: Some(width), has_colour: false, is_utf8 });
            let file = dir().join(format!("{name}-{width}{}.txt", if is_utf8 { "" } else { "-ascii" }));
            if std::env::var_os("UPDATE_SCREENS").is_some() {
                std::fs::write(&file, &drawn).unwrap();
            }
            assert_eq!(drawn, std::fs::read_to_string(&file).unwrap_or_default(), "{}", file.display());
            for line in drawn.lines() {
                assert!(line.chars().count() <= width && line.trim_end() == line, "{width}: {line:?}");
                assert!(is_utf8 || line.is_ascii(), "{line:?}");
                assert!(!line.contains('\u{1b}'), "no colour: {line:?}");
            }
        }
    }

    #[test]
    fn the_status_of_all() {
        let status = status();
        holds("status", |screen| render(&status, None, NoAgent::Absent, now(), screen));
        let mut silent = status;
        silent.agent = None;
        holds("status-silent", |screen| render(&silent, None, NoAgent::Silent, now(), screen));
    }

    #[test]
    fn the_status_of_one() {
        let (status, name) = (status(), "firewall".parse().unwrap());
        holds("workload", |screen| render(&status, Some(&name), NoAgent::Absent, now(), screen));
    }

    #[test]
    fn the_findings_of_a_check() {
        let check = Check::of(&status(), None);
        assert_eq!(check.exit_code(), 2);
        holds("check", |screen| {
            let mut text = String::new();
            check.lines().iter().for_each(|line| screen.write(&mut text, "", line, 4, None));
            text
        });
    }

    #[test]
    fn the_events() {
        let events: Vec<Entry> = serde_json::from_slice(&std::fs::read(dir().join("events.json")).unwrap()).unwrap();
        holds("events", |screen| events.iter().map(|entry| events::render(entry, screen)).collect());
    }

    /// Two frames of `--watch`, 9 s apart.
    #[test]
    fn the_frames_of_a_watch() {
        let mut status = status();
        status.desired.error = None;
        status.workloads.retain(|name, _| name.as_str() == "sensor-gateway");
        let workload = status.workloads.values_mut().next().unwrap();
        (workload.error, workload.next_poll_at) = (None, Some("2026-11-30T08:00:40Z".parse().unwrap()));
        let frame = |seconds: i64, screen: &Screen| {
            let mut status = status.clone();
            let agent = status.agent.as_mut().unwrap();
            agent.uptime_s = 63.0 + f64::from(i32::try_from(seconds).unwrap());
            render(&status, None, NoAgent::Absent, now() + jiff::SignedDuration::from_secs(seconds), screen)
        };
        holds("watch", |screen| {
            let (first, second) = (frame(0, screen), frame(9, screen));
            for (before, after) in [("up 63s", "up 72s"), ("in force for 4s", "in force for 13s"), ("in 40s", "in 31s")]
            {
                let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(words(&first).contains(before) && words(&second).contains(after), "{first}\n{second}");
            }
            let mut text = first;
            let _ = write!(text, "\n{second}");
            text
        });
    }

    #[test]
    fn colours_are_on_phases_and_errors_and_take_no_room() {
        let status = status();
        let draw = |has_colour| {
            let screen = Screen { width: Some(80), has_colour, is_utf8: true };
            render(&status, None, NoAgent::Absent, now(), &screen)
        };
        let (coloured, plain) = (draw(true), draw(false));
        for part in ["\u{1b}[31m  ! desired-invalid: ", "\u{1b}[31mblocked", "\u{1b}[33mprobation", "\u{1b}[33mstaged"]
        {
            assert!(coloured.contains(part), "{part:?}\n{coloured}");
        }
        let mut stripped = coloured;
        for code in ["\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[0m"] {
            stripped = stripped.replace(code, "");
        }
        let trimmed: String = stripped.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
        assert_eq!(trimmed, plain);
    }
}

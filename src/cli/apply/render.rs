//! The changes as a person reads them.

use std::fmt::Write;
use std::time::Duration;

use super::changes::{Change, Changes, KeyChange, Known, Named};
use crate::agent::{DesiredImage, RetirementStatus};
use crate::oci::Digest;
use crate::printable::one_line;

/// Columns that a line of a change takes at most before it is broken.
const WIDTH: usize = 76;

/// Lists each workload under what becomes of it. A desired state without any says so.
pub(super) fn text(changes: &Changes) -> String {
    let mut text = String::new();
    for (name, image) in &changes.added {
        let _ = writeln!(text, "added      {name}\n    image: {}", pinned(image, None));
    }
    for (name, change) in &changes.changed {
        let _ = writeln!(text, "changed    {name}");
        changed(&mut text, change);
    }
    for (name, known) in &changes.retired {
        let _ = writeln!(text, "retired    {name}");
        running(&mut text, known);
    }
    for (name, known) in &changes.pending {
        let _ = writeln!(text, "retired    {name} (pending: {})", left(known.retirement.as_ref()));
        running(&mut text, known);
    }
    for (name, known) in &changes.unchanged {
        let _ = writeln!(text, "unchanged  {name}");
        image(&mut text, known);
    }
    if text.is_empty() { "nothing is desired, and nothing was\n".to_owned() } else { text }
}

/// The names of workloads, in a sentence.
pub(super) fn names<'a>(workloads: impl Iterator<Item = &'a Named<Known>>) -> String {
    workloads.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The time at which a workload is retired that a file no longer names, by `[desired] retire`.
pub(super) fn grace(retire: Option<Duration>) -> String {
    match retire {
        Some(Duration::ZERO) => "at once ([desired] retire = \"0s\")".to_owned(),
        Some(time) => format!("{} later ([desired] retire)", seconds(time.as_secs_f64())),
        None => "once an operator says so ([desired] retire = \"confirm\")".to_owned(),
    }
}

/// Says that retirements are pending, and how an operator ends that.
pub(super) fn pending(changes: &Changes) -> String {
    let names = names(changes.pending.iter());
    format!(
        "pending retirements go on: {names}; \"eci apply --retire\" retires at once, a file that names them keeps them\n"
    )
}

fn changed(text: &mut String, Change { known, image, keys }: &Change) {
    if let Some(before) = &known.desired {
        if before.reference == image.reference {
            let _ = writeln!(text, "    image: {}", pinned(image, before.digest));
        } else {
            arrow(text, "image", &pinned(before, before.digest), &pinned(image, None));
        }
    }
    for KeyChange { key, before, after } in keys {
        let value = |value: &Option<String>| {
            value.as_ref().map_or("none".to_owned(), |value| format!("\"{}\"", one_line(value)))
        };
        arrow(text, key, &value(before), &value(after));
    }
    if known.retirement.is_some() {
        arrow(text, "retirement", &left(known.retirement.as_ref()), "none: it stays");
    }
}

/// `KEY: BEFORE -> AFTER`, on two lines if one is too long.
fn arrow(text: &mut String, key: &str, before: &str, after: &str) {
    let line = format!("    {key}: {before} -> {after}");
    let _ = if line.chars().count() <= WIDTH {
        writeln!(text, "{line}")
    } else {
        writeln!(text, "    {key}: {before}\n        -> {after}")
    };
}

fn running(text: &mut String, known: &Known) {
    image(text, known);
    match &known.current {
        Some(current) => {
            let _ = writeln!(text, "    boots: generation {} ({})", current.generation, current.digest.short());
        }
        None if known.desired.is_none() => {
            let _ = writeln!(text, "    boots: nothing");
        }
        None => {}
    }
}

fn image(text: &mut String, known: &Known) {
    match (&known.desired, &known.current) {
        (Some(desired), _) => {
            let _ = writeln!(text, "    image: {}", pinned(desired, desired.digest));
        }
        (None, Some(current)) => {
            let _ = writeln!(text, "    image: {}", one_line(&current.reference.to_string()));
        }
        (None, None) => {}
    }
}

/// A reference, and the digest that it was found to be, unless the reference says it.
fn pinned(image: &DesiredImage, digest: Option<Digest>) -> String {
    let reference = one_line(&image.reference.to_string());
    match digest.filter(|_| image.reference.digest().is_none()) {
        Some(digest) => format!("{reference} ({})", digest.short()),
        None => reference,
    }
}

fn left(retirement: Option<&RetirementStatus>) -> String {
    match retirement.and_then(|retirement| retirement.ends_in_s) {
        Some(time) => format!("in {}", seconds(time)),
        None => "once an operator says so".to_owned(),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole units are shown")]
fn seconds(seconds: f64) -> String {
    match seconds.max(0.0) as u64 {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::parse;
    use std::collections::BTreeMap;
    use std::path::Path;

    fn shown(before: &str, after: &str) -> String {
        let read = |text: &str| parse(Path::new("desired.toml"), text).unwrap();
        let known: BTreeMap<_, _> =
            read(before).workloads.iter().map(|(name, spec)| (name.clone(), Known::from(spec))).collect();
        text(&Changes::between(&known, &read(after)))
    }

    #[test]
    fn each_change_is_shown_with_its_image_and_keys() {
        let before = "[workload.a]\nimage = \"r.example/a:1\"\n[workload.b]\nimage = \"r.example/b:1\"\ncmdline = \"x\"\n[workload.c]\nimage = \"r.example/c:1\"\n";
        let after = "[workload.b]\nimage = \"r.example/b:2\"\ndisks = \"overlay\"\n[workload.c]\nimage = \"r.example/c:1\"\n[workload.d]\nimage = \"r.example/d:1\"\n";
        assert_eq!(
            shown(before, after),
            "added      d\n    image: r.example/d:1\n\
             changed    b\n    image: r.example/b:1 -> r.example/b:2\n    disks: none -> \"overlay\"\n    cmdline: \"x\" -> none\n\
             retired    a\n    image: r.example/a:1\n\
             unchanged  c\n    image: r.example/c:1\n"
        );
        assert_eq!(shown("workloads = {}", "workloads = {}"), "nothing is desired, and nothing was\n");
    }

    #[test]
    fn a_long_change_takes_two_lines() {
        let image = |tag: char| {
            format!("image = \"registry.example.com/a/long/repository/name:{}\"\n", tag.to_string().repeat(30))
        };
        let text = shown(&image('a'), &image('b'));
        assert!(text.lines().count() == 3 && text.contains("\n        -> registry"), "{text}");
    }

    #[test]
    fn graces_are_said_in_words() {
        assert_eq!(grace(Some(Duration::from_secs(600))), "10m later ([desired] retire)");
        assert!(grace(Some(Duration::ZERO)).starts_with("at once"));
        assert!(grace(None).starts_with("once an operator says so"));
    }
}

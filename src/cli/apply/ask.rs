//! The question whether workloads may be retired.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use super::STDIN;
use super::changes::{Changes, Known, Named};
use super::render::names;
use crate::failure::Failure;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1024;

/// Asks an operator to agree to what `changes` retires. An answer of no, and no terminal to ask on, are failures:
/// nothing may be changed then.
pub(super) fn ask(changes: &Changes, file: &Path) -> Result<(), Failure> {
    let (stdin, mut stderr) = (io::stdin(), io::stderr());
    let goes = names(changes.retired.iter());
    if file == Path::new(STDIN) || !stdin.is_terminal() || !stderr.is_terminal() {
        return Err(Failure::usage(format!(
            "{} does not name {goes}, which would be retired; nothing was changed: add --retire if that is meant, or name it",
            file.display()
        )));
    }
    let answer = write!(stderr, "{}", question(&changes.retired, &changes.pending))
        .and_then(|()| stderr.flush())
        .and_then(|()| read_line(stdin.lock()));
    if answer.is_ok_and(|answer| is_yes(&answer)) {
        return Ok(());
    }
    Err(Failure::usage(format!("not applied, as {goes} would be retired; nothing was changed")))
}

/// At most [`MAX_ANSWER`] bytes of a line.
fn read_line(input: impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.take(MAX_ANSWER).read_line(&mut line)?;
    Ok(line)
}

fn question(retired: &[Named<Known>], pending: &[Named<Known>]) -> String {
    let also = match pending {
        [] => String::new(),
        _ => format!(", and {} whose retirement is pending,", names(pending.iter())),
    };
    format!(
        "Retire {}{also} now? The links are removed, and what nothing else needs is deleted. [y/N] ",
        names(retired.iter())
    )
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y\n", "Y", "yes\n", " YES \r\n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "no", "ye", "yes please", "1"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }

    #[test]
    fn the_question_names_every_workload_that_goes() {
        let known = |name: &str| (name.parse().unwrap(), Known { desired: None, current: None, retirement: None });
        let text = question(&[known("a"), known("b")], &[known("c")]);
        assert!(text.starts_with("Retire a, b, and c whose retirement is pending, now?"), "{text}");
        assert!(question(&[known("a")], &[]).starts_with("Retire a now?"));
    }

    #[test]
    fn an_endless_answer_is_cut() {
        assert_eq!(read_line(&[b'y'; 5000][..]).unwrap().len() as u64, MAX_ANSWER);
    }
}

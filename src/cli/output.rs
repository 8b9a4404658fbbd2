//! Writing to stdout.

use std::io::{self, Write};

use crate::failure::{Failure, Kind, Retry};

/// Writes text for whoever reads stdout. A reader that has gone, as `head` does, is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure { kind: Kind::Io, message: format!("cannot write to stdout: {error}"), retry: Retry::Later })
        }
        _ => Ok(()),
    }
}

/// Writes a JSON document and a line break.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::internal(error.to_string()))?;
    print(&format!("{text}\n"))
}

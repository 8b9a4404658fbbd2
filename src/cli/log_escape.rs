//! Log lines as they are written: fields hold text from elsewhere, and of system errors.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use crate::printable::escaped;
use crate::wording::without_error_numbers;

/// Writers of log lines in which what a terminal does not show is escaped, and numbers of system errors are left out.
pub(super) struct Escaping<M>(pub(super) M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Escaping<M> {
    type Writer = EscapingWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapingWriter(self.0.make_writer())
    }
}

/// One writer of [`Escaping`].
pub(super) struct EscapingWriter<W>(W);

impl<W: Write> Write for EscapingWriter<W> {
    /// Writes a whole line, which the formatter passes in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(escaped(&without_error_numbers(&text)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_escaped_and_have_no_error_numbers() {
        let mut written = Vec::new();
        let line = "WARN cannot list error=Permission denied (os error 13) of=\u{202e}x (7)\n";
        assert_eq!(EscapingWriter(&mut written).write(line.as_bytes()).unwrap(), line.len());
        assert_eq!(String::from_utf8(written).unwrap(), "WARN cannot list error=Permission denied of=\\u202ex (7)\n");
    }
}

//! Escapes of log lines: fields hold text from elsewhere.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use crate::printable::escaped;

/// Writers of log lines in which what a terminal does not show is escaped: fields hold text from elsewhere.
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
        self.0.write_all(escaped(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

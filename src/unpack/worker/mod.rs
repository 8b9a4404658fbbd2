//! Workers for untrusted bytes: decompression, reading of tars and of disk headers in a child process that can open
//! nothing, connect to nothing, start nothing, and use bounded memory.
//!
//! A worker is this program once more (`/proc/self/exe`, which an upgrade that replaces the file does not change). It
//! is given the layer or disk as its standard input, opened for reading, and a socket to the agent as its standard
//! output. Over the socket come the request and grants of memory, and go [`frames`]: pieces of wanted files, and an
//! outcome. The agent hashes, names and stores; it takes nothing in a frame for true. The worst that bytes can do which
//! take over a worker is to spoil what comes out of them.
//!
//! A program that uses this library calls [`work_if_asked`] first in its `main`. Without that, nothing is unpacked.

mod channel;
mod confine;
mod disk;
mod entry;
mod error;
mod extraction;
mod frames;
mod process;
mod program;
mod request;
mod serve;

#[cfg(test)]
pub(super) use self::channel::Channel;
pub use self::entry::work_if_asked;
pub use self::error::{End, WorkerError};
pub(super) use self::extraction::{Found, MAX_FILES};
pub(super) use self::frames::Frame;
pub(super) use self::process::{Process, ReadError};
pub use self::program::Worker;
pub(super) use self::request::{Outcome, RefusedDisk, Request};

//! The worker itself.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use super::channel::Channel;
use super::confine::confine;
use super::disk::read_disk;
use super::extraction::{Extraction, ExtractionError};
use super::frames::Frame;
use super::request::{Outcome, Request};

/// First argument of a worker. The second is the memory of decompression, in bytes.
pub(super) const ARGUMENT: &str = "unpack-worker";

/// Works, confined, on the standard input.
pub(super) fn work(memory: u64) -> io::Result<()> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let confined = confine(input.as_fd(), output.as_fd(), memory);
    let channel = Channel::new(File::from(output));
    match confined {
        Ok(address_space) => {
            channel.send(&Frame::Ready(address_space))?;
            answer(File::from(input), channel)
        }
        Err(error) => {
            channel.send(&Frame::Unconfined(error.to_string().as_bytes()))?;
            Err(io::Error::other(error))
        }
    }
}

/// Does what is requested with `file`.
pub(super) fn answer(file: File, channel: Channel) -> io::Result<()> {
    let request: Request = serde_json::from_slice(&channel.request()?)?;
    let channel = Rc::new(channel);
    let outcome = match request {
        Request::Disk => read_disk(&file),
        Request::Layer { media_type, wants, limits } => {
            match Extraction::new(file, &media_type, &wants, limits, Rc::clone(&channel)).run() {
                Ok(found) => Ok(Outcome::Found(found)),
                Err(ExtractionError::Fault(fault)) => Ok(Outcome::Fault(fault)),
                Err(ExtractionError::Io(error)) => Err(error),
            }
        }
    };
    let outcome = outcome.or_else(|error| error.raw_os_error().map(Outcome::Unreadable).ok_or(error))?;
    channel.send(&Frame::Outcome(&serde_json::to_vec(&outcome)?))
}

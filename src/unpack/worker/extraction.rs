//! Taking what is wanted out of one layer, in a worker. Contents go to the agent, which alone knows their digests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::rc::Rc;

use super::super::file_ref::FileRef;
use super::super::host::SharedHost;
use super::super::packing::{self, Bytes, Packing};
use super::super::path_state::PathState;
use super::super::refusal::is_refusal;
use super::super::walk::{Entry, EntryKind, Walk};
use super::super::{Fault, Finding, Limits, Want};
use super::channel::{Channel, Outgoing};
use crate::eci::ImagePath;

/// Most wanted files of a layer that are begun. A path may be in a layer several times; more often is an attack.
pub(in super::super) const MAX_FILES: u32 = 100_000;

/// Findings, each with the place of what was wanted.
pub(in super::super) type Found = Vec<(usize, Finding<FileRef>)>;

/// Failures of an extraction.
#[derive(Debug)]
pub(super) enum ExtractionError {
    /// The layer is at fault.
    Fault(Fault),
    /// The layer's file cannot be read, or the agent has gone.
    Io(io::Error),
}

/// A layer, and what is wanted of it.
pub(super) struct Extraction<'a> {
    pub(super) file: Rc<File>,
    pub(super) media_type: &'a str,
    pub(super) wants: &'a [Want],
    pub(super) limits: Limits,
    pub(super) channel: Rc<Channel>,
    /// Bytes that all its entries may have together: each wanted file as much as a file may, and the rest as much
    /// again. Passing over a byte costs as much as keeping it.
    allowance: u64,
    /// Files that were begun. The last one's number.
    begun: u32,
}

type Result<T, E = ExtractionError> = std::result::Result<T, E>;

impl<'a> Extraction<'a> {
    pub(super) fn new(
        file: File,
        media_type: &'a str,
        wants: &'a [Want],
        limits: Limits,
        channel: Rc<Channel>,
    ) -> Self {
        let allowance = limits.max_file_bytes.saturating_mul(wants.len() as u64 + 1);
        Self { file: Rc::new(file), media_type, wants, limits, channel, allowance, begun: 0 }
    }

    /// Finds what is wanted.
    pub(super) fn run(mut self) -> Result<Found> {
        let paths: Vec<&ImagePath> =
            self.wants.iter().filter_map(|want| if let Want::Path(path) = want { Some(path) } else { None }).collect();
        let each = |file| (0..self.wants.len()).map(|place| (place, Finding::File(file))).collect();
        match self.packing()? {
            Packing::Plain(Some(refusal)) if !paths.is_empty() => Err(failed(refusal)),
            Packing::Plain(_) | Packing::File(_) if !paths.is_empty() => {
                Err(refused("it is no archive, and a path in it is wanted".to_owned()))
            }
            Packing::Plain(_) => Ok(each(FileRef::Layer)),
            Packing::File(mut bytes) => Ok(each(self.whole(&mut bytes)?)),
            Packing::Archive { bytes, is_compressed } if paths.is_empty() => {
                let only = self.only_file(bytes)?;
                let mut found = Vec::new();
                for (place, want) in self.wants.iter().enumerate() {
                    let file = match (only, want) {
                        (Some(file), _) => file,
                        (None, Want::OnlyOrArchive) if is_compressed => {
                            let mut bytes = self.archive()?;
                            self.whole(&mut bytes)?
                        }
                        (None, Want::OnlyOrArchive) => FileRef::Layer,
                        (None, _) => return Err(refused("it holds not one file but several, or none".to_owned())),
                    };
                    found.push((place, Finding::File(file)));
                }
                Ok(found)
            }
            Packing::Archive { bytes, .. } => {
                let by_path = self.paths(bytes, &paths)?;
                let place = |path: &ImagePath| {
                    self.wants.iter().position(|want| matches!(want, Want::Path(wanted) if wanted == path))
                };
                Ok(by_path.into_iter().filter_map(|(path, finding)| Some((place(&path)?, finding))).collect())
            }
        }
    }

    fn packing(&self) -> Result<Packing> {
        let host: SharedHost = Rc::clone(&self.channel) as SharedHost;
        Packing::of(self.media_type, Rc::clone(&self.file), self.limits, &host).map_err(failed)
    }

    /// The archive once more, from its beginning.
    fn archive(&self) -> Result<Bytes> {
        match self.packing()? {
            Packing::Archive { bytes, .. } => Ok(bytes),
            _ => Err(refused("it changed while it was read".to_owned())),
        }
    }

    /// The one regular file of an archive, whatever its name; none where there are several, or none.
    fn only_file(&mut self, bytes: Bytes) -> Result<Option<FileRef>> {
        let mut walk = Walk::new(bytes);
        let (mut count, mut first, mut sparse) = (0_u64, None, None);
        while let Some(entry) = self.entry(&mut walk)? {
            if entry.kind == EntryKind::File {
                count += 1;
                // The first is on its way before it is known to be the only one: to read all twice would cost more.
                let is_first = count == 1 && !entry.is_sparse;
                self.discard(first.take())?;
                first = if is_first { Some(self.send(|piece| walk.fill(piece))?) } else { None };
                sparse = entry.is_sparse.then_some(entry.path);
            }
        }
        walk.finish().map_err(failed)?;
        if let Some(path) = sparse.filter(|_| count == 1) {
            return Err(is_sparse(&path));
        }
        Ok(first)
    }

    /// Findings of the archive for each path. The last entry of a name counts, as when it is unpacked.
    fn paths(&mut self, bytes: Bytes, wanted: &[&ImagePath]) -> Result<BTreeMap<ImagePath, Finding<FileRef>>> {
        let mut states: BTreeMap<ImagePath, PathState> =
            wanted.iter().map(|path| ((*path).clone(), PathState::default())).collect();
        let mut files: BTreeMap<ImagePath, FileRef> = BTreeMap::new();
        let mut linked: BTreeMap<ImagePath, ImagePath> = BTreeMap::new();
        let mut walk = Walk::new(bytes);
        while let Some(entry) = self.entry(&mut walk)? {
            let Some(path) = entry_path(&entry)? else { continue };
            linked.remove(&path);
            // A later entry of the same name is another file than the one that the link is a name of.
            if let Some((link, _)) = linked.iter().find(|(_, target)| **target == path) {
                return Err(refused(format!("{link} is wanted, and is a hard link to {path}, which comes after it")));
            }
            if let Some(state) = states.get_mut(&path) {
                self.discard(files.remove(&path))?;
                state.set_own(match entry.kind {
                    EntryKind::File if entry.is_sparse => return Err(is_sparse(path.as_str())),
                    EntryKind::File => {
                        let file = self.send(|piece| walk.fill(piece))?;
                        files.insert(path.clone(), file);
                        Finding::File(file)
                    }
                    EntryKind::Symlink => Finding::Symlink { at: path.clone(), to: entry.link.clone() },
                    EntryKind::HardLink => {
                        let target = hard_link(&path, &entry.link)?;
                        linked.insert(path.clone(), target.clone());
                        Finding::HardLink(target)
                    }
                    EntryKind::Directory | EntryKind::Other => {
                        return Err(refused(format!("{path} is wanted, and is neither a regular file nor a link")));
                    }
                });
            }
            for (wanted, state) in states.iter_mut().filter(|(wanted, _)| **wanted != path) {
                state.see(&entry, &path, wanted);
            }
        }
        walk.finish().map_err(failed)?;
        Ok(states.into_iter().map(|(path, state)| (path, state.finding())).collect())
    }

    /// Sends all of the bytes, as one file.
    fn whole(&mut self, bytes: &mut Bytes) -> Result<FileRef> {
        self.send(|piece| packing::fill(bytes, piece))
    }

    /// Sends a file. `fill` reads its next piece, and fills it but at the file's end.
    fn send(&mut self, mut fill: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Result<FileRef> {
        let mut left = self.limits.max_file_bytes;
        self.begun += 1;
        if self.begun > MAX_FILES {
            return Err(refused(format!("a path that is wanted is in it more than {MAX_FILES} times")));
        }
        let mut outgoing = Outgoing::begin(&self.channel, self.begun).map_err(ExtractionError::Io)?;
        loop {
            let filled = fill(outgoing.piece()).map_err(failed)?;
            left = left
                .checked_sub(filled as u64)
                .ok_or_else(|| too_large("what is in it".to_owned(), self.limits.max_file_bytes))?;
            outgoing.send(filled).map_err(ExtractionError::Io)?;
            if filled < Outgoing::PIECE {
                break;
            }
        }
        outgoing.flush().map_err(ExtractionError::Io)?;
        Ok(FileRef::Sent(self.begun))
    }

    fn discard(&self, file: Option<FileRef>) -> Result<()> {
        let Some(FileRef::Sent(number)) = file else { return Ok(()) };
        self.channel.discard(number).map_err(ExtractionError::Io)
    }

    /// The next entry. None is larger than a file may be, wanted or not.
    fn entry(&self, walk: &mut Walk) -> Result<Option<Entry>> {
        let entry = walk.next().map_err(failed)?;
        if let Some(large) = entry.as_ref().filter(|entry| entry.size > self.limits.max_file_bytes) {
            return Err(too_large(large.path.chars().take(100).collect(), self.limits.max_file_bytes));
        }
        if walk.total() > self.allowance {
            return Err(too_large("what is in it".to_owned(), self.allowance));
        }
        Ok(entry)
    }
}

/// The path that a hard link at `path` leads to: it counts from the image's root.
fn hard_link(path: &ImagePath, target: &str) -> Result<ImagePath> {
    target.parse().map_err(|_| {
        let target: String = target.chars().take(100).collect();
        refused(format!("{path} is wanted, and is a hard link to {target:?}, which is not a path in the image"))
    })
}

/// The entry's path, relative to the image's root however it is written; none for the root itself.
fn entry_path(entry: &Entry) -> Result<Option<ImagePath>> {
    let text = entry.path.trim_end_matches('/');
    if matches!(text, "" | ".") {
        return Ok(None);
    }
    if text.split('/').any(|part| part == "..") {
        return Err(refused(format!(
            "an entry leads out of the image: {:?}",
            text.chars().take(100).collect::<String>()
        )));
    }
    // A name that is too odd for a path of ours is none that is wanted.
    Ok(text.parse().ok())
}

/// The failure that an error of a reader is: of the disk if the operating system says so, of the layer else.
fn failed(error: io::Error) -> ExtractionError {
    if error.raw_os_error().is_some() {
        return ExtractionError::Io(error);
    }
    if is_refusal(&error) {
        return refused(error.to_string());
    }
    ExtractionError::Fault(Fault::Damaged(error.to_string()))
}

fn is_sparse(path: &str) -> ExtractionError {
    let path: String = path.chars().take(100).collect();
    refused(format!("{path} is wanted, and is stored as a sparse file; pack it without tar's --sparse"))
}

fn too_large(what: String, limit: u64) -> ExtractionError {
    ExtractionError::Fault(Fault::TooLarge { what, limit })
}

fn refused(reason: String) -> ExtractionError {
    ExtractionError::Fault(Fault::Refused(reason))
}

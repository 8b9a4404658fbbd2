//! Carrying a collection out.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::decide::{self, Fates, Found, Place, Survey};
use super::{Aim, Keep, Kept, Reason, Removed, Report, Wanted, reach, weigh};
use crate::cache::Cache;
use crate::deploy::{Generations, Links};
use crate::durable::DurableError;
use crate::oci::Digest;
use crate::unpack::Record;

/// Collects in one state directory. Cheap to clone; clones take turns.
#[derive(Clone, Debug)]
pub struct Collector {
    cache: Cache,
    generations: Generations,
    links: Links,
    wanted: Wanted,
    keep: Arc<AtomicU32>,
    turn: Arc<Mutex<()>>,
}

impl Collector {
    /// For the cache, the generations and the links of one state directory, and those who want something of it. Of each
    /// workload `keep` generations stay beside `current`.
    pub fn new(cache: Cache, generations: Generations, links: Links, wanted: Wanted, keep: u32) -> Self {
        Self { cache, generations, links, wanted, keep: Arc::new(keep.into()), turn: Arc::default() }
    }

    /// Keeps so many from now on.
    pub fn set_keep(&self, keep: u32) {
        self.keep.store(keep, Relaxed);
    }

    /// What workloads want.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The blobs of generations that the cache lacks a file of, as far as that can be told now: a repair takes up what it
    /// has begun to fetch of them.
    pub fn in_repair(&self) -> BTreeSet<Digest> {
        let is_there = |digest: &Digest| self.cache.path(digest).exists();
        let blobs = |(workload, number)| {
            let launch = self.generations.launch(&workload, number)?;
            let is_whole = launch.files.iter().map(|file| &file.digest).chain([&launch.digest]).all(is_there);
            let dir = self.generations.dir(&workload, number);
            (!is_whole).then(|| reach::of_generation(&self.cache, &dir, Some(&launch)))
        };
        self.generations.all().unwrap_or_default().into_iter().filter_map(blobs).flatten().collect()
    }

    /// What a collection would do.
    pub fn look(&self, aim: Aim) -> Result<Report, DurableError> {
        let survey = self.survey()?;
        let fates = decide::generations(&survey, self.keep.load(Relaxed), aim);
        let blobs = decide::blobs(&survey, &fates, aim);
        Ok(report(&survey, &fates, &blobs, true))
    }

    /// Removes what is to go. In this order, so that it may be interrupted anywhere: a generation is gone by name before a
    /// file of it is removed, and an image is off the index before a blob of it is.
    pub fn collect(&self, aim: Aim) -> Result<Report, DurableError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.generations.sweep_retired()?;
        let survey = self.survey()?;
        let mut fates = decide::generations(&survey, self.keep.load(Relaxed), aim);
        for (found, fate) in survey.generations.iter().zip(&mut fates) {
            if fate.is_err()
                && let Some(why) = self.retire(found)?
            {
                *fate = Ok(why);
            }
        }
        self.generations.sweep_retired()?;
        self.forget_retired()?;
        let doomed: BTreeSet<Digest> = decide::blobs(&survey, &fates, aim).into_iter().collect();
        self.cache.untag(|digest| !doomed.contains(digest))?;
        let kept = decide::reachable(&survey, &fates);
        Record::sweep(&self.cache, |layer| survey.is_unsure || kept.contains(layer))?;
        let mut gone = Vec::with_capacity(doomed.len());
        for digest in doomed {
            if self.cache.remove_unused(&digest)? {
                gone.push(digest);
            }
        }
        self.generations.update_leases()?;
        Ok(report(&survey, &fates, &gone, false))
    }

    /// Takes a generation's name away, unless that is not right any more; then it says why not.
    fn retire(&self, found: &Found) -> Result<Option<Keep>, DurableError> {
        // Nothing new is wanted while this is held, so no generation is about to be made or linked that was not known.
        let wanted = self.wanted.lock();
        let current = self.links.current(&found.workload)?;
        let previous = self.links.previous(&found.workload)?;
        let is_damaged = found.place == Place::Damaged;
        let is_newer = current.is_none_or(|current| found.number > current);
        let standing = wanted.workloads.get(&found.workload);
        if standing.is_some_and(|standing| standing.awaits(found.number)) && !is_damaged {
            return Ok(Some(Keep::Newer));
        }
        if current == Some(found.number) {
            return Ok(Some(Keep::Current));
        }
        if standing.is_none() || is_newer {
            self.generations.note_gone(found.number)?;
        }
        if previous == Some(found.number) {
            let is_needed = self.keep.load(Relaxed) > 0 || standing.is_some_and(|standing| standing.needs_previous);
            if is_needed && !is_damaged {
                return Ok(Some(Keep::Previous));
            }
            self.links.forget_previous(&found.workload)?;
        }
        // A collection that the disk ended half way may have left the links at the top behind the others.
        self.links.mirror(&found.workload)?;
        Ok((!self.generations.retire(&found.workload, found.number)?).then_some(Keep::InUse))
    }

    /// Removes the directories of workloads that there are no more, once nothing is in them.
    fn forget_retired(&self) -> Result<(), DurableError> {
        // Nothing new is wanted while this is held, so no generation is about to be made there.
        let wanted = self.wanted.lock();
        let retired = self.generations.workloads()?.into_iter().filter(|name| !wanted.workloads.contains_key(name));
        retired.into_iter().try_for_each(|name| self.generations.forget(&name))
    }

    fn survey(&self) -> Result<Survey, DurableError> {
        let wants = self.wanted.lock().clone();
        let mut survey = Survey { is_unsure: wants.is_unsure, ..Survey::default() };
        survey.wanted = reach::of_images(&self.cache, &wants.manifests, &wants.indexes);
        // Blobs first: what comes after it is not in danger.
        survey.blobs = self.cache.blobs()?.into_iter().map(|(digest, bytes, _)| (digest, bytes)).collect();
        // Whether copies share their bytes is found out where there are any.
        let mut is_sharing = None;
        for (workload, number) in self.generations.all()? {
            let (current, previous) = (self.links.current(&workload)?, self.links.previous(&workload)?);
            let launch = self.generations.described(&workload, number)?;
            let place = if current == Some(number) {
                Place::Current
            } else if self.generations.is_in_use(&workload, number) {
                Place::InUse
            } else if launch.is_none() {
                Place::Damaged
            } else {
                match wants.workloads.get(&workload) {
                    None if previous != Some(number) => Place::Retired,
                    Some(standing) if standing.awaits(number) => Place::Newer,
                    Some(standing) if previous == Some(number) && standing.needs_previous => Place::Needed,
                    _ if previous == Some(number) => Place::Previous,
                    _ => Place::Older,
                }
            };
            let dir = self.generations.dir(&workload, number);
            let blobs = reach::of_generation(&self.cache, &dir, launch.as_ref());
            let made_at = self.generations.made_at(&workload, number);
            let shared = |blob: &Digest| {
                let Some(bytes) = survey.blobs.get(blob) else { return 0 };
                let tried = || self.generations.shares_copies(&self.cache, &workload, blob).unwrap_or(true);
                if *is_sharing.get_or_insert_with(tried) { *bytes } else { 0 }
            };
            let files = weigh::of_generation(&dir, launch.as_ref(), shared);
            survey.files.extend(files.iter().copied());
            let files = files.into_iter().map(|(id, _)| id).collect();
            survey.generations.push(Found { workload, number, place, made_at, blobs, files });
        }
        Ok(survey)
    }
}

fn report(survey: &Survey, fates: &Fates, blobs: &[Digest], dry_run: bool) -> Report {
    let mut report = Report { dry_run, ..Report::default() };
    for ((found, fate), bytes) in survey.generations.iter().zip(fates).zip(decide::own(survey, fates)) {
        let (workload, generation) = (found.workload.clone(), found.number);
        report.freed_bytes += bytes;
        match *fate {
            Ok(why) => report.kept.push(Kept { workload, generation, why }),
            Err(why) => report.removed.push(Removed::Generation { workload, generation, bytes, why }),
        }
    }
    for digest in blobs {
        let bytes = survey.blobs.get(digest).copied().unwrap_or_default();
        report.freed_bytes += bytes;
        report.removed.push(Removed::Blob { digest: *digest, bytes, why: Reason::Unreferenced });
    }
    report
}

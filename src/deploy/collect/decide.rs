//! What is to go, and why. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::weigh::{File, FileId};
use crate::desired::WorkloadName;
use crate::oci::Digest;

/// What is on disk, and who wants it.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    pub(super) generations: Vec<Found>,
    /// What each blob takes on disk, in bytes.
    pub(super) blobs: BTreeMap<Digest, u64>,
    /// The files of generations.
    pub(super) files: BTreeMap<FileId, File>,
    /// What workloads want beside what they have.
    pub(super) wanted: BTreeSet<Digest>,
    /// Whether some workload's want is not known.
    pub(super) is_unsure: bool,
}

/// A generation on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) workload: WorkloadName,
    pub(super) number: u64,
    pub(super) place: Place,
    pub(super) made_at: SystemTime,
    /// All blobs that it leads to.
    pub(super) blobs: BTreeSet<Digest>,
    /// Its files, one for each name.
    pub(super) files: Vec<FileId>,
}

/// How a generation stands to its workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Current,
    Previous,
    /// The same, and `current` is not confirmed yet.
    Needed,
    /// A link may come to point at it.
    Newer,
    /// Somebody boots from it.
    InUse,
    Older,
    /// Nobody knows what it is to have.
    Damaged,
    /// There is no such workload any more.
    Retired,
}

/// How thorough a collection is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Only what nothing leads to.
    Tidy,
    /// Beside it, of what `[cache] keep` would keep, oldest first, as much as frees so many bytes.
    Free(u64),
}

/// Why a generation stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The link `current` points at it.
    Current,
    /// The link `previous` points at it.
    Previous,
    /// It is newer than what runs: just being made, or waiting to become `current`.
    Newer,
    /// Somebody has a lock on it.
    InUse,
    /// It is one of those that `[cache] keep` is for.
    Kept,
}

/// Why something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Its workload is no longer desired.
    Retired,
    /// There are `[cache] keep` later ones beside `current`.
    Superseded,
    /// It is damaged, and nobody knows what it is to have.
    Damaged,
    /// It would be kept, but the room is needed.
    RoomNeeded,
    /// No generation has it, and nothing that is desired wants it.
    Unreferenced,
}

/// What is to become of each generation, in the order of the survey.
pub(super) type Fates = Vec<Result<Keep, Reason>>;

/// Decides on generations. `keep` of each workload stay beside `current`, `previous` first among them.
pub(super) fn generations(survey: &Survey, keep: u32, aim: Aim) -> Fates {
    let mut fates: Fates = survey.generations.iter().map(|found| fate(survey, found, keep)).collect();
    if let Aim::Free(bytes) = aim {
        give_way(survey, &mut fates, bytes);
    }
    fates
}

fn fate(survey: &Survey, found: &Found, keep: u32) -> Result<Keep, Reason> {
    match found.place {
        Place::Current => Ok(Keep::Current),
        Place::Newer => Ok(Keep::Newer),
        Place::Needed => Ok(Keep::Previous),
        Place::InUse => Ok(Keep::InUse),
        Place::Damaged => Err(Reason::Damaged),
        Place::Retired => Err(Reason::Retired),
        Place::Previous if keep > 0 => Ok(Keep::Previous),
        Place::Previous => Err(Reason::Superseded),
        Place::Older => {
            let is_before = |other: &&Found| {
                other.workload == found.workload
                    && match other.place {
                        Place::Previous | Place::Needed => true,
                        Place::Older => other.number > found.number,
                        _ => false,
                    }
            };
            let before = survey.generations.iter().filter(is_before).count();
            if u32::try_from(before).is_ok_and(|before| before < keep) {
                Ok(Keep::Kept)
            } else {
                Err(Reason::Superseded)
            }
        }
    }
}

/// Has kept generations go as well, oldest first, until that frees so many bytes.
fn give_way(survey: &Survey, fates: &mut Fates, bytes: u64) {
    let mut by_age: Vec<usize> = (0..survey.generations.len()).collect();
    by_age.sort_by_key(|n| survey.generations.get(*n).map(|found| (found.made_at, found.number)));
    for n in by_age {
        if freed(survey, fates) >= bytes {
            return;
        }
        if let Some(fate) = fates.get_mut(n).filter(|fate| **fate == Ok(Keep::Kept)) {
            *fate = Err(Reason::RoomNeeded);
        }
    }
}

/// What it frees to have the generations go that are to: the blobs that nothing else leads to, and files of their own, in
/// bytes.
fn freed(survey: &Survey, fates: &Fates) -> u64 {
    let kept = reachable(survey, fates);
    let blobs: u64 = survey.blobs.iter().filter(|(digest, _)| !kept.contains(*digest)).map(|(_, bytes)| bytes).sum();
    blobs + own(survey, fates).iter().sum::<u64>()
}

/// What it frees beside blobs that each generation goes, in bytes, in the order of the survey. A file that has several names,
/// as an overlay that went over to the next generation, is freed with the last of them; one that the cache has is its blob.
pub(super) fn own(survey: &Survey, fates: &Fates) -> Vec<u64> {
    let mut names: BTreeMap<&FileId, u64> = BTreeMap::new();
    let mut frees = |id| {
        let gone = names.entry(id).or_default();
        *gone += 1;
        survey.files.get(id).filter(|file| file.names == *gone).map_or(0, |file| file.bytes)
    };
    let goes = survey.generations.iter().zip(fates);
    goes.map(|(found, fate)| if fate.is_ok() { 0 } else { found.files.iter().map(&mut frees).sum() }).collect()
}

/// The blobs that something leads to.
pub(super) fn reachable<'a>(survey: &'a Survey, fates: &Fates) -> BTreeSet<&'a Digest> {
    let kept = survey.generations.iter().zip(fates).filter(|(_, fate)| fate.is_ok());
    survey.wanted.iter().chain(kept.flat_map(|(found, _)| &found.blobs)).collect()
}

/// The blobs that are to go beside `fates`. Where it is not known what some workload wants, those stay that it may want,
/// unless the room is needed.
pub(super) fn blobs(survey: &Survey, fates: &Fates, aim: Aim) -> Vec<Digest> {
    let kept = reachable(survey, fates);
    let of_generations: BTreeSet<_> = survey.generations.iter().flat_map(|found| &found.blobs).collect();
    let is_certain = |digest: &Digest| !survey.is_unsure || aim != Aim::Tidy || of_generations.contains(digest);
    survey.blobs.keys().filter(|digest| !kept.contains(digest) && is_certain(digest)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn found(workload: &str, number: u64, place: Place, blobs: &[u8]) -> Found {
        Found {
            workload: workload.parse().unwrap(),
            number,
            place,
            made_at: SystemTime::UNIX_EPOCH + Duration::from_secs(number),
            blobs: blobs.iter().map(|blob| Digest::of(&[*blob])).collect(),
            files: Vec::new(),
        }
    }

    fn survey(generations: Vec<Found>) -> Survey {
        let blobs = (0..=9).map(|blob| (Digest::of(&[blob]), 100)).collect();
        Survey { generations, blobs, ..Survey::default() }
    }

    fn chain() -> Survey {
        survey(vec![
            found("a", 1, Place::Older, &[0, 1]),
            found("a", 2, Place::Older, &[0, 2]),
            found("a", 3, Place::Previous, &[0, 3]),
            found("a", 4, Place::Current, &[0, 4]),
            found("a", 5, Place::Newer, &[5]),
        ])
    }

    #[test]
    fn previous_is_the_first_to_be_kept() {
        let went = |keep| {
            let fates = generations(&chain(), keep, Aim::Tidy);
            fates.iter().filter(|fate| fate.is_err()).count()
        };
        assert_eq!([0, 1, 2, 3, 4].map(went), [3, 2, 1, 0, 0]);
        assert_eq!(generations(&chain(), 2, Aim::Tidy)[0], Err(Reason::Superseded), "the oldest goes");
    }

    #[test]
    fn no_more_gives_way_than_is_needed_and_never_what_boots_or_the_way_back() {
        let survey = chain();
        let went = |bytes| {
            let fates = generations(&survey, 9, Aim::Free(bytes));
            fates.iter().filter(|fate| **fate == Err(Reason::RoomNeeded)).count()
        };
        // Blobs 6 to 9 belong to nobody.
        assert_eq!([0, 400, 401, 500, 501, 600, 601, 9999].map(went), [0, 0, 1, 1, 2, 2, 2, 2]);
        assert_eq!(generations(&survey, 9, Aim::Free(401))[0], Err(Reason::RoomNeeded), "the oldest first");
    }

    #[test]
    fn what_a_generation_has_for_itself_is_freed_with_the_last_of_its_names() {
        let mut survey = chain();
        // A private copy each; an overlay that went over from 1 to 2, and one from 2 to 3; a file that the cache has.
        let files = [((0, 1), 1, 1000), ((0, 2), 1, 2000), ((0, 12), 2, 300), ((0, 23), 2, 400), ((0, 9), 2, 50)];
        survey.files = files.into_iter().map(|(id, names, bytes)| (id, File { names, bytes })).collect();
        survey.generations[0].files = vec![(0, 1), (0, 12), (0, 9)];
        survey.generations[1].files = vec![(0, 2), (0, 12), (0, 23)];
        survey.generations[2].files = vec![(0, 23)];
        let fates = |keep, aim| generations(&survey, keep, aim);
        assert_eq!(own(&survey, &fates(2, Aim::Tidy)), [1000, 0, 0, 0, 0]);
        assert_eq!(own(&survey, &fates(1, Aim::Tidy)), [1000, 2300, 0, 0, 0]);
        assert_eq!(own(&survey, &fates(0, Aim::Tidy)), [1000, 2300, 400, 0, 0]);
        let went = |bytes| fates(9, Aim::Free(bytes)).iter().filter(|fate| fate.is_err()).count();
        // Four blobs of 100 that belong to nobody; with the first generation go its blob and its copy.
        assert_eq!([400, 401, 1500, 1501, 3900, 9999].map(went), [0, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn what_may_be_wanted_goes_only_where_the_room_is_needed() {
        let mut survey = chain();
        survey.is_unsure = true;
        let gone = |aim| blobs(&survey, &generations(&survey, 1, aim), aim);
        // Of the generations that go, it is certain.
        assert_eq!(gone(Aim::Tidy).len(), 2);
        assert_eq!(gone(Aim::Free(1)).len(), 6);
    }

    fn places() -> impl Strategy<Value = Place> {
        prop::sample::select(vec![
            Place::Current,
            Place::Previous,
            Place::Needed,
            Place::Newer,
            Place::InUse,
            Place::Older,
            Place::Damaged,
            Place::Retired,
        ])
    }

    proptest! {
        #[test]
        fn nothing_that_stays_loses_a_blob(
            all in proptest::collection::vec((prop::sample::select(vec!["a", "b"]), places(), proptest::collection::vec(0..9_u8, 0..4)), 0..9),
            wanted in proptest::collection::btree_set(0..9_u8, 0..3),
            keep in 0..4_u32,
            bytes in prop::option::of(0..1200_u64),
            is_unsure in any::<bool>(),
        ) {
            let all = all.iter().enumerate().map(|(n, (workload, place, blobs))| found(workload, n as u64, *place, blobs));
            let mut survey = survey(all.collect());
            survey.wanted = wanted.iter().map(|blob| Digest::of(&[*blob])).collect();
            survey.is_unsure = is_unsure;
            let aim = bytes.map_or(Aim::Tidy, Aim::Free);
            let fates = generations(&survey, keep, aim);
            let gone: BTreeSet<_> = blobs(&survey, &fates, aim).into_iter().collect();
            for (found, fate) in survey.generations.iter().zip(&fates) {
                let is_safe = matches!(found.place, Place::Current | Place::Needed | Place::Newer | Place::InUse)
                    || (found.place == Place::Previous && keep > 0);
                prop_assert!(!is_safe || fate.is_ok());
                prop_assert!(fate.is_err() || found.blobs.is_disjoint(&gone));
            }
            prop_assert!(survey.wanted.is_disjoint(&gone));
        }
    }
}

//! Bringing back what is broken, and no more: from another place on the disk where that is right, else from the network.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::inventory::linked;
use super::{Checked, Damage, Fault, Outcome, Part, Report};
use crate::blocking;
use crate::deploy::disk;
use crate::deploy::generation::{CONFIG_FILE, MANIFEST_FILE};
use crate::deploy::launch::LAUNCH_FILE;
use crate::deploy::{Admission, Generations, Launch, Lease, Links};
use crate::desired::WorkloadName;
use crate::durable::{DurableError, set_aside, share_over, swap_link};
use crate::eci::File;
use crate::failure::Failure;
use crate::oci::{Descriptor, Digest};
use crate::registry::Registries;
use crate::transfer::{Fetcher, Plan, Progress, Target, Unpacking, clear_damaged, resolve_at};

/// What a repair works with.
#[derive(Clone, Debug)]
pub struct Mender {
    /// The way to what was lost.
    pub registries: Arc<Registries>,
    /// What fetches it.
    pub fetcher: Fetcher,
    /// How it is taken out of layers.
    pub unpacking: Unpacking,
    /// Who sees to it that there is room.
    pub admission: Admission,
    /// The generations.
    pub generations: Generations,
    /// The links.
    pub links: Links,
}

/// A generation with something broken in it.
struct Broken {
    launch: Launch,
    /// What was found out about the image by the way.
    target: Option<Target>,
    /// Why its bytes could not be had.
    error: Option<String>,
    _lease: Lease,
}

type Name = (WorkloadName, u64);

impl Mender {
    /// Repairs what can be repaired, and says in the report what became of each part. What a damaged blob was to be is
    /// never used again before it is right.
    pub async fn mend(&self, checked: Checked) -> Report {
        let Checked { mut report, sound } = checked;
        let (mender, damaged) = (self.clone(), report.clone());
        // What it fetches is not collected before it has its place.
        let _work = self.fetcher.cache().begin_work();
        let cleared = blocking::run(move || (mender.clear_blobs(&damaged, &sound), mender.broken(&damaged)));
        let (in_the_way, mut broken) = cleared.await;
        for generation in broken.values_mut() {
            if let Err(failure) = self.fetch(generation, &report).await {
                tracing::warn!(reference = %generation.launch.reference, %failure, "what is broken cannot be fetched");
                generation.error = Some(failure.message);
            }
        }
        let mender = self.clone();
        blocking::run(move || {
            // Files first: a blob that none of them needs any more may go.
            let (blobs, others): (Vec<_>, Vec<_>) =
                report.damage.drain(..).partition(|damage| matches!(damage.part, Part::Blob { .. }));
            let others: Vec<_> = others.into_iter().map(|damage| mender.put_right(damage, &broken)).collect();
            let missed: BTreeSet<Digest> = others.iter().filter_map(|damage| missed(damage, &broken)).collect();
            let blobs = blobs.into_iter().map(|damage| mender.settle(damage, &in_the_way, &missed));
            report.damage = blobs.chain(others).collect();
            report
        })
        .await
    }

    /// Takes damaged blobs out of use; where their bytes are right somewhere else on the disk, those are put in their place.
    /// Which of them are still there, and why.
    fn clear_blobs(&self, report: &Report, sound: &BTreeMap<Digest, PathBuf>) -> BTreeMap<Digest, String> {
        let (cache, mut in_the_way) = (self.fetcher.cache(), BTreeMap::new());
        for Damage { part, fault, .. } in &report.damage {
            let Part::Blob { digest } = part else { continue };
            let cleared = match sound.get(digest) {
                Some(sound) => cache.adopt(digest, sound),
                None if *fault == Fault::Missing => Ok(()),
                None => cache.remove_damaged(digest),
            };
            if let Err(error) = cleared {
                in_the_way.insert(*digest, text(error));
            }
        }
        in_the_way
    }

    /// The generations that are broken, as far as it is known what they are to have. None of them is collected meanwhile.
    fn broken(&self, report: &Report) -> BTreeMap<Name, Broken> {
        let name = |damage: &Damage| {
            let Part::File { workload, generation, .. } = &damage.part else { return None };
            Some((workload.clone(), *generation))
        };
        let names: BTreeSet<Name> = report.damage.iter().filter_map(name).collect();
        let broken = |name: Name| {
            let lease = self.generations.lease(&name.0, name.1).ok().flatten()?;
            let launch = self.generations.launch(&name.0, name.1)?;
            Some((name, Broken { launch, target: None, error: None, _lease: lease }))
        };
        names.into_iter().filter_map(broken).collect()
    }

    /// Brings what the cache does not have of the image into it.
    async fn fetch(&self, broken: &mut Broken, report: &Report) -> Result<(), Failure> {
        let launch = &broken.launch;
        let (source, reference) = (self.registries.source(&launch.reference).await?, launch.reference.to_string());
        let target = resolve_at(&source, &self.fetcher, &reference, &launch.platform, launch.digest).await?;
        broken.target = Some(target.clone());
        clear_damaged(self.fetcher.cache(), &target).await?;
        let mut plan = Plan::new(self.fetcher.cache(), &target, self.unpacking.max_file_bytes).await?;
        if self.unpacking.keep_layers {
            plan.missing.extend(kept_layers(&target, report));
        }
        if plan.is_done() {
            return Ok(());
        }
        let (mender, admitted, text) = (self.clone(), plan.clone(), reference.clone());
        let _room = blocking::run(move || mender.admission.admit(&mender.fetcher, &text, &admitted)).await?;
        let progress = Progress::new(plan.bytes_total, plan.bytes_present);
        self.fetcher.fetch(&source, &reference, &plan.missing, &progress).await?;
        self.fetcher.unpack(&source, &reference, &target, self.unpacking, &progress).await?;
        Ok(())
    }

    /// Repairs a part that is no blob, now that the cache has what could be had.
    fn put_right(&self, damage: Damage, broken: &BTreeMap<Name, Broken>) -> Damage {
        let outcome = match &damage.part {
            // What it said is known by its digest only.
            Part::File { workload, generation, name } if name == LAUNCH_FILE => {
                if self.links.current(workload).ok().flatten() == Some(*generation) {
                    // What boots with another command line is better than nothing.
                    Err("it boots with what it says now until the agent has laid out another one".to_owned())
                } else {
                    self.give_up(workload, *generation)
                }
            }
            Part::File { workload, generation, name } => match broken.get(&(workload.clone(), *generation)) {
                // Without the manifest nobody knew what else there was to be.
                Some(broken) if name == MANIFEST_FILE => {
                    let stable = broken.target.iter().flat_map(|target| &target.artifact.files);
                    let stable: Vec<String> = stable.filter_map(File::stable_name).collect();
                    let mut names = [name.as_str(), CONFIG_FILE].into_iter().chain(stable.iter().map(String::as_str));
                    names.try_for_each(|name| self.relink(broken, name))
                }
                Some(broken) => self.relink(broken, name),
                None => Err("nobody knows what it is to be".to_owned()),
            },
            Part::Generation { workload, generation } => self.give_up(workload, *generation),
            Part::Link { path } => match path.strip_prefix("workloads/").and_then(|path| path.split_once('/')) {
                Some((workload, "previous")) => match workload.parse() {
                    Ok(workload) => self.links.forget_previous(&workload).map_err(text),
                    Err(_) => Err("it belongs to no workload".to_owned()),
                },
                Some(_) => Err("the agent lays out a generation anew for it".to_owned()),
                None => self.links.mirror(&WorkloadName::default_name()).map_err(text),
            },
            Part::Index => self.fetcher.cache().mend_index().map_err(text),
            Part::State => Err("the agent writes it anew".to_owned()),
            Part::Blob { .. } => Ok(()),
        };
        let outcome = outcome.map_or_else(|error| Outcome::Failed { error }, |()| Outcome::Repaired);
        Damage { outcome, ..damage }
    }

    /// Gives a file of a generation its bytes from the cache; a stable name leads to its file again.
    fn relink(&self, broken: &Broken, name: &str) -> Result<(), String> {
        let (cache, dir) =
            (self.fetcher.cache(), self.generations.dir(&broken.launch.workload, broken.launch.generation));
        let mut files = broken.target.iter().flat_map(|target| &target.artifact.files);
        if let Some(file) = files.find(|file| file.stable_name().as_deref() == Some(name)) {
            let target = linked(&broken.launch, file).unwrap_or(file.name.as_str());
            return swap_link(target.as_ref(), &dir.join(name)).map_err(text);
        }
        if let Some((_, file)) = broken.launch.names().find(|(other, file)| *other == name && file.writable) {
            let content = Descriptor::new("application/octet-stream", file.digest, file.size);
            if !cache.holds(&content) {
                return Err(error_of(broken));
            }
            return disk::renew(&cache.path(&file.digest), file, &dir).map_err(|error| Failure::from(error).message);
        }
        let Some(wanted) = wanted(broken, name) else { return Err(error_of(broken)) };
        if !cache.holds(&wanted) {
            return Err(error_of(broken));
        }
        share_over(&cache.path(&wanted.digest), &dir.join(name)).map_err(text)
    }

    /// What became of a blob. One that is gone is missed where a file is to have the same bytes and has not.
    fn settle(&self, damage: Damage, in_the_way: &BTreeMap<Digest, String>, missed: &BTreeSet<Digest>) -> Damage {
        let Part::Blob { digest } = &damage.part else { return damage };
        let outcome = if let Some(error) = in_the_way.get(digest) {
            Outcome::Failed { error: error.clone() }
        } else if self.fetcher.cache().path(digest).exists() {
            Outcome::Repaired
        } else if missed.contains(digest) {
            Outcome::Failed { error: "it is taken out of use until it can be had".to_owned() }
        } else {
            Outcome::Removed
        };
        Damage { outcome, ..damage }
    }

    /// Sees to it that a generation which says what is not so counts as incomplete. It is never repaired by that.
    fn give_up(&self, workload: &WorkloadName, generation: u64) -> Result<(), String> {
        let path = self.generations.dir(workload, generation).join(LAUNCH_FILE);
        if path.symlink_metadata().is_ok() {
            set_aside(&path).map_err(text)?;
        }
        Err("it is given up: where it is wanted, the agent lays out another one".to_owned())
    }
}

/// Layers that are kept beside the files that came out of them, and were found broken.
fn kept_layers(target: &Target, report: &Report) -> Vec<Descriptor> {
    let is_broken =
        |layer: &&Descriptor| report.damage.iter().any(|damage| damage.part == Part::Blob { digest: layer.digest });
    target.artifact.layers.iter().filter(is_broken).cloned().collect()
}

/// What a file of a generation is to be.
fn wanted(broken: &Broken, name: &str) -> Option<Descriptor> {
    match name {
        MANIFEST_FILE => broken.target.as_ref().map(|target| target.manifest.clone()),
        CONFIG_FILE => broken.target.as_ref().map(|target| target.artifact.config.clone()),
        name => {
            let file = broken.launch.fixed().find(|(other, _)| *other == name)?.1;
            Some(Descriptor::new("application/octet-stream", file.digest, file.size))
        }
    }
}

/// What a file that is still broken is to be.
fn missed(damage: &Damage, broken: &BTreeMap<Name, Broken>) -> Option<Digest> {
    let Part::File { workload, generation, name } = &damage.part else { return None };
    let broken = broken.get(&(workload.clone(), *generation)).filter(|_| damage.is_left())?;
    Some(wanted(broken, name)?.digest)
}

fn error_of(broken: &Broken) -> String {
    broken.error.clone().unwrap_or_else(|| "no source has it".to_owned())
}

#[allow(clippy::needless_pass_by_value, reason = "it is used in place of a closure")]
fn text(error: DurableError) -> String {
    Failure::from(error).message
}

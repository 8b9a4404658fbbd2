//! Where actions are carried out: each job step is a task that reports its outcome as an event.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::fsck::{Fsck, FsckOrder};
use super::handle::Request;
use super::hooks::Hooks;
use super::state::{State, Way};
use super::transition::{Action, Event, Outcome};
use crate::blocking;
use crate::cache::Work;
use crate::config::{HealthSettings, Settings};
use crate::deploy::fsck::{self, Mender, Pace};
use crate::deploy::{Admission, Aim, Collector, Generations, Links, Order, Room};
use crate::desired::{Disks, Spec, WorkloadName};
use crate::failure::{Failure, Kind, Retry};
use crate::oci::Digest;
use crate::registry::{Caller, Registries};
use crate::transfer::{
    Budget, Fetcher, Plan, Progress, Target, TransferError, Unpacking, clear_damaged, explain, resolve,
};

/// What steps work with.
pub(super) struct Workshop {
    tools: Tools,
    fsck: Fsck,
    /// How often everything on disk is looked at.
    scrub: watch::Sender<Option<Duration>>,
    /// How what runs is checked.
    health: watch::Sender<HealthSettings>,
    requests: mpsc::Sender<Request>,
    /// The running step of each job, and the cache's knowledge of it.
    running: HashMap<u64, (AbortHandle, Work)>,
    /// How far the last transfer for each workload is, and whose job it is or was.
    progress: BTreeMap<WorkloadName, (u64, Arc<Progress>)>,
    max_wire_bytes: Option<u64>,
    /// What the update to each image, by its manifest, has taken of the network.
    budgets: BTreeMap<Digest, Arc<Budget>>,
}

#[derive(Clone)]
struct Tools {
    registries: Arc<Registries>,
    unpacking: Unpacking,
    fetcher: Fetcher,
    generations: Generations,
    links: Links,
    collector: Collector,
    admission: Admission,
    hooks: Hooks,
}

impl Workshop {
    pub(super) fn new(
        settings: &Settings,
        fetcher: Fetcher,
        generations: Generations,
        links: Links,
        collector: Collector,
        fsck: Fsck,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        let registries = Arc::new(Registries::new(settings, Caller::Agent));
        let tools = Tools {
            hooks: Hooks::new(&settings.hooks, generations.clone(), links.clone()),
            registries,
            unpacking: Unpacking::new(settings),
            fetcher,
            generations,
            links,
            admission: Admission::new(collector.clone()),
            collector,
        };
        let max_wire_bytes = settings.transfer.max_wire_bytes;
        Self {
            tools,
            fsck,
            scrub: watch::Sender::new(settings.cache.scrub),
            health: watch::Sender::new(settings.health.clone()),
            requests,
            running: HashMap::new(),
            progress: BTreeMap::new(),
            max_wire_bytes,
            budgets: BTreeMap::new(),
        }
    }

    /// Uses other settings for what begins from now on.
    pub(super) fn reload(&mut self, settings: &Settings) -> bool {
        self.tools.registries = Arc::new(Registries::new(settings, Caller::Agent));
        self.tools.unpacking = Unpacking::new(settings);
        self.tools.fetcher.reload(&settings.transfer);
        self.tools.collector.set_keep(settings.cache.keep);
        self.tools.fetcher.cache().set_reserve(settings.cache.reserve);
        self.max_wire_bytes = settings.transfer.max_wire_bytes;
        self.scrub.send_replace(settings.cache.scrub);
        self.tools.hooks.reload(&settings.hooks);
        self.health.send_if_modified(|health| {
            let is_another = *health != settings.health;
            health.clone_from(&settings.health);
            is_another
        })
    }

    /// How what runs is checked; changes with the settings.
    pub(super) fn health(&self) -> watch::Receiver<HealthSettings> {
        self.health.subscribe()
    }

    /// How often everything on disk is looked at by itself; changes with the settings.
    pub(super) fn scrub_interval(&self) -> watch::Receiver<Option<Duration>> {
        self.scrub.subscribe()
    }

    /// Has registries asked again that asked to be left alone.
    pub(super) fn rouse(&self) {
        self.tools.registries.rouse();
    }

    /// How far the transfers are.
    pub(super) fn progress(&self) -> BTreeMap<WorkloadName, Arc<Progress>> {
        self.progress.iter().map(|(workload, (_, progress))| (workload.clone(), Arc::clone(progress))).collect()
    }

    /// Takes note of what is wanted and of what has ended. To be called before the actions are begun that follow from it.
    pub(super) fn know(&mut self, state: &State) {
        self.tools.collector.wanted().set(state.wants());
        self.tools.generations.hold_to(state.records());
        let goes_on = |id: u64| state.workloads.values().any(|w| w.activity.job().is_some_and(|job| job.id == id));
        self.running.retain(|id, (task, _)| goes_on(*id) || !task.is_finished());
    }

    /// Begins an action. [`Action::Save`] is the loop's own.
    pub(super) fn perform(&mut self, action: Action) {
        let tools = self.tools.clone();
        match action {
            Action::Save => {}
            Action::Announce { workload, generation, replaced, way } => {
                self.announce(workload, generation, replaced, way);
            }
            Action::Repair => self.repair(),
            Action::Ask { workload, job, generation, replaces } => {
                self.run(workload.clone(), job, tools.ask(workload, generation, replaces));
            }
            Action::Cancel { job } => {
                if let Some((task, _)) = self.running.remove(&job) {
                    task.abort();
                }
            }
            Action::Resolve { workload, job, spec } => self.run(workload, job, tools.resolve(spec)),
            Action::Plan { workload, job, target } => self.run(workload, job, tools.plan(target)),
            Action::Sweep { wanted } => {
                self.budgets.retain(|manifest, _| wanted.contains(manifest));
                tokio::spawn(tools.sweep());
            }
            Action::Fetch { workload, job, spec, target, plan } => {
                let budget = self.budget(&target, &plan);
                let progress = Progress::new(plan.bytes_total, plan.bytes_present).within(budget.clone());
                let progress = Arc::new(match self.progress.get(&workload) {
                    Some((before, fetched)) if *before == job => progress.going_on_from(fetched),
                    _ => progress,
                });
                self.progress.insert(workload.clone(), (job, Arc::clone(&progress)));
                self.run(workload.clone(), job, tools.fetch(workload, spec, target, plan, progress, budget));
            }
            Action::Verify { workload, job, target } => self.run(workload, job, tools.verify(target)),
            Action::Materialize { workload, job, spec, target, after } => {
                self.run(workload.clone(), job, tools.materialize(workload, spec, target, after));
            }
            Action::Activate { workload, job, generation, previous, .. } => {
                self.run(workload.clone(), job, tools.activate(workload, generation, previous));
            }
            Action::Retire { workload, job } => {
                self.progress.remove(&workload);
                self.run(workload.clone(), job, tools.retire(workload));
            }
        }
    }

    /// Has the step of a job fail in place of beginning it.
    pub(super) fn fail(&mut self, workload: WorkloadName, job: u64, failure: Failure) {
        self.run(workload, job, std::future::ready(Err(failure)));
    }

    /// What the update to `target` may take of the network. What it has taken counts until no workload is on its way there
    /// any more.
    fn budget(&mut self, target: &Target, plan: &Plan) -> Option<Arc<Budget>> {
        let limit = self.max_wire_bytes?;
        let (cache, manifest) = (self.tools.fetcher.cache(), target.manifest.digest);
        let open = || {
            let landed = cache.partial_bytes(&plan.to_fetch());
            Arc::new(Budget::open(&cache.wire_note(&manifest), limit, landed))
        };
        let budget = self.budgets.entry(manifest).or_insert_with(open);
        budget.allow(limit);
        Some(Arc::clone(budget))
    }

    /// Looks at everything on disk, and tells `answer`; where nobody waits for that any more, the look stops, but no repair.
    pub(super) fn fsck(&self, order: FsckOrder, mut answer: oneshot::Sender<Result<fsck::Report, Failure>>) {
        let (fsck, mender, requests) = (self.fsck.clone(), self.tools.mender(), self.requests.clone());
        tokio::spawn(async move {
            let stop = CancellationToken::new();
            let report = {
                let mut run = std::pin::pin!(fsck.run(&mender, order, &requests, &stop));
                tokio::select! {
                    report = &mut run => report,
                    () = answer.closed() => {
                        stop.cancel();
                        run.await
                    }
                }
            };
            let _ = answer.send(report);
        });
    }

    /// Repairs what is damaged, as `eci fsck --repair` does. It is no step: nothing waits for it.
    fn repair(&self) {
        let (fsck, mender, requests) = (self.fsck.clone(), self.tools.mender(), self.requests.clone());
        tokio::spawn(async move {
            let order = FsckOrder { repair: true, pace: Pace::Fast };
            if let Err(failure) = fsck.run(&mender, order, &requests, &CancellationToken::new()).await {
                tracing::warn!(%failure, "what is damaged is not repaired");
            }
        });
    }

    /// Runs the hook that follows an activation. It is no step: nothing waits for it.
    fn announce(&self, workload: WorkloadName, generation: u64, replaced: Option<u64>, way: Way) {
        let (hooks, requests) = (self.tools.hooks.clone(), self.requests.clone());
        tokio::spawn(async move {
            let result = hooks.after(&workload, generation, replaced, way).await;
            if let Err(failure) = &result {
                tracing::warn!(%workload, generation, %failure, "a hook has failed; what runs stays");
            }
            let _ = requests.send(Request::Event(Event::Announced { workload, generation, result })).await;
        });
    }

    fn run(
        &mut self,
        workload: WorkloadName,
        job: u64,
        step: impl Future<Output = Result<Outcome, Failure>> + Send + 'static,
    ) {
        let requests = self.requests.clone();
        let task = tokio::spawn(async move {
            let outcome = step.await;
            // The loop ends only when the process does.
            let _ = requests.send(Request::Event(Event::Step { workload, job, outcome })).await;
        });
        let work = self.running.remove(&job).map_or_else(|| self.tools.fetcher.cache().begin_work(), |(_, work)| work);
        self.running.insert(job, (task.abort_handle(), work));
    }
}

impl Tools {
    fn mender(&self) -> Mender {
        Mender {
            registries: Arc::clone(&self.registries),
            fetcher: self.fetcher.clone(),
            unpacking: self.unpacking,
            admission: self.admission.clone(),
            generations: self.generations.clone(),
            links: self.links.clone(),
        }
    }

    async fn resolve(self, spec: Spec) -> Result<Outcome, Failure> {
        let source = self.registries.source(&spec.reference).await?;
        let (reference, platform) = (spec.reference.to_string(), spec.platform());
        let target = resolve(&source, &self.fetcher, &reference, &platform).await?;
        Ok(Outcome::Resolved(Arc::new(target)))
    }

    async fn plan(self, target: Arc<Target>) -> Result<Outcome, Failure> {
        Ok(Outcome::Planned(Plan::new(self.fetcher.cache(), &target, self.unpacking.max_file_bytes).await?))
    }

    async fn fetch(
        self,
        workload: WorkloadName,
        spec: Spec,
        target: Arc<Target>,
        plan: Plan,
        progress: Arc<Progress>,
        budget: Option<Arc<Budget>>,
    ) -> Result<Outcome, Failure> {
        let source = self.registries.source(&spec.reference).await?;
        let reference = spec.reference.to_string();
        let fetched = async {
            let copied = self.copied(&workload, spec.disks, &target).await?;
            let _room = self.make_room(&reference, &Plan { copied, ..plan.clone() }).await?;
            self.fetcher.fetch(&source, &reference, &plan.missing, &progress).await?;
            self.fetcher.unpack(&source, &reference, &target, self.unpacking, &progress).await
        };
        let fetched = match budget {
            Some(budget) => budget.keep(fetched).await,
            None => fetched.await,
        };
        progress.finish();
        if let Err(error) = fetched {
            return Err(explain(&source, &target, error).await.into());
        }
        Ok(Outcome::Fetched)
    }

    async fn verify(self, target: Arc<Target>) -> Result<Outcome, Failure> {
        let cache = self.fetcher.cache().clone();
        clear_damaged(&cache, &target).await?;
        // Some may have gone since they were planned: somebody else found them damaged.
        let missing = blocking::run(move || target.missing(&cache)).await?;
        Ok(if missing.is_empty() { Outcome::Verified } else { Outcome::Missing(missing) })
    }

    /// How much room private copies of the image's disks take, in bytes.
    async fn copied(&self, workload: &WorkloadName, disks: Disks, target: &Arc<Target>) -> Result<u64, TransferError> {
        if disks != Disks::Writable {
            return Ok(0);
        }
        let (tools, workload, target) = (self.clone(), workload.clone(), Arc::clone(target));
        blocking::run(move || {
            let cache = tools.fetcher.cache();
            let is_shared = tools.generations.shares_copies(cache, &workload, &target.manifest.digest)?;
            Ok(if is_shared { 0 } else { Plan::copies(cache, &target) })
        })
        .await
    }

    /// Room for what is to be fetched, unpacked and copied, for as long as the result lives.
    async fn make_room(&self, reference: &str, plan: &Plan) -> Result<Arc<Room>, TransferError> {
        let (tools, reference, plan) = (self.clone(), reference.to_owned(), plan.clone());
        blocking::run(move || tools.admission.admit(&tools.fetcher, &reference, &plan)).await
    }

    /// Gives up downloads that nobody goes on with, and removes what nothing leads to.
    async fn sweep(self) {
        let wanted = self.collector.wanted().clone();
        let collector = self.collector.clone();
        let swept = self.fetcher.sweep(move || wanted.lock().manifests.clone(), move || collector.in_repair());
        if let Err(error) = swept.await {
            tracing::warn!(%error, "downloads that nobody wants are still there");
        }
        match blocking::run(move || self.collector.collect(Aim::Tidy)).await {
            Ok(report) if report.removed.is_empty() => {}
            Ok(report) => tracing::info!(removed = report.removed.len(), freed = report.freed_bytes, "collected"),
            Err(error) => tracing::warn!(%error, "what nothing leads to is still there"),
        }
    }

    async fn materialize(
        self,
        workload: WorkloadName,
        spec: Spec,
        target: Arc<Target>,
        after: u64,
    ) -> Result<Outcome, Failure> {
        let cache = self.fetcher.cache().clone();
        let keep_layers = self.unpacking.keep_layers;
        let reference = spec.reference.to_string();
        // What was fetched has its room, and all of it may have been there before.
        let copied = self.copied(&workload, spec.disks, &target).await?;
        let _room = match copied {
            0 => None,
            copied => Some(self.make_room(&reference, &Plan { copied, ..Plan::default() }).await?),
        };
        let launch = blocking::run(move || {
            // An image whose layers are not kept would be one that other tools cannot read. They may be there for as long
            // as another workload takes to remove them: it is in this order that they cannot go in between.
            if (keep_layers || target.spent(&cache).is_empty()) && target.is_whole(&cache) {
                cache.tag(&reference, &target.manifest)?;
            }
            let order = Order {
                current: self.links.current(&workload)?,
                workload,
                reference: spec.reference,
                digest: target.manifest.digest,
                index_digest: target.index_digest,
                platform: target.platform.clone(),
                cmdline: spec.cmdline,
                disks: spec.disks,
                config: target.artifact.config.clone(),
                files: target.files(&cache, &reference)?,
                after,
            };
            Ok::<_, Failure>(self.generations.materialize(&cache, &order)?)
        });
        Ok(Outcome::Materialized(Box::new(launch.await?)))
    }

    async fn ask(self, workload: WorkloadName, generation: u64, replaces: Option<u64>) -> Result<Outcome, Failure> {
        self.hooks.before(&workload, generation, replaces).await?;
        Ok(Outcome::Agreed)
    }

    async fn activate(
        self,
        workload: WorkloadName,
        generation: u64,
        previous: Option<u64>,
    ) -> Result<Outcome, Failure> {
        blocking::run(move || {
            let is_whole = |number: &u64| self.generations.complete(&workload, *number).is_some();
            if !is_whole(&generation) {
                let message =
                    format!("generation {workload}/{generation} is not complete any more, and is not activated");
                return Err(Failure { kind: Kind::Damaged, message, retry: Retry::Later });
            }
            // What is broken of the previous one may yet be repaired; what does not say what it is cannot.
            let is_known = |number: &u64| self.generations.launch(&workload, *number).is_some();
            Ok(self.links.activate(&workload, generation, previous.filter(is_known))?)
        })
        .await?;
        Ok(Outcome::Activated)
    }

    async fn retire(self, workload: WorkloadName) -> Result<Outcome, Failure> {
        blocking::run(move || self.links.retire(&workload)).await?;
        Ok(Outcome::Retired)
    }
}

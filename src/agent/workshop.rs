//! Where actions are carried out: each job step is a task that reports its outcome as an event.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::event::{Action, Event, Outcome};
use super::handle::Request;
use crate::blocking;
use crate::config::Settings;
use crate::deploy::{Generations, Links, Order};
use crate::desired::{Spec, WorkloadName};
use crate::failure::Failure;
use crate::registry::Registries;
use crate::transfer::{Fetcher, Plan, Progress, Target, resolve};

/// What steps work with.
pub(super) struct Workshop {
    tools: Tools,
    requests: mpsc::Sender<Request>,
    /// The running step of each job.
    running: HashMap<u64, AbortHandle>,
    progress: BTreeMap<WorkloadName, Arc<Progress>>,
}

#[derive(Clone)]
struct Tools {
    registries: Arc<Registries>,
    max_file_bytes: u64,
    fetcher: Fetcher,
    generations: Generations,
    links: Links,
}

impl Workshop {
    pub(super) fn new(
        settings: &Settings,
        fetcher: Fetcher,
        generations: Generations,
        links: Links,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        let registries = Arc::new(Registries::new(settings));
        let tools = Tools { registries, max_file_bytes: settings.transfer.max_file_bytes, fetcher, generations, links };
        Self { tools, requests, running: HashMap::new(), progress: BTreeMap::new() }
    }

    /// Uses other settings for what begins from now on.
    pub(super) fn reload(&mut self, settings: &Settings) {
        self.tools.registries = Arc::new(Registries::new(settings));
        self.tools.max_file_bytes = settings.transfer.max_file_bytes;
    }

    /// How far the transfers are.
    pub(super) fn progress(&self) -> BTreeMap<WorkloadName, Arc<Progress>> {
        self.progress.clone()
    }

    /// Begins an action. [`Action::Save`] is the loop's own.
    pub(super) fn perform(&mut self, action: Action) {
        let tools = self.tools.clone();
        match action {
            Action::Save => {}
            Action::Cancel { job } => {
                if let Some(task) = self.running.remove(&job) {
                    task.abort();
                }
            }
            Action::Resolve { workload, job, spec } => self.run(workload, job, tools.resolve(spec)),
            Action::Plan { workload, job, target } => self.run(workload, job, tools.plan(target)),
            Action::Fetch { workload, job, spec, plan } => {
                let progress = Arc::new(Progress::new(plan.bytes_total, plan.bytes_present));
                self.progress.insert(workload.clone(), Arc::clone(&progress));
                self.run(workload, job, tools.fetch(spec, plan, progress));
            }
            Action::Materialize { workload, job, spec, target, after } => {
                self.run(workload.clone(), job, tools.materialize(workload, spec, target, after));
            }
            Action::Activate { workload, job, generation, previous } => {
                self.run(workload.clone(), job, tools.activate(workload, generation, previous));
            }
            Action::Retire { workload, job } => {
                self.progress.remove(&workload);
                self.run(workload.clone(), job, tools.retire(workload));
            }
        }
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
        self.running.retain(|_, task| !task.is_finished());
        self.running.insert(job, task.abort_handle());
    }
}

impl Tools {
    async fn resolve(self, spec: Spec) -> Result<Outcome, Failure> {
        let source = self.registries.source(&spec.reference).await?;
        let (reference, platform) = (spec.reference.to_string(), spec.platform());
        let target = resolve(&source, self.fetcher.cache(), &reference, &platform).await?;
        Ok(Outcome::Resolved(Arc::new(target)))
    }

    async fn plan(self, target: Arc<Target>) -> Result<Outcome, Failure> {
        Ok(Outcome::Planned(Plan::new(self.fetcher.cache(), &target, self.max_file_bytes).await?))
    }

    async fn fetch(self, spec: Spec, plan: Plan, progress: Arc<Progress>) -> Result<Outcome, Failure> {
        let source = self.registries.source(&spec.reference).await?;
        let fetched = self.fetcher.fetch(&source, &spec.reference.to_string(), &plan.missing, &progress).await;
        progress.finish();
        fetched?;
        Ok(Outcome::Fetched)
    }

    async fn materialize(
        self,
        workload: WorkloadName,
        spec: Spec,
        target: Arc<Target>,
        after: u64,
    ) -> Result<Outcome, Failure> {
        let order = Order {
            workload,
            reference: spec.reference.clone(),
            digest: target.manifest.digest,
            index_digest: target.index_digest,
            platform: target.platform.clone(),
            cmdline: spec.cmdline,
            artifact: target.artifact.clone(),
            after,
        };
        let cache = self.fetcher.cache().clone();
        let launch = blocking::run(move || {
            cache.tag(&spec.reference.to_string(), &target.manifest)?;
            self.generations.materialize(&cache, &order)
        });
        Ok(Outcome::Materialized(Box::new(launch.await?)))
    }

    async fn activate(
        self,
        workload: WorkloadName,
        generation: u64,
        previous: Option<u64>,
    ) -> Result<Outcome, Failure> {
        blocking::run(move || self.links.activate(&workload, generation, previous)).await?;
        Ok(Outcome::Activated)
    }

    async fn retire(self, workload: WorkloadName) -> Result<Outcome, Failure> {
        blocking::run(move || self.links.retire(&workload)).await?;
        Ok(Outcome::Retired)
    }
}

//! The programs that have a say in an activation, or are told of it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::state::Way;
use crate::blocking;
use crate::config::HookSettings;
use crate::deploy::{Generations, Links, hook_environment, run_hook};
use crate::desired::WorkloadName;
use crate::failure::{Failure, Kind, Retry};

/// Runs hooks. Cheap to clone; clones take turns, so that no two hooks of a workload run at once.
#[derive(Clone)]
pub(super) struct Hooks {
    settings: Arc<HookSettings>,
    generations: Generations,
    links: Links,
    turns: Arc<std::sync::Mutex<BTreeMap<WorkloadName, Arc<Mutex<()>>>>>,
}

impl Hooks {
    pub(super) fn new(settings: &HookSettings, generations: Generations, links: Links) -> Self {
        Self { settings: Arc::new(settings.clone()), generations, links, turns: Arc::default() }
    }

    /// Uses other settings from now on. What runs goes on.
    pub(super) fn reload(&mut self, settings: &HookSettings) {
        self.settings = Arc::new(settings.clone());
    }

    /// Asks whether `generation` may become `current` in place of another.
    pub(super) async fn before(
        &self,
        workload: &WorkloadName,
        generation: u64,
        replaces: Option<u64>,
    ) -> Result<(), Failure> {
        let _turn = self.turn(workload).await;
        self.run("pre_activate", self.settings.pre_activate.as_deref(), workload, generation, replaces).await
    }

    /// Tells that `generation` has become `current` in place of another.
    pub(super) async fn after(
        &self,
        workload: &WorkloadName,
        generation: u64,
        replaced: Option<u64>,
        way: Way,
    ) -> Result<(), Failure> {
        let _turn = self.turn(workload).await;
        let (links, whose) = (self.links.clone(), workload.clone());
        if blocking::run(move || links.current(&whose)).await.is_ok_and(|current| current != Some(generation)) {
            // Others came after it while this waited, and are told of themselves.
            return Ok(());
        }
        let (name, argv) = match way {
            Way::Forth => ("post_activate", self.settings.post_activate.as_deref()),
            Way::Back => ("on_rollback", self.settings.on_rollback.as_deref()),
        };
        self.run(name, argv, workload, generation, replaced).await
    }

    /// No two hooks of a workload run at once.
    async fn turn(&self, workload: &WorkloadName) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(workload.clone()).or_default())
        };
        turn.lock_owned().await
    }

    async fn run(
        &self,
        name: &str,
        argv: Option<&[String]>,
        workload: &WorkloadName,
        generation: u64,
        other: Option<u64>,
    ) -> Result<(), Failure> {
        let Some(argv) = argv else { return Ok(()) };
        let (generations, whose) = (self.generations.clone(), workload.clone());
        // Neither directory goes while the hook may look at it.
        let look = move || {
            let lease = |number: u64| generations.lease(&whose, number).ok().flatten();
            (generations.launch(&whose, generation), lease(generation), other.and_then(lease))
        };
        let (launch, _lease, other_lease) = blocking::run(look).await;
        let Some(launch) = launch else {
            let message = format!("{name}: generation {workload}/{generation} is gone");
            return Err(Failure { kind: Kind::HookFailed, message, retry: Retry::Later });
        };
        let dir = self.generations.dir(workload, generation);
        let other = other.filter(|_| other_lease.is_some()).map(|other| self.generations.dir(workload, other));
        let environment = hook_environment(name, &launch, &dir, other.as_deref());
        let output = run_hook(argv, &environment, self.settings.timeout).await.map_err(|error| {
            let failure = Failure::from(error);
            Failure { message: format!("{name} of generation {generation}: {}", failure.message), ..failure }
        })?;
        tracing::info!(hook = name, %workload, generation, %output, "a hook was run");
        Ok(())
    }
}

//! The programs that have a say in an activation, or are told of it.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::event::Way;
use crate::blocking;
use crate::config::HookSettings;
use crate::deploy::{Generations, Launch, Links, hook_environment, run_hook};
use crate::desired::WorkloadName;
use crate::failure::{Failure, Kind, Retry};

/// Runs hooks. Cheap to clone; clones take turns, so that no two hooks run at once.
#[derive(Clone)]
pub(super) struct Hooks {
    settings: Arc<HookSettings>,
    generations: Generations,
    links: Links,
    turn: Arc<Mutex<()>>,
}

impl Hooks {
    pub(super) fn new(settings: &HookSettings, generations: Generations, links: Links) -> Self {
        Self { settings: Arc::new(settings.clone()), generations, links, turn: Arc::default() }
    }

    /// The same with other settings. What runs goes on.
    pub(super) fn reload(&mut self, settings: &HookSettings) {
        self.settings = Arc::new(settings.clone());
    }

    /// Asks whether `generation` may become `current`.
    pub(super) async fn before(&self, workload: &WorkloadName, generation: u64) -> Result<(), Failure> {
        let settings = Arc::clone(&self.settings);
        self.run("pre_activate", settings.pre_activate.as_deref(), workload, generation).await
    }

    /// Tells that `generation` has become `current`.
    pub(super) async fn after(&self, workload: &WorkloadName, generation: u64, way: Way) -> Result<(), Failure> {
        let settings = Arc::clone(&self.settings);
        let (name, argv) = match way {
            Way::Forth => ("post_activate", settings.post_activate.as_deref()),
            Way::Back => ("on_rollback", settings.on_rollback.as_deref()),
        };
        self.run(name, argv, workload, generation).await
    }

    async fn run(
        &self,
        name: &str,
        argv: Option<&[String]>,
        workload: &WorkloadName,
        generation: u64,
    ) -> Result<(), Failure> {
        let Some(argv) = argv else { return Ok(()) };
        let _turn = self.turn.lock().await;
        let (hooks, whose) = (self.clone(), workload.clone());
        let environment = blocking::run(move || hooks.environment(&whose, generation)).await;
        let Some((launch, previous)) = environment else {
            let message = format!("{name}: generation {workload}/{generation} is gone");
            return Err(Failure { kind: Kind::HookFailed, message, retry: Retry::Later });
        };
        let (dir, previous) = (
            self.generations.dir(workload, generation),
            previous.map(|previous| self.generations.dir(workload, previous)),
        );
        let environment = hook_environment(name, &launch, &dir, previous.as_deref());
        let output = run_hook(argv, &environment, self.settings.timeout).await.map_err(|error| {
            let failure = Failure::from(error);
            Failure { message: format!("{name} of generation {generation}: {}", failure.message), ..failure }
        })?;
        tracing::info!(hook = name, workload = %workload, generation, %output, "a hook was run");
        Ok(())
    }

    /// What a hook is told of: the generation, and the number of the one that is, or was, current instead.
    fn environment(&self, workload: &WorkloadName, generation: u64) -> Option<(Launch, Option<u64>)> {
        let launch = self.generations.launch(workload, generation)?;
        let linked = [self.links.current(workload), self.links.previous(workload)];
        let other = linked.into_iter().filter_map(|number| number.ok().flatten()).find(|number| *number != generation);
        Some((launch, other))
    }
}

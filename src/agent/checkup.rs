//! Checks what runs, again and again, and tells the loop.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::event::Event;
use super::handle::Request;
use super::status::Snapshot;
use crate::blocking;
use crate::config::{CheckSettings, HealthSettings};
use crate::deploy::{Check, Generations, check, hook_environment};
use crate::desired::WorkloadName;

/// So many checks run at a time: each may be a program.
const AT_ONCE: usize = 8;

/// Checks each workload that has something to boot, at the interval of the settings, for as long as the loop listens.
pub(super) async fn check_up(
    mut settings: watch::Receiver<HealthSettings>,
    snapshot: watch::Receiver<Snapshot>,
    generations: Generations,
    requests: mpsc::Sender<Request>,
) {
    loop {
        let HealthSettings { check, interval, timeout, .. } = settings.borrow_and_update().clone();
        let next = Instant::now() + interval;
        let round = async {
            let Some(check) = check else { return std::future::pending().await };
            let due = due(&snapshot.borrow());
            let look = |(workload, generation)| one(&check, timeout, &generations, workload, generation);
            let mut results =
                std::pin::pin!(futures_util::stream::iter(due.into_iter().map(look)).buffer_unordered(AT_ONCE));
            while let Some(event) = results.next().await {
                // The loop ends only when the process does.
                let _ = requests.send(Request::Event(event)).await;
            }
            sleep_until(next).await;
        };
        tokio::select! {
            () = round => {}
            changed = settings.changed() => if changed.is_err() { return },
        }
    }
}

/// The generations that workloads boot.
fn due(snapshot: &Snapshot) -> Vec<(WorkloadName, u64)> {
    let runs = snapshot.state.workloads.iter();
    runs.filter_map(|(name, workload)| Some((name.clone(), workload.current.as_ref()?.number))).collect()
}

async fn one(
    settings: &CheckSettings,
    timeout: Duration,
    generations: &Generations,
    workload: WorkloadName,
    generation: u64,
) -> Event {
    let result = judge(settings, timeout, generations, &workload, generation).await;
    Event::Checked { workload, generation, result }
}

/// Whether a generation is healthy; if not, why, for a person.
async fn judge(
    settings: &CheckSettings,
    timeout: Duration,
    generations: &Generations,
    workload: &WorkloadName,
    generation: u64,
) -> Result<(), String> {
    let (places, whose) = (generations.clone(), workload.clone());
    let found = move || {
        (places.launch(&whose, generation), places.in_use().unwrap_or_default().remove(&whose).unwrap_or_default())
    };
    let (launch, running) = blocking::run(found).await;
    let Some(launch) = launch else { return Err(format!("generation {generation} is not complete")) };
    // What answers may well be the machine that has not been restarted yet.
    if let Some(other) = running.iter().find(|_| !running.contains(&generation)) {
        return Err(format!("generation {other} still runs"));
    }
    let dir = generations.dir(workload, generation);
    let environment = hook_environment("health", &launch, &dir, None);
    check(&Check::new(settings, workload), &environment, timeout).await.map_err(|error| error.to_string())
}

//! Checks what runs, again and again, and tells the loop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::handle::Request;
use super::status::Snapshot;
use super::transition::Event;
use crate::blocking;
use crate::config::{CheckSettings, HealthSettings};
use crate::deploy::{Check, Generations, check, hook_environment};
use crate::desired::WorkloadName;

/// So many checks run at a time: each may be a program, and some may hang.
const AT_ONCE: usize = 64;

/// Checks each workload that has something to boot, at the interval of the settings, for as long as the loop listens. One
/// whose check takes long holds up no other.
pub(super) async fn check_up(
    mut settings: watch::Receiver<HealthSettings>,
    snapshot: watch::Receiver<Snapshot>,
    generations: Generations,
    requests: mpsc::Sender<Request>,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let HealthSettings { check, interval, timeout, .. } = settings.borrow_and_update().clone();
        let checks = async {
            let Some(check) = check else { return std::future::pending().await };
            let (mut running, mut whose) = (JoinSet::new(), BTreeSet::new());
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                while let Some(Ok(ended)) = running.try_join_next() {
                    whose.remove(&ended);
                }
                let due = due(&snapshot.borrow());
                for (workload, generation) in due {
                    if !whose.insert(workload.clone()) {
                        // Its last check has not ended.
                        continue;
                    }
                    let (check, generations, requests) = (check.clone(), generations.clone(), requests.clone());
                    let places = Arc::clone(&places);
                    running.spawn(async move {
                        // It is never closed.
                        let _place = places.acquire().await;
                        let result = judge(&check, timeout, &generations, &workload, generation).await;
                        let event = Event::Checked { workload: workload.clone(), generation, result };
                        // The loop ends only when the process does.
                        let _ = requests.send(Request::Event(event)).await;
                        workload
                    });
                }
            }
        };
        tokio::select! {
            () = checks => {}
            changed = settings.changed() => if changed.is_err() { return },
        }
    }
}

/// The generations that workloads boot.
fn due(snapshot: &Snapshot) -> Vec<(WorkloadName, u64)> {
    let runs = snapshot.state.workloads.iter();
    runs.filter_map(|(name, workload)| Some((name.clone(), workload.current.as_ref()?.number))).collect()
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

//! `GET /metrics`: the status as numbers, in the text format of Prometheus.
//!
//! All of them are gauges, which both versions of that format write the same way; what only the newer one has
//! (`# UNIT`, `# EOF`) is a comment to the older one. Labels have values from closed sets only: names of workloads, phases,
//! kinds of failures, numbers. No text that came from outside is among them.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::agent::{Phase, Status, WorkloadStatus};
use crate::desired::WorkloadName;

/// The media type of the text.
pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Values = Family<Labels, Gauge<u64, AtomicU64>>;

/// What `status` says, as text. What is not known has no line. The error is one of the formatter's, which a string has not.
pub(super) fn text(status: &Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("eci");
    Node::new(&mut registry).fill(status);
    let workloads = Workloads::new(&mut registry);
    for (name, workload) in &status.workloads {
        workloads.fill(name, workload);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// What is said of the node as a whole.
struct Node {
    info: Values,
    last_error: Values,
    config_rejected: Values,
    desired_rejected: Values,
    cache: Values,
    cache_free: Values,
    damage_left: Values,
}

impl Node {
    fn new(registry: &mut Registry) -> Self {
        let mut add = |name, help| values(registry, name, help, None);
        let (info, last_error, config_rejected, desired_rejected, damage_left) = (
            add("agent_info", "The agent that answers; always 1"),
            add("agent_last_error", "1 while the agent cannot write to its state directory, by the kind of failure"),
            add("config_rejected", "1 while the configuration is not in force as it was at the last reload"),
            add("desired_rejected", "1 while the desired-state file is not in force as it is"),
            add("fsck_damage_left", "How many parts of what is on disk the last look left damaged"),
        );
        let mut add = |name, help| values(registry, name, help, Some(Unit::Bytes));
        let (cache, cache_free) = (
            add("cache", "What the blobs of the cache take on disk"),
            add("cache_free", "What is free on the cache's file system, the reserve included"),
        );
        Self { info, last_error, config_rejected, desired_rejected, cache, cache_free, damage_left }
    }

    fn fill(&self, status: &Status) {
        let Status { agent, desired, cache, fsck, .. } = status;
        if let Some(agent) = agent {
            set(&self.info, [("version", agent.version.clone())], 1);
            if let Some(error) = &agent.error {
                set(&self.last_error, [("kind", error.kind.to_string())], 1);
            }
            set(&self.config_rejected, [], agent.config_error.is_some().into());
        }
        set(&self.desired_rejected, [], desired.error.is_some().into());
        set(&self.cache, [], cache.allocated_bytes);
        set(&self.cache_free, [], cache.free_bytes);
        set(&self.damage_left, [], fsck.left);
    }
}

/// What is said of each workload.
struct Workloads {
    phase: Values,
    generation: Values,
    confirmed: Values,
    healthy: Values,
    health_failures: Values,
    quarantined: Values,
    running: Values,
    last_error: Values,
    drift: Values,
    retirement_pending: Values,
    retires_in: Values,
    wire: Values,
}

impl Workloads {
    fn new(registry: &mut Registry) -> Self {
        let mut add = |name, help| values(registry, name, help, None);
        let (phase, generation, confirmed, healthy, health_failures, quarantined, running, last_error) = (
            add("workload_phase", "1 for the phase that the workload is in, 0 for the others"),
            add("workload_generation", "The number of the generation that is current, previous or staged"),
            add("workload_confirmed", "1 where current is final, 0 while it has to be confirmed"),
            add("workload_healthy", "1 where current is healthy, 0 where it is not; not there while that is not known"),
            add("workload_health_failures", "How many checks of current have failed in a row"),
            add("workload_quarantined", "How many images were rolled back and are not tried again"),
            add("workload_running_generation", "1 for each generation that something runs from now"),
            add("workload_last_error", "1 while something is wrong, by the kind of failure"),
        );
        let drift = add("workload_drift", "1 while what boots is not what is desired, as that was resolved last");
        let retirement_pending =
            add("workload_retirement_pending", "1 while the desired state does not name the workload, which runs on");
        let help = "The time until a workload that the desired state does not name is retired";
        let retires_in = values(registry, "workload_retires_in", help, Some(Unit::Seconds));
        let wire = ("workload_update_wire", "What the current update, or the last one, took from the network");
        let wire = values(registry, wire.0, wire.1, Some(Unit::Bytes));
        Self {
            phase,
            generation,
            confirmed,
            healthy,
            health_failures,
            quarantined,
            running,
            last_error,
            drift,
            retirement_pending,
            retires_in,
            wire,
        }
    }

    fn fill(&self, name: &WorkloadName, workload: &WorkloadStatus) {
        let own = ("workload", name.to_string());
        for phase in Phase::ALL {
            set(&self.phase, [own.clone(), ("phase", phase.to_string())], (phase == workload.phase).into());
        }
        let WorkloadStatus { current, previous, staged, .. } = workload;
        for (which, generation) in [("current", current), ("previous", previous), ("staged", staged)] {
            if let Some(generation) = generation {
                set(&self.generation, [own.clone(), ("which", which.to_owned())], generation.generation);
            }
        }
        if let Some(current) = current {
            set(&self.confirmed, [own.clone()], current.confirmed.into());
        }
        if let Some(health) = &workload.health {
            if let Some(healthy) = health.healthy {
                set(&self.healthy, [own.clone()], healthy.into());
            }
            set(&self.health_failures, [own.clone()], health.failures.into());
        }
        set(&self.quarantined, [own.clone()], workload.quarantined.len() as u64);
        for running in &workload.running {
            set(&self.running, [own.clone(), ("generation", running.to_string())], 1);
        }
        if let Some(error) = &workload.error {
            set(&self.last_error, [own.clone(), ("kind", error.kind.to_string())], 1);
        }
        set(&self.drift, [own.clone()], workload.drift.into());
        set(&self.retirement_pending, [own.clone()], workload.retirement.is_some().into());
        if let Some(left) = workload.retirement.as_ref().and_then(|retirement| retirement.ends_in_s) {
            set(&self.retires_in, [own.clone()], whole(left));
        }
        if let Some(progress) = workload.progress.or(workload.last_transfer) {
            set(&self.wire, [own], progress.wire_bytes);
        }
    }
}

/// Whole seconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time that is left is small and positive")]
fn whole(seconds: f64) -> u64 {
    seconds.max(0.0) as u64
}

/// Adds a gauge, which is not written before it has a value. A unit is put at the end of its name.
fn values(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Values {
    let values = Values::default();
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, values.clone()),
        None => registry.register(name, help, values.clone()),
    }
    values
}

fn set<const N: usize>(values: &Values, labels: [(&'static str, String); N], value: u64) {
    values.get_or_create(&labels.into()).set(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::ProblemStatus;
    use crate::failure::Kind;
    use std::collections::BTreeSet;

    /// A status of everything that can be said.
    fn status() -> Status {
        let generation = |number: u64| {
            serde_json::json!({
                "generation": number, "reference": "a.example/b:c", "digest": format!("sha256:{number:064}"),
                "index_digest": null, "activated_at": null, "confirmed": false,
            })
        };
        let error = serde_json::json!({
            "kind": "io", "message": "\"}\n# HELP forged 1\nforged 1\\", "since": "2026-11-25T00:00:00Z",
            "attempts": 1, "retry_at": null,
        });
        let document = serde_json::json!({
            "agent": {
                "version": "1.2.3", "pid": 1, "started_at": "2026-11-25T00:00:00Z", "uptime_s": 1.5, "error": error,
                "config_error": error,
            },
            "desired": {"path": "/etc/\"}\n", "sha256": null, "accepted_at": null, "error": error},
            "cache": {"blobs": 3, "bytes": 10, "allocated_bytes": u64::MAX, "free_bytes": 30},
            "fsck": {
                "running": false, "bytes_total": 0, "bytes_done": 0, "finished_at": null, "damaged": 5, "left": 2,
            },
            "workloads": {
                "0._-": {
                    "phase": "probation", "desired": null, "current": generation(7), "previous": generation(6),
                    "staged": generation(8), "waits_for": null, "progress": {
                        "bytes_total": 9, "bytes_done": 8, "wire_bytes": 5, "reused_bytes": 3, "bytes_per_s": 1,
                        "eta_s": null,
                    },
                    "error": error, "quarantined": [format!("sha256:{:064}", 5)],
                    "probation": {"ends_in_s": 1.0, "restarts": 0},
                    "health": {
                        "healthy": true, "failures": 1, "checked_at": "2026-11-25T00:00:00Z", "message": "\"}\n",
                    },
                    "running": [6, 7], "drift": true, "retires_at": "2026-11-25T00:10:00Z", "retirement": {"ends_in_s": 599.9},
                },
                "quiet": {
                    "phase": "idle", "desired": null, "current": null, "previous": null, "staged": null,
                    "waits_for": null, "progress": null, "error": null, "quarantined": [], "probation": null, "health": null,
                    "running": [],
                },
            },
        });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn the_status_is_said_in_numbers() {
        let text = text(&status()).unwrap();
        let lines: BTreeSet<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let (phases, others): (BTreeSet<_>, BTreeSet<_>) =
            lines.into_iter().partition(|line| line.starts_with("eci_workload_phase"));
        let mut wanted = vec![
            "eci_agent_info{version=\"1.2.3\"} 1",
            "eci_agent_last_error{kind=\"io\"} 1",
            "eci_config_rejected 1",
            "eci_cache_bytes 18446744073709551615",
            "eci_cache_free_bytes 30",
            "eci_desired_rejected 1",
            "eci_fsck_damage_left 2",
            "eci_workload_confirmed{workload=\"0._-\"} 0",
            "eci_workload_drift{workload=\"0._-\"} 1",
            "eci_workload_drift{workload=\"quiet\"} 0",
            "eci_workload_generation{workload=\"0._-\",which=\"current\"} 7",
            "eci_workload_generation{workload=\"0._-\",which=\"previous\"} 6",
            "eci_workload_generation{workload=\"0._-\",which=\"staged\"} 8",
            "eci_workload_health_failures{workload=\"0._-\"} 1",
            "eci_workload_healthy{workload=\"0._-\"} 1",
            "eci_workload_last_error{workload=\"0._-\",kind=\"io\"} 1",
            "eci_workload_quarantined{workload=\"0._-\"} 1",
            "eci_workload_quarantined{workload=\"quiet\"} 0",
            "eci_workload_retirement_pending{workload=\"0._-\"} 1",
            "eci_workload_retirement_pending{workload=\"quiet\"} 0",
            "eci_workload_retires_in_seconds{workload=\"0._-\"} 599",
            "eci_workload_running_generation{workload=\"0._-\",generation=\"6\"} 1",
            "eci_workload_running_generation{workload=\"0._-\",generation=\"7\"} 1",
            "eci_workload_update_wire_bytes{workload=\"0._-\"} 5",
        ];
        wanted.sort_unstable();
        assert_eq!(others.into_iter().collect::<Vec<_>>(), wanted);
        assert_eq!(phases.len(), 2 * Phase::ALL.len());
        let on: Vec<_> = phases.into_iter().filter(|line| line.ends_with(" 1")).collect();
        assert_eq!(
            on,
            [
                "eci_workload_phase{workload=\"0._-\",phase=\"probation\"} 1",
                "eci_workload_phase{workload=\"quiet\",phase=\"idle\"} 1"
            ]
        );
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let mut status = status();
        let workload = status.workloads.values_mut().next().unwrap();
        workload.health.as_mut().unwrap().healthy = None;
        assert!(!text(&status).unwrap().contains("eci_workload_healthy"));
        status.workloads.clear();
        status.agent.as_mut().unwrap().error = None;
        let names: Vec<_> = described(&text(&status).unwrap()).into_iter().collect();
        let wanted = [
            "eci_agent_info",
            "eci_cache_bytes",
            "eci_cache_free_bytes",
            "eci_config_rejected",
            "eci_desired_rejected",
            "eci_fsck_damage_left",
        ];
        assert_eq!(names, wanted);
    }

    /// The names that have a `# HELP`.
    fn described(text: &str) -> BTreeSet<String> {
        let name = |line: &str| Some(line.strip_prefix("# HELP ")?.split_once(' ')?.0.to_owned());
        text.lines().filter_map(name).collect()
    }

    #[test]
    fn each_line_is_of_the_format_and_all_are_gauges() {
        let text = text(&status()).unwrap();
        assert!(text.ends_with("# EOF\n"));
        let described = described(&text);
        for line in text.lines() {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "EOF"] => {}
                ["#", "HELP", name, help] => assert!(described.contains(name) && help.ends_with('.'), "{line}"),
                ["#", "TYPE", name, kind] => assert!(described.contains(name) && kind == "gauge", "{line}"),
                ["#", "UNIT", name, unit] => assert!(name.ends_with(unit), "{line}"),
                [sample, value] => {
                    let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
                    assert!(described.contains(name), "{line}");
                    assert!(value.parse::<u64>().is_ok(), "{line}");
                    let labels = labels.strip_suffix('}').unwrap();
                    for label in labels.split(',').filter(|label| !label.is_empty()) {
                        let (name, value) = label.split_once("=\"").unwrap();
                        let value = value.strip_suffix('"').unwrap();
                        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                        assert!(name.chars().all(|c| c.is_ascii_lowercase()) && value.chars().all(is_plain), "{line}");
                    }
                }
                _ => panic!("{line}"),
            }
        }
    }

    #[test]
    fn every_metric_is_in_the_document_and_no_other() {
        let written = described(&text(&status()).unwrap());
        let row = |line: &str| Some(line.strip_prefix("| `")?.split(['`', '{']).next()?.to_owned());
        let documented: BTreeSet<_> = include_str!("../../docs/metrics.md").lines().filter_map(row).collect();
        assert_eq!(written, documented);
    }

    #[test]
    fn a_problem_is_told_by_its_kind_alone() {
        let problem: ProblemStatus = status().workloads.values().next().unwrap().error.clone().unwrap();
        assert_eq!(problem.kind, Kind::Io);
        assert!(!text(&status()).unwrap().contains("forged"));
    }
}

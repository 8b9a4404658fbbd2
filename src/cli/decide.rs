//! `eci activate`, `eci confirm`, `eci rollback`: what only a person, or who stands in for one, decides.

use std::time::Duration;

use hyper::Method;

use super::client::Client;
use super::options::Options;
use super::output::{json, plain, print};
use super::screen::Screen;
use super::{table, workload};
use crate::agent::{Phase, Status, WorkloadStatus};
use crate::desired::WorkloadName;
use crate::failure::Failure;
use crate::wording::span;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The workload; it may be left out where there is only one.
    workload: Option<String>,
    /// The workload's JSON document, as it is then.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Has the agent do `what`, and shows what has come of it so far.
    pub(super) async fn run(self, what: &str, options: &Options) -> Result<(), Failure> {
        let client = Client::new(&options.client_settings()?.settings.api.socket);
        let name = if let Some(name) = &self.workload {
            workload::named(name)?
        } else {
            let status: Status = client.get("/v1/status").await?;
            let only = workload::only(status.workloads.into_keys().collect())?;
            only.ok_or_else(|| Failure::usage("there is no workload".to_owned()))?
        };
        let path = format!("/v1/workloads/{name}/{what}");
        // An image that is tried again is no longer among those that were rolled back.
        let was_given_up = match what {
            "activate" => {
                let before: WorkloadStatus = client.get(&format!("/v1/workloads/{name}")).await?;
                before.quarantined.len()
            }
            _ => 0,
        };
        let status: WorkloadStatus = client.ask(Method::POST, &path).await?;
        let is_retry = was_given_up > status.quarantined.len();
        if self.json {
            return print(&json(&status)?);
        }
        let answer = plain(&answer(what, &name, &status, is_retry));
        print(&format!("{answer}\n{}", table::line(&name, &status, jiff::Timestamp::now(), &Screen::of_stdout())))
    }
}

/// The effect of `what`, by the workload's status after it; `is_retry` if an image that was
/// rolled back is tried again.
fn answer(what: &str, name: &WorkloadName, status: &WorkloadStatus, is_retry: bool) -> String {
    let current = status.current.as_ref();
    let runs = || {
        current.map_or_else(|| "nothing runs".to_owned(), |current| format!("generation {} runs", current.generation))
    };
    match what {
        "confirm" => {
            current.map_or_else(runs, |current| format!("kept: generation {} is confirmed", current.generation))
        }
        "rollback" => match (&status.previous, current) {
            (Some(previous), Some(current)) if status.quarantined.contains(&current.digest) => {
                format!("going back to generation {}", previous.generation)
            }
            (Some(previous), None) => format!("going back to generation {}", previous.generation),
            _ => format!("rolled back already: {}", runs()),
        },
        _ => match (&status.staged, &status.waits_for) {
            (Some(staged), Some(waits)) if waits.window => {
                let opens = waits.window_opens_in_s.map_or_else(String::new, |time| {
                    format!(", in {}", span(Duration::try_from_secs_f64(time).unwrap_or_default()))
                });
                format!("approved: generation {} is activated once the window opens{opens}", staged.generation)
            }
            (Some(staged), Some(waits)) if waits.person => {
                format!("generation {} still waits for an approval (eci activate {name})", staged.generation)
            }
            (Some(staged), _) => format!("activating generation {}", staged.generation),
            (None, _) => match &status.desired {
                Some(desired) if is_retry => format!("trying {} again", desired.reference),
                _ if status.phase == Phase::Activating => "activating".to_owned(),
                _ => format!("active already: {}", runs()),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn generation(number: u64) -> Value {
        json!({
            "generation": number, "reference": format!("a.example/nginx:v{number}"),
            "digest": format!("sha256:{number}{:063}", 0), "index_digest": null, "activated_at": null, "confirmed": true,
        })
    }

    /// The answer about a workload that is quiet but for `changes`.
    fn said(what: &str, changes: &Value, is_retry: bool) -> String {
        let mut document = json!({
            "phase": "active", "current": generation(5), "previous": generation(4), "staged": null, "waits_for": null,
            "desired": {"reference": "a.example/nginx:v6", "digest": null, "index_digest": null}, "progress": null,
            "error": null, "quarantined": [], "probation": null, "health": null, "running": [],
        });
        document.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        answer(what, &"router".parse().unwrap(), &serde_json::from_value(document).unwrap(), is_retry)
    }

    #[test]
    fn the_answer_says_what_happens_now() {
        let waits = |person: bool, window: bool, opens: Option<f64>| {
            json!({"phase": "staged", "staged": generation(6),
                "waits_for": {"person": person, "window": window, "window_opens_in_s": opens}})
        };
        let given_up = json!({"phase": "activating", "quarantined": [generation(5)["digest"]]});
        for (what, changes, expected) in [
            ("confirm", json!({}), "kept: generation 5 is confirmed"),
            ("rollback", given_up, "going back to generation 4"),
            ("rollback", json!({"current": null}), "going back to generation 4"),
            ("rollback", json!({}), "rolled back already: generation 5 runs"),
            ("activate", json!({"phase": "activating", "staged": generation(6)}), "activating generation 6"),
            (
                "activate",
                waits(false, true, Some(0.4)),
                "approved: generation 6 is activated once the window opens, in <1s",
            ),
            ("activate", waits(false, true, None), "approved: generation 6 is activated once the window opens"),
            ("activate", json!({}), "active already: generation 5 runs"),
            ("activate", json!({"phase": "backoff"}), "active already: generation 5 runs"),
            ("activate", json!({"phase": "resolving"}), "trying a.example/nginx:v6 again"),
        ] {
            assert_eq!(said(what, &changes, expected.starts_with("trying")), expected, "{what} {changes}");
        }
    }
}

//! `eci activate`, `eci confirm`, `eci rollback`: what only a person, or who stands in for one, decides.

use hyper::Method;

use super::client::{Client, workload};
use super::options::Options;
use super::output::{json, print};
use super::table;
use crate::agent::{Status, WorkloadStatus};
use crate::desired::WorkloadName;
use crate::failure::Failure;

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
        let client = Client::new(&options.settings()?.api.socket);
        let name = match &self.workload {
            Some(name) => workload(name)?,
            None => only(&client.get("/v1/status").await?)?,
        };
        let path = format!("/v1/workloads/{name}/{what}");
        let status: WorkloadStatus = client.ask(Method::POST, &path).await?;
        print(&if self.json { json(&status)? } else { table::line(&name, &status, jiff::Timestamp::now()) })
    }
}

/// The only workload that there is.
fn only(status: &Status) -> Result<WorkloadName, Failure> {
    let mut names = status.workloads.keys();
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name.clone()),
        (None, _) => Err(Failure::usage("there is no workload".to_owned())),
        (Some(_), Some(_)) => {
            let names: Vec<_> = status.workloads.keys().map(WorkloadName::as_str).collect();
            Err(Failure::usage(format!("there are several workloads, name one of them: {}", names.join(", "))))
        }
    }
}

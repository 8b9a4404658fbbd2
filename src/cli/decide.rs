//! `eci activate`, `eci confirm`, `eci rollback`: what only a person, or who stands in for one, decides.

use hyper::Method;

use super::client::Client;
use super::options::Options;
use super::output::{json, print};
use super::{table, workload};
use crate::agent::{Status, WorkloadStatus};
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
        let client = Client::new(&options.client_settings()?.settings.api.socket);
        let name = if let Some(name) = &self.workload {
            workload::named(name)?
        } else {
            let status: Status = client.get("/v1/status").await?;
            let only = workload::only(status.workloads.into_keys().collect())?;
            only.ok_or_else(|| Failure::usage("there is no workload".to_owned()))?
        };
        let path = format!("/v1/workloads/{name}/{what}");
        let status: WorkloadStatus = client.ask(Method::POST, &path).await?;
        print(&if self.json { json(&status)? } else { table::line(&name, &status, jiff::Timestamp::now()) })
    }
}

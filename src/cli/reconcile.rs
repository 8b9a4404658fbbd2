//! `eci reconcile`: make the agent look again now.

use hyper::Method;

use super::client::Client;
use super::options::Options;
use super::output::print;
use super::workload;
use crate::failure::Failure;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The workload; all of them where none is named.
    workload: Option<String>,
}

impl Args {
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let path = match &self.workload {
            Some(name) => format!("/v1/workloads/{}/reconcile", workload::named(name)?),
            None => "/v1/reconcile".to_owned(),
        };
        let client = Client::new(&options.client_settings()?.settings.api.socket);
        client.send(Method::POST, &path, None).await?;
        match &self.workload {
            Some(name) => print(&format!("looking again at workload {name}\n")),
            None => print("looking again at the desired state and every image\n"),
        }
    }
}

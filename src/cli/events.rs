//! `eci events`: follow what happens.

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;

use super::client::{Client, ClientError};
use super::options::Options;
use super::output::{Reader, plain, print_on};
use crate::agent::{Entry, EntryId};
use crate::failure::Failure;

/// The longest event that is read, in bytes.
const MAX_EVENT: usize = 1024 * 1024;

#[derive(clap::Args)]
pub(super) struct Args {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Begin after the event with this id; an id of an earlier run of the agent begins with all that are kept.
    #[arg(long, value_name = "ID")]
    since: Option<EntryId>,
}

impl Args {
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let client = Client::new(&options.client_settings()?.settings.api.socket);
        let mut stream = EventStream::open(&client, self.since).await?;
        let reader = Reader::of_stdout();
        loop {
            let entry = tokio::select! {
                entry = stream.next(&client) => entry?,
                () = reader.gone() => return Ok(()),
            };
            let Some(entry) = entry else { return Ok(()) };
            let line = if self.json {
                serde_json::to_string(&entry).map_err(|error| Failure::internal(error.to_string()))?
            } else {
                let at = entry.at.strftime("%Y-%m-%dT%H:%M:%SZ");
                format!("{at} {:16} {}", entry.event, plain(&entry.message))
            };
            if !print_on(&format!("{line}\n"))? {
                return Ok(());
            }
        }
    }
}

/// Server-sent events, as the agent sends them: one `data` line each.
pub(super) struct EventStream {
    body: Incoming,
    buffer: Vec<u8>,
}

impl EventStream {
    pub(super) async fn open(client: &Client, since: Option<EntryId>) -> Result<Self, ClientError> {
        let response = client.send(Method::GET, "/v1/events", since).await?;
        Ok(Self { body: response.into_body(), buffer: Vec::new() })
    }

    /// The next event; none when the agent stops.
    pub(super) async fn next(&mut self, client: &Client) -> Result<Option<Entry>, ClientError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let text = String::from_utf8_lossy(&event);
                let Some(data) = text.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
                return serde_json::from_str(data).map(Some).map_err(|error| client.broken(error));
            }
            if self.buffer.len() > MAX_EVENT {
                return Err(client.broken("an event without an end"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.map_err(|error| client.broken(error))?;
                    self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                }
            }
        }
    }
}

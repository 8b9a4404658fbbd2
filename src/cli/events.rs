//! `eci events`: follow what happens.

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use jiff::Timestamp;

use super::client::{Client, ClientError};
use super::options::Options;
use super::output::{Reader, json_line, plain, print_on};
use super::screen::Screen;
use super::since::{Since, is_in};
use crate::agent::{Entry, EntryId};
use crate::desired::WorkloadName;
use crate::failure::Failure;

/// The longest event that is read, in bytes.
const MAX_EVENT: usize = 1024 * 1024;
/// The least widths of the columns of an event.
const WORKLOAD: usize = 10;
const EVENT: usize = 20;
const MIN_MESSAGE: usize = 24;

#[derive(clap::Args)]
pub(super) struct Args {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Begin after the event with this id, or look back so far, such as 10m or 1h; an id of an earlier run of the agent
    /// begins with all that are kept.
    #[arg(long, value_name = "ID|TIME")]
    since: Option<Since>,
}

impl Args {
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let client = Client::new(&options.client_settings()?.settings.api.socket);
        let earliest = self.since.and_then(|since| since.earliest(Timestamp::now()));
        let mut stream = EventStream::open(&client, self.since.and_then(Since::id)).await?;
        let reader = Reader::of_stdout();
        loop {
            let entry = tokio::select! {
                entry = stream.next(&client) => entry?,
                () = reader.gone() => return Ok(()),
            };
            let Some(entry) = entry else { return Ok(()) };
            if !is_in(&entry, earliest) {
                continue;
            }
            let text = if self.json { json_line(&entry)? } else { render(&entry, &Screen::of_stdout()) };
            if !print_on(&text)? {
                return Ok(());
            }
        }
    }
}

/// An event in columns: time, workload, event, message. On a narrow screen the message goes on beneath.
pub(super) fn render(entry: &Entry, screen: &Screen) -> String {
    let at = entry.at.strftime("%Y-%m-%dT%H:%M:%SZ");
    let name = entry.workload.as_ref().map_or("-", WorkloadName::as_str);
    let name = screen.width.map_or(name.to_owned(), |width| screen.shorten(name, (width / 3).max(WORKLOAD)));
    let message = plain(message(entry));
    let first = format!("{at}  {name:WORKLOAD$}  {:EVENT$}  ", plain(&entry.event));
    let mut text = String::new();
    if screen.width.is_none_or(|width| first.chars().count() + MIN_MESSAGE <= width) {
        screen.write(&mut text, &first, &message, 4, None);
    } else {
        screen.write(&mut text, first.trim_end(), "", 4, None);
        screen.write(&mut text, "    ", &message, 4, None);
    }
    text
}

/// The message without the workload's name at its beginning, which has a column.
fn message(entry: &Entry) -> &str {
    let rest = entry.workload.as_ref().and_then(|name| entry.message.strip_prefix(name.as_str()));
    rest.and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&entry.message)
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

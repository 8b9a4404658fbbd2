//! HTTP/1.1 over the Unix socket: reads for whoever may open it, changes for those who may make them.
//!
//! The document comes first: `openapi.json` beside this file is what the routes are held to.

mod body;
mod coalesce;
mod connections;
mod events;
mod listener;
mod metrics;
mod peer;
mod peer_groups;
mod problem;
mod routes;
mod server;

pub use listener::{ListenError, Listener};
pub use problem::Problem;
pub use server::serve;

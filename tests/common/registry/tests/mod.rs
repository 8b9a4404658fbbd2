//! The registry's own tests: what later tests rely on, seen from the wire.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails here has failed")]

mod auth;
mod client;
mod faults;
mod life;
mod pull;
mod push;

//! Every behaviour, one module each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong is to stop"
)]

mod layers;
mod state_diagram;
mod transition;

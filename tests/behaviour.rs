//! Every behaviour, one module each.

#![warn(clippy::pedantic)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends so")]

mod layers;
mod state_diagram;
mod transition;

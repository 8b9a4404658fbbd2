//! Every behaviour, one module each.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong is to stop"
)]

mod common;

mod api;
mod cli;
mod deploy;
mod desired_file;
mod faults;
mod service;

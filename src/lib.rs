//! The ECI pull agent: what an edge node trusts with what it boots.
//!
//! The modules stand in layer order; a file imports from lower layers only (`tests/layers.rs` holds that).
//!
//! | layer | owns |
//! | --- | --- |
//! | [`printable`] | text from elsewhere, made safe to show |
//! | [`wording`] | sizes, lengths of time, lists and system errors as messages have them |
//! | [`failure`] | the stable names of what can go wrong, and whether trying again helps |
//! | [`blocking`] | the one way from async code to code that blocks |
//! | [`clock`] | whether this machine's clock can be right |
//! | [`write_timeout`] | connections whose other end has to keep reading |
//! | [`oci`] | digests, references, descriptors, manifests, indexes: values, no I/O |
//! | [`eci`] | media types, roles, canonical file names, an artifact from its manifest and back: no I/O |
//! | [`durable`] | the ways to make something survive a power cut |
//! | [`config`] | `agent.toml`: fragment, merged, checked settings |
//! | [`desired`] | `desired.toml`: its parser and its watcher |
//! | [`registry`] | where bytes come from: the distribution API, and `oci:` directories |
//! | [`cache`] | the content-addressed store and its partial downloads |
//! | [`unpack`] | files out of layers, and headers of disks: read by a confined process |
//! | [`transfer`] | moving one image's missing blobs into the cache |
//! | [`deploy`] | generations, links, `launch.json`; window, hooks and health; admission, collection and fsck |
//! | [`publish`] | the workstation's side: push, pull, serve |
//! | [`agent`] | state, the pure transition, the reconcile loop, the status |
//! | [`api`] | HTTP over the Unix socket |
//! | [`cli`] | one file a command |
//!
//! # The way of a byte
//!
//! ```text
//! registry → size cap → digest → partial/ → fsync → cache/blobs → generations/<workload>/<n>/ → current
//! ```
//!
//! Each arrow is one step in one place: [`registry::Source::blob`] yields bytes and trusts none of them,
//! [`cache::Partial`] counts and hashes them on their way to disk and alone gives a blob its name,
//! [`deploy::Generations::materialize`] links blobs under their canonical names, and [`deploy::Links::activate`] swaps
//! `current`.

#![warn(clippy::pedantic)]
#![allow(clippy::module_name_repetitions, clippy::missing_errors_doc, clippy::must_use_candidate)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod printable;

pub mod wording;

pub mod failure;

pub mod blocking;

pub mod clock;

pub mod write_timeout;

pub mod oci;

pub mod eci;

pub mod durable;

pub mod config;

pub mod desired;

pub mod registry;

pub mod cache;

pub mod unpack;

pub mod transfer;

pub mod deploy;

pub mod publish;

pub mod agent;

pub mod api;

pub mod cli;

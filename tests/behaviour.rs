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

mod access;
mod activation;
mod api;
mod apply;
mod bad_images;
mod blockdev;
mod boot;
mod budget;
mod certificates;
mod cli;
mod collection;
mod config_command;
mod credentials;
mod debian_registry;
mod debug_log;
mod decompression;
mod demo;
mod dependencies;
mod deploy;
mod desired_file;
mod disk_faults;
mod disk_formats;
mod disks;
mod exec;
mod faults;
mod file_systems;
mod forms;
mod fsck;
mod fuzz_corpus;
mod guest;
mod health_check;
mod hook_runs;
mod hostile;
mod image_links;
mod index_entries;
mod inspect;
mod interop;
mod kill;
mod layer_bytes;
mod layers;
mod leftovers;
mod legacy;
mod legacy_layers;
mod lf_edge;
mod lf_edge_flags;
mod libvirt;
mod line;
mod log_reader;
mod login;
mod messages;
mod mirrors;
mod mishaps;
mod names;
mod one_fetch;
mod power_cut;
mod proxies;
mod pull_over;
mod pull_together;
mod pullfiles;
mod push_config;
mod push_index;
mod push_legacy;
mod push_progress;
mod push_pull;
mod retirement;
mod retries;
mod rollback;
mod root_commands;
mod samples;
mod serve;
mod service;
mod state_diagram;
mod state_file;
mod status;
mod strace_faults;
mod transfer;
mod transition;
mod units;
mod unreadable;
mod unsafe_disks;
mod upload;
mod worker;

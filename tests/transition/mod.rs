//! The pure transition, without a clock, a disk or a network: what follows from which event.

pub(crate) mod scene;

mod any_sequence;
mod change;
mod deployment;
mod desired_file;
mod found;
mod grace;
mod health;
mod hooks;
mod leftovers;
mod probation;
mod retirement;
mod rollback;
mod staging;
mod stray;
mod trouble;

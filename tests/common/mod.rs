//! What tests share: a registry with faults on demand, images to put there, and the agent as a process.

pub mod agent;
pub mod archive;
pub mod container;
pub mod cutter;
pub mod disk_bytes;
pub mod disk_image;
pub mod docker_registry;
pub mod edge_vm;
pub mod fault_points;
pub mod guest;
pub mod image;
pub mod proxy;
pub mod pty;
pub mod registry;
pub mod schema;
pub mod service;
pub mod socket;
pub mod vm;
pub mod workstation;

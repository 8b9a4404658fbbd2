//! Images to and from the tools that other people use.

mod bench;
mod containerd;
mod layers;
mod pushed;
mod recipes;

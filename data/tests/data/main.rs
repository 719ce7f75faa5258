//! Tests of the public interface, on files made in temporary folders.

mod jpeg;
mod loader;
mod readers;
mod scenes;
mod shards;

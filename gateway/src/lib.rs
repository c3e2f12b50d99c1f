//! A Skywave node: ends client connections and joins other nodes through a backplane.
//!
//! Arrows go down: transport -> protocol -> session -> shard -> relay -> backplane -> proto. A frame travels down by
//! call, a publication comes up by queue.

pub mod protocol;
pub mod session;
pub mod shard;

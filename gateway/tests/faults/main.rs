//! What clients and back ends see while Redis, the network or a node fails: delay and honest words, never silent loss.
//!
//! Real `skywave` processes over a real Redis, real WebSockets. The [`ledger`] gives the verdict: whatever was
//! acknowledged is heard once and in order, or its absence is told in its place. `make faults` runs all of it; what
//! takes long is left out of a plain `cargo test`.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)] // nobody reads these from outside; a test may fail

mod client;
mod cluster;
mod http;
mod ledger;
mod line;
mod node;
mod process;
mod proxy;
mod publisher;
mod redis;
mod roll;
mod sentinel;
mod traffic;
mod wait;

mod chaos;
mod emptied;
mod failover;
mod forming;
mod identity;
mod node_gone;
mod order;
mod presence;
mod refusal;
mod resharding;
mod restart;
mod rollback;
mod slow;
mod stall;

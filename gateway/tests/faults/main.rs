//! What clients and back ends see while Redis, the network or a node fails: delay and honest words, never silent loss.
//!
//! Real `skywave` processes over a real Redis, real WebSockets. The [`ledger`] gives the verdict: whatever was
//! acknowledged is heard once and in order, or its absence is told in its place. `make faults` runs all of it; what
//! takes long is left out of a plain `cargo test`.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)] // nobody reads these from outside; a test may fail
#![allow(dead_code)] // more faults follow

mod client;
mod http;
mod ledger;
mod node;
mod process;
mod proxy;
mod publisher;
mod redis;
mod traffic;
mod wait;

mod emptied;
mod identity;
mod node_gone;
mod refusal;
mod restart;
mod slow;
mod stall;

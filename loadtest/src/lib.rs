//! Loads a Skywave cluster as clients would, and counts what was lost, doubled or reordered.
//!
//! Read in this order:
//!
//! - [`wire`], [`stream`]: WebSocket frames, and the two ends of a connection; [`target`]: where it leads
//! - [`client`]: one client of the JSON protocol; [`incoming`]: what it is told
//! - [`stamp`]: what its publications carry; [`scan`]: how that is found without parsing
//! - [`pace`], [`tally`]: when a publication is due, and what became of it; both pure
//! - [`scenario`]: the loads; [`scenario::fanout`] is many subscribers on one channel
//! - [`spread`]: how a time was spread over many samples
//! - [`process`]: what /proc says about the node and about ourselves
//! - [`report`]: the figures, the verdict, the table and the JSON object
//! - [`floor`]: servers that do the bare work and nothing else, for figures that are ratios
//! - [`standin`]: a node that can do just enough, and misbehave on request; [`selftest`] holds the generator against it
//!
//! Except in [`scenario::roll`] (and its storm) it never reconnects, never repeats a publication and never slows down for the node: what goes wrong is a result.

pub mod client;
pub mod floor;
pub mod incoming;
pub mod pace;
pub mod process;
pub mod report;
pub mod scan;
pub mod scenario;
pub mod selftest;
pub mod spread;
pub mod stamp;
pub mod standin;
pub mod stream;
pub mod tally;
pub mod target;
mod upgrade;
pub mod wire;

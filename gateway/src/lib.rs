//! A Skywave node: ends client connections and joins other nodes through a backplane.
//!
//! Rooms, from the top; imports go down only. A frame travels down by call, a publication comes up by queue.
//!
//! - [`node`]: builds the parts, owns their tasks, stops them in order
//! - [`reload`]: new settings for a running node
//! - [`transport`]: public listeners, HTTP, WebSockets · [`admin`]: the internal listener
//! - [`control`]: what nodes ask and tell each other · [`peers`]: sessions whose requests reach any node
//! - [`protocol`]: messages <-> commands, replies, pushes; one folder or file for each client protocol
//! - [`session`]: what one client has asked for and may do
//! - [`shard`]: one thread, its connections, who is on which channel
//! - [`leaving`]: who goes when the node drains, or has more than its share
//! - [`relay`]: which shard wants which channel, and the node's one way to its backplane
//! - [`webhooks`]: the user's back end, asked before and told after
//! - [`auth`]: token -> who the client is, which channels it may use
//! - ground floor: [`config`], [`metrics`], [`push`] (what a node says unasked), [`clock`], [`tls`],
//!   [`outbound`] (HTTP to what the operator names), [`open_files`]

pub mod admin;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod leaving;
pub mod metrics;
pub mod node;
pub mod open_files;
pub mod outbound;
pub mod peers;
pub mod protocol;
pub mod push;
pub mod relay;
pub mod reload;
pub mod session;
pub mod shard;
pub mod tls;
pub mod transport;
pub mod webhooks;

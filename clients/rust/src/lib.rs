//! A client of Skywave.
//!
//! ```no_run
//! # async fn run() -> Result<(), skywave_client::ClientError> {
//! use skywave_client::{Client, Event};
//!
//! let client = Client::builder("ws://localhost:8000/ws").connect().await?;
//! let mut lobby = client.subscribe("chat:lobby").await?;
//! client.publish_json("chat:lobby", &serde_json::json!({ "text": "hello" })).await?;
//! while let Some(event) = lobby.next().await {
//!     match event {
//!         Event::Publication(publication) => println!("{}", String::from_utf8_lossy(publication.payload.data())),
//!         Event::Gap(gap) => println!("something was missed ({}): load what you show anew", gap.reason),
//!         other => println!("{other:?}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - A connection that ends is made again, after the time that the node has said, or else at a random moment of a span that
//!   doubles: a thousand clients of a node that has died do not come back as one.
//! - All subscriptions come back in one round trip, each from its last position. Every publication is handed over once and
//!   in order; where that cannot be had an [`Event::Gap`] says so, and nothing else does.
//! - What was being published is published once: it goes out again with the same idempotency key.
//! - A subscription that is read too slowly holds at most [`WAITING`] events; what came meanwhile is then read from the
//!   channel's history, without a loss, if it keeps one.
//!
//! The wire is `skywave.v1.protobuf`: `proto/proto/skywave/v1/client.proto`.

mod builder;
mod client;
mod connection;
mod driver;
mod error;
mod event;
mod line;
mod order;
mod pacing;
mod speech;
mod subscription;

pub use skywave_proto::{Epoch, Member, Payload, PayloadKind, StreamPosition};

pub use self::{
    builder::Builder,
    client::Client,
    error::{ClientError, Refusal},
    event::{Connection, Event, Gap, HistoryPage, MemberPage, Publication, Published},
    subscription::{SubscribeOptions, Subscription, WAITING},
};

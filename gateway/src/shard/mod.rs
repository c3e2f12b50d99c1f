//! One thread, one runtime, the connections that it owns and which channels they are on.

mod outbox;
mod push;

pub use outbox::{Outbox, SlowConsumer};
pub use push::{Encoded, Format, Frame, GapDetail, GapReason, Goodbye, Prepared, Push, SLOTS};

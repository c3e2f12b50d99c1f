//! The internal listener: the server API for back ends, metrics and probes for operators.

mod api;
mod guard;
mod http;
mod problem;

pub use self::http::{Internal, serve};

//! Development mode: open, and therefore on loopback addresses only unless somebody asks for others.

use std::net::SocketAddr;

use super::{Flags, layer::Layer, problem::Place};

/// Whether this start is in development mode: asked for, or nothing at all was configured. A file, a variable or a Redis
/// is a sign that others may depend on the node, and then nothing is open that was not named.
pub(super) fn is_on(flags: &Flags, environment: &Layer) -> bool {
    flags.dev || flags.config.is_none() && environment.is_empty() && flags.is_in_memory()
}

/// Of `limits`: none of them in development mode.
const RATES: [&str; 5] = [
    "handshakes_per_second",
    "new_channels_per_minute",
    "commands_per_second",
    "publications_per_second",
    "bytes_per_second",
];

/// What development mode changes: a layer below all that anybody wrote.
pub(super) fn defaults() -> Layer {
    let mut layer = Layer::default();
    let mut push = |dotted: &str, value: ::config::ValueKind| {
        let path = dotted.split('.').map(str::to_owned).collect();
        layer.push(path, Place::Development, ::config::Value::new(None, value));
    };
    push("public.listen", vec!["127.0.0.1:8000".to_owned()].into());
    push("auth.anonymous", true.into());
    push("demo.enabled", true.into());
    push("namespaces.default.history.size", 100.into());
    push("namespaces.default.history.ttl", "10m".into());
    push("namespaces.default.presence", true.into());
    push("namespaces.default.subscribe", "anyone".into());
    push("namespaces.default.publish", "subscribers".into());
    // Whoever tries out how much it takes, on a machine of his own, wants to see that, and not a limit that he did not set.
    for rate in RATES {
        push(&format!("limits.{rate}"), 0.into());
    }
    // Nobody is behind a balancer, and somebody waits at a terminal.
    push("drain.grace", "0s".into());
    push("drain.window", "500ms".into());
    push("limits.overload_memory", 0.0.into());
    push("limits.overload_lag", "0s".into());
    layer
}

/// One for each listener that others can reach.
pub(super) fn warnings<'a>(
    public: &'a [SocketAddr],
    internal: &'a [SocketAddr],
) -> impl Iterator<Item = String> + use<'a> {
    let open = |list: &'a [SocketAddr]| list.iter().filter(|address| !address.ip().to_canonical().is_loopback());
    let public = open(public).map(|address| {
        format!(
            "development mode on public.listen {address}: whoever reaches it connects without credentials and may \
             subscribe and publish on channels of namespaces that are not configured"
        )
    });
    let internal = open(internal)
        .map(|address| format!("development mode on internal.listen {address}: whoever reaches it reads metrics"));
    public.chain(internal)
}

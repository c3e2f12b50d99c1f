//! Settings that are loaded while a node runs: which of them it can take.

use serde_json::Value as Json;

use super::{
    InternalSettings, Problem, PublicSettings, Settings, contradictions, layer::Path, schema::Document, source::Sources,
};

/// What a node is built with. A section stands for all that is in it.
const STAYS: [&[&str]; 10] = [
    &["node"],
    &["public", "listen"],
    &["public", "trusted_proxies"],
    &["public", "proxy_protocol"],
    &["public", "tls"],
    &["internal"],
    &["backplane"],
    &["limits", "node_outbox_bytes"],
    &["limits", "node_ring_bytes"],
    &["timeouts", "session_grace"],
];

/// Whether a running node takes a new value of this setting.
pub(super) fn is_taken(path: &[String]) -> bool {
    !STAYS.iter().any(|stays| path.len() >= stays.len() && path.iter().zip(*stays).all(|(a, b)| a == b))
}

impl Settings {
    /// These settings for a node that runs with `running`: what a node is built with stays as it is. With them the names of
    /// the settings for which the node would have to be started again, in order.
    pub fn for_running(mut self, running: &Self) -> (Self, Vec<String>) {
        let wanted = self.tree();
        self.node = running.node.clone();
        self.public.listen.clone_from(&running.public.listen);
        self.public.trusted_proxies.clone_from(&running.public.trusted_proxies);
        self.public.proxy_protocol = running.public.proxy_protocol;
        self.public.tls.clone_from(&running.public.tls);
        self.internal = running.internal.clone();
        self.backplane = running.backplane.clone();
        self.limits.node_outbox_bytes = running.limits.node_outbox_bytes;
        self.limits.node_ring_bytes = running.limits.node_ring_bytes;
        // The backplane was told at start how long a member that vanished stays.
        self.timeouts.session_grace = running.timeouts.session_grace;
        let kept = self.tree();
        (self, differences(&wanted, &kept))
    }

    /// What does not go together. Loading has refused that for what was written; what [`Settings::for_running`] has put
    /// together nobody wrote.
    pub fn contradictions(&self) -> Vec<Problem> {
        let all = self.clone();
        let document = Document {
            node: all.node,
            // The files of TLS are the affair of whoever watches them.
            public: PublicSettings { tls: None, ..all.public },
            internal: InternalSettings { tls: None, ..all.internal },
            backplane: all.backplane,
            auth: all.auth,
            api: all.api,
            limits: all.limits,
            timeouts: all.timeouts,
            drain: all.drain,
            demo: all.demo,
            debug: all.debug,
            sockjs: all.sockjs,
            webhooks: all.webhooks,
            namespaces: all.namespaces,
        };
        let mut problems = Vec::new();
        contradictions::check(&document, &Sources::default(), &mut problems);
        problems
    }

    /// The names of the settings that are not the same in both, in order; of a secret or a list only that it differs.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut names = differences(&self.tree(), &other.tree());
        // The tree has its path, and not what the file holds.
        if self.webhooks.ca != other.webhooks.ca && !names.iter().any(|name| name == "webhooks.ca") {
            names.push("webhooks.ca".to_owned());
        }
        names
    }

    /// As [`Serialize`](serde::Serialize) has it.
    pub(super) fn tree(&self) -> Json {
        serde_json::to_value(self).unwrap_or_default() // names are texts and numbers finite: there is nothing to fail on
    }
}

fn differences(one: &Json, other: &Json) -> Vec<String> {
    let mut found = Vec::new();
    compare(&mut Vec::new(), one, other, &mut found);
    found
}

fn compare(path: &mut Path, one: &Json, other: &Json, found: &mut Vec<String>) {
    let (Json::Object(a), Json::Object(b)) = (one, other) else {
        if one != other {
            found.push(path.join("."));
        }
        return;
    };
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    for key in keys {
        path.push(key.clone());
        match (a.get(key), b.get(key)) {
            (Some(one), Some(other)) => compare(path, one, other, found),
            _ => found.push(path.join(".")),
        }
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Loader};

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Loader::new(&Flags::default(), variables.iter().copied()).load().unwrap()
    }

    const EXPECTED: [&str; 6] = [
        "backplane.url",
        "limits.node_outbox_bytes",
        "node.secret",
        "node.shards",
        "public.listen",
        "timeouts.session_grace",
    ];
    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn what_a_node_is_built_with_stays() {
        let running = settings(&[("SKYWAVE__NODE__NAME", "a"), ("SKYWAVE__NODE__SHARDS", "2")]);
        let fresh = settings(&[
            ("SKYWAVE__NODE__NAME", "a"),
            ("SKYWAVE__NODE__SHARDS", "3"),
            ("SKYWAVE__NODE__SECRET", SECRET),
            ("SKYWAVE__PUBLIC__LISTEN", "127.0.0.1:9"),
            ("SKYWAVE__BACKPLANE__URL", "redis://h"),
            ("SKYWAVE__LIMITS__CHANNELS_PER_CONNECTION", "3"),
            ("SKYWAVE__LIMITS__NODE_OUTBOX_BYTES", "5MiB"),
            ("SKYWAVE__TIMEOUTS__SESSION_GRACE", "9s"),
            ("SKYWAVE__NAMESPACES__CHAT__PRESENCE", "true"),
        ]);
        let (taken, needs_restart) = fresh.for_running(&running);
        assert_eq!(needs_restart, EXPECTED);
        let path = |dotted: &String| dotted.split('.').map(str::to_owned).collect::<Path>();
        assert!(needs_restart.iter().all(|name| !is_taken(&path(name))));
        assert!(running.differences(&taken).iter().all(|name| is_taken(&path(name))));
        assert_eq!(taken.node.shards, 2);
        assert_eq!(running.differences(&taken), ["limits.channels_per_connection", "namespaces.chat"]);
        assert!(taken.contradictions().is_empty());
        let (again, needs_restart) = taken.clone().for_running(&taken);
        assert!(needs_restart.is_empty() && again.differences(&taken).is_empty());
    }

    #[test]
    fn a_node_that_nobody_named_keeps_its_name() {
        let loader = Loader::new(&Flags::default(), [("SKYWAVE__DEBUG__ECHO", "true")]);
        assert_eq!(loader.load().unwrap().node.name, loader.load().unwrap().node.name);
    }
}

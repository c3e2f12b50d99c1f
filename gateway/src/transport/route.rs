//! Which paths a public listener serves; pure.

/// What is served at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// WebSockets of our protocols, by subprotocol.
    Native,
    /// WebSockets with one channel's payloads.
    Raw,
    /// WebSockets on which every message comes back, if `debug.echo`.
    Echo,
    /// Channels as a stream of events.
    Sse,
    /// SockJS, where nothing else is configured.
    SockJs,
    /// What comes next on a channel, as one answer.
    Poll,
    /// Publications of clients that have no connection.
    Publish,
    /// What this is.
    Index,
    /// How it looks.
    Style,
    /// The demos, if `demo.enabled`.
    Demo,
}

/// Every path there is. One that ends with `*` stands for all that begin so. Nothing is served that is not here, so whoever
/// looks whether all of it is closed finds all of it here.
pub const ROUTES: [(&str, Route); 12] = [
    ("/ws", Route::Native),
    ("/raw/*", Route::Raw),
    ("/echo", Route::Echo),
    ("/sse", Route::Sse),
    ("/sockjs", Route::SockJs),
    ("/sockjs/*", Route::SockJs),
    ("/poll", Route::Poll),
    ("/publish", Route::Publish),
    ("/", Route::Index),
    ("/index.css", Route::Style),
    ("/demo", Route::Demo),
    ("/demo/*", Route::Demo),
];

impl Route {
    /// What is served at a path, and what stands in it behind a pattern; `None` where it is no pattern.
    pub(super) fn of(path: &str) -> Option<(Self, Option<&str>)> {
        ROUTES.into_iter().find_map(|(pattern, route)| match pattern.strip_suffix('*') {
            Some(beginning) => path.strip_prefix(beginning).map(|rest| (route, Some(rest))),
            None => (path == pattern).then_some((route, None)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_one_place_or_to_none() {
        assert_eq!(Route::of("/ws"), Some((Route::Native, None)));
        assert_eq!(Route::of("/raw/a:b"), Some((Route::Raw, Some("a:b"))));
        assert_eq!(Route::of("/demo/"), Some((Route::Demo, Some(""))));
        assert_eq!(Route::of("/demo"), Some((Route::Demo, None)));
        for path in ["", "/ws/", "/raw", "/demos", "//", "/index.html"] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }
}

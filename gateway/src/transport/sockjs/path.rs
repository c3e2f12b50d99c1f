//! What a path below a service's prefix stands for; pure.

/// A place of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The prefix itself.
    Greeting,
    /// `/info`
    Info,
    /// `/iframe….html`
    Iframe,
    /// `/websocket`: messages without frames of SockJS.
    RawWebSocket,
    /// The script of the client.
    Client,
    /// `/{server}/{session}/…`. The server is for balancers, and looked at by nobody here.
    Session(&'a str, Action),
}

/// What is done with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    WebSocket,
    Receive(Receiver),
    Send(Sender),
}

/// How a client receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiver {
    Xhr,
    XhrStreaming,
    EventSource,
    HtmlFile,
    Jsonp,
}

/// How it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Xhr,
    Jsonp,
}

/// The file with the client's script; its version is in its name, so it may be kept for ever.
pub(super) const CLIENT: &str = "sockjs-1.6.1.min.js";

impl<'a> Place<'a> {
    /// Of a path behind the prefix, which begins with a slash or is empty. `None`: nothing is there.
    pub(super) fn of(rest: &'a str) -> Option<Self> {
        let path = rest.strip_suffix('/').unwrap_or(rest);
        let Some(path) = path.strip_prefix('/') else {
            return rest.trim_matches('/').is_empty().then_some(Self::Greeting);
        };
        let mut steps = path.split('/');
        match (steps.next(), steps.next(), steps.next(), steps.next()) {
            (Some("info"), None, ..) => Some(Self::Info),
            (Some("websocket"), None, ..) => Some(Self::RawWebSocket),
            (Some(CLIENT), None, ..) => Some(Self::Client),
            (Some(file), None, ..) => is_iframe(file).then_some(Self::Iframe),
            (Some(server), Some(session), Some(last), None) if is_name(server) && is_name(session) => {
                Some(Self::Session(session, Action::of(last)?))
            }
            _ => None,
        }
    }
}

impl Action {
    fn of(step: &str) -> Option<Self> {
        Some(match step {
            "websocket" => Self::WebSocket,
            "xhr" => Self::Receive(Receiver::Xhr),
            "xhr_streaming" => Self::Receive(Receiver::XhrStreaming),
            "eventsource" => Self::Receive(Receiver::EventSource),
            "htmlfile" => Self::Receive(Receiver::HtmlFile),
            "jsonp" => Self::Receive(Receiver::Jsonp),
            "xhr_send" => Self::Send(Sender::Xhr),
            "jsonp_send" => Self::Send(Sender::Jsonp),
            _ => return None,
        })
    }
}

/// Anything without a dot.
fn is_name(step: &str) -> bool {
    !step.is_empty() && !step.contains('.')
}

/// `iframe[0-9-.a-z_]*.html`
fn is_iframe(file: &str) -> bool {
    let version = file.strip_prefix("iframe").and_then(|rest| rest.strip_suffix(".html"));
    version.is_some_and(|version| {
        version.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase() || b"-._".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_a_service() {
        for (path, place) in [
            ("", Place::Greeting),
            ("/", Place::Greeting),
            ("/info", Place::Info),
            ("/info/", Place::Info),
            ("/websocket", Place::RawWebSocket),
            ("/websocket/", Place::RawWebSocket),
            ("/iframe.html", Place::Iframe),
            ("/iframe-a.html", Place::Iframe),
            ("/iframe-0.1.2-dev_.html", Place::Iframe),
            ("/sockjs-1.6.1.min.js", Place::Client),
            ("/0/a/xhr", Place::Session("a", Action::Receive(Receiver::Xhr))),
            ("/_/a/xhr/", Place::Session("a", Action::Receive(Receiver::Xhr))),
            ("/a%20b/c%20d/xhr_send", Place::Session("c%20d", Action::Send(Sender::Xhr))),
            ("/0/a/websocket", Place::Session("a", Action::WebSocket)),
        ] {
            assert_eq!(Place::of(path), Some(place), "{path}");
        }
    }

    #[test]
    fn anything_else_is_nowhere() {
        for path in [
            "/a",
            "/a.html",
            "//",
            "///",
            "/a/a",
            "/a/a/",
            "//a/xhr",
            "/a//xhr",
            "/a./b/xhr",
            "/a/b./xhr",
            "/a/b/xhr/x",
            "/a/b/nothing",
            "/IFRAME.html",
            "/iframe.HTML",
            "/iframe.htm",
            "/iframe.xml",
            "/iframe",
            "/iframe-/.html",
            "/iframe-A.html",
            "/info/x",
            "x",
        ] {
            assert!(Place::of(path).is_none(), "{path}: {:?}", Place::of(path));
        }
    }
}

//! `[[sockjs]]`: where SockJS is served, and what it carries there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skywave_proto::ChannelName;

use super::size;

/// Where our own protocol is served over SockJS when nobody says anything about it.
const PREFIX: &str = "/sockjs";
/// The first steps of what else is served on the public listener.
const TAKEN: [&str; 8] = ["ws", "raw", "sse", "poll", "publish", "demo", "index.css", "console"];

/// `[[sockjs]]`: a SockJS service, for clients that cannot open a WebSocket. None written: one at `/sockjs` that speaks our
/// JSON protocol.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SockJsService {
    /// Where it is: what a page gives to `new SockJS(…)`, without the host. Steps of letters, digits, `-`, `_` or `.` behind
    /// slashes; no service inside another.
    pub prefix: String,
    /// What its messages are. Default `protocol`.
    #[serde(default)]
    pub mode: SockJsMode,
    /// With `raw`: whose payloads they are. Default: none.
    #[serde(default)]
    pub channel: Option<String>,
    /// Bytes of one streaming response; then it ends and the client asks for the next. Default 128 KiB: a browser keeps all of
    /// a response in memory.
    #[serde(default = "response_limit", with = "size::Field")]
    pub response_limit: usize,
    /// Whether it is served over WebSockets too. Default `true`.
    #[serde(default = "yes")]
    pub websocket: bool,
    /// Whether every answer of a session sets the cookie `JSESSIONID`, by which some balancers keep a client with a node. Default
    /// `false`: nothing here needs that.
    #[serde(default)]
    pub cookie: bool,
    /// Where the page inside the client's iframes finds the client's own script: an address or a path. Default: the node serves
    /// sockjs-client itself, below the prefix.
    #[serde(default)]
    pub client_url: Option<String>,
}

/// What the messages of a SockJS service are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SockJsMode {
    /// Commands of our JSON protocol, and its replies and pushes.
    #[default]
    Protocol,
    /// The payloads of one channel, as on `/raw`.
    Raw,
    /// Every message comes back. For tests.
    Echo,
    /// Every session ends at once. For tests.
    Close,
}

fn response_limit() -> usize {
    128 << 10
}

fn yes() -> bool {
    true
}

impl Default for SockJsService {
    fn default() -> Self {
        Self {
            prefix: PREFIX.to_owned(),
            mode: SockJsMode::Protocol,
            channel: None,
            response_limit: response_limit(),
            websocket: true,
            cookie: false,
            client_url: None,
        }
    }
}

impl SockJsService {
    /// Whose payloads it carries, where it is `raw`.
    pub fn channel(&self) -> Option<ChannelName> {
        ChannelName::parse(self.channel.as_deref()?).ok()
    }
}

/// What cannot be, with the keys behind `sockjs.`; `has_echo` says that `/echo` is served.
pub(super) fn problems(services: &[SockJsService], has_echo: bool) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    for (index, service) in services.iter().enumerate() {
        let mut add = |key: &str, message: String| problems.push((format!("{index}.{key}"), message));
        let prefix = service.prefix.as_str();
        if let Err(message) = check_prefix(prefix, has_echo) {
            add("prefix", message);
        }
        if let Some(other) = services[..index].iter().find(|other| is_inside(prefix, &other.prefix)) {
            add(
                "prefix",
                format!("{prefix} and {} are one inside the other: give them places of their own", other.prefix),
            );
        }
        match (service.mode, service.channel.as_deref()) {
            (SockJsMode::Raw, None) => {
                add("channel", r#"mode = "raw" carries the payloads of one channel: name it"#.to_owned());
            }
            (SockJsMode::Raw, Some(name)) => {
                if let Err(error) = ChannelName::parse(name) {
                    add("channel", error.to_string());
                }
            }
            (_, Some(_)) => add("channel", r#"only mode = "raw" has a channel"#.to_owned()),
            (_, None) => {}
        }
        if service.response_limit == 0 {
            add("response_limit", "has at least 1 byte".to_owned());
        }
        if u32::try_from(service.response_limit).is_err() {
            add("response_limit", "has less than 4 GiB".to_owned());
        }
        if let Some(url) = &service.client_url {
            let is_address = ["/", "http://", "https://"].iter().any(|beginning| url.starts_with(beginning));
            if !is_address || url.chars().any(|c| c.is_control() || c.is_whitespace() || "\"'<>&".contains(c)) {
                add(
                    "client_url",
                    "begins with /, http:// or https:// and has no spaces, quotes, `<`, `>` or `&`".to_owned(),
                );
            }
        }
    }
    problems
}

fn check_prefix(prefix: &str, has_echo: bool) -> Result<(), String> {
    let form = "is a path, like /sockjs: at most 64 letters (a to z), digits, `-`, `_` or `.` in steps behind slashes";
    let steps = prefix.strip_prefix('/').ok_or(form)?;
    let is_step = |step: &str| {
        !step.is_empty()
            && !step.starts_with('.')
            && step.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if prefix.len() > 64 || !steps.split('/').all(is_step) {
        return Err(form.to_owned());
    }
    let first = steps.split('/').next().unwrap_or_default();
    if TAKEN.contains(&first) {
        return Err(format!("/{first} is served already"));
    }
    if first == "echo" && has_echo {
        return Err("/echo is served already (debug.echo)".to_owned());
    }
    Ok(())
}

/// Whether one of the two paths is the other or below it.
fn is_inside(one: &str, other: &str) -> bool {
    let below = |path: &str, beginning: &str| {
        path.strip_prefix(beginning).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(one, other) || below(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_path_that_nothing_else_has() {
        for good in ["/sockjs", "/a/b-c_d.e", "/echo", "/rawer", &format!("/{}", "x".repeat(63))] {
            assert_eq!(check_prefix(good, false), Ok(()), "{good}");
        }
        for bad in ["", "/", "sockjs", "/a/", "/a//b", "/ä", "/a b", "/..", "/raw", "/ws/x", "/demo", &"/x".repeat(33)]
        {
            assert!(check_prefix(bad, false).is_err(), "{bad}");
        }
        assert!(check_prefix("/echo", true).is_err());
    }

    #[test]
    fn no_service_is_inside_another() {
        assert!(is_inside("/a", "/a") && is_inside("/a", "/a/b") && is_inside("/a/b", "/a"));
        assert!(!is_inside("/a", "/ab") && !is_inside("/a/b", "/a/c"));
    }
}

//! What a client wants of `/sse`: it says so in the address, and where it stood in a header; pure.

use http::{HeaderMap, Request, header};
use skywave_proto::{ChannelName, ErrorCode, StreamPosition};

use crate::{
    protocol::encoded,
    session::{Refusal, Since, Subscribe},
    transport::credentials::{self, form_decoded, parameter},
};

const LAST_EVENT_ID: &str = "last-event-id";
/// How long an `id` may become, in bytes: it comes back as one line of a request's head, beside an address that holds all the
/// names once more.
const ID_BYTES: usize = 6 * 1024;
/// The most that a position takes in it, with what stands around it.
const POSITION_BYTES: usize = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Wish {
    /// At least one, each once.
    pub(super) channels: Vec<Subscribe>,
    /// Lines of JSON instead of events.
    pub(super) lines: bool,
}

impl Wish {
    /// Reads it.
    ///
    /// # Errors
    /// `bad_request` without a channel, or with what is none; `too_large` if there are too many.
    pub(super) fn of<B>(request: &Request<B>) -> Result<Self, Refusal> {
        let query = request.uri().query();
        let presence = parameter(query, "presence").is_some_and(|value| matches!(value, "" | "1" | "true"));
        let mut channels: Vec<Subscribe> = Vec::new();
        let mut id_bytes = 0;
        for name in credentials::parameters(query, "channel") {
            let channel = channel(name)?;
            if channels.iter().any(|known| known.channel == channel) {
                continue;
            }
            id_bytes += encoded(&channel).len() + POSITION_BYTES;
            if id_bytes > ID_BYTES {
                let message = "too many channels for one stream: the browser could not say where it stood on all of them; \
                               open several streams, or use a WebSocket";
                return Err(Refusal::new(ErrorCode::TooLarge, message));
            }
            channels.push(Subscribe { channel, since: None, presence, echo: true, token: None });
        }
        if channels.is_empty() {
            let message = "say which channel: /sse?channel=NAME, several with &channel= between them";
            return Err(Refusal::new(ErrorCode::BadRequest, message));
        }
        let stood = stood(request.headers(), query);
        if let Some(stood) = stood {
            set_since(&mut channels, &stood);
        }
        Ok(Self { channels, lines: wants_lines(request.headers()) })
    }
}

/// A channel's name as it stands in the address.
///
/// # Errors
/// `bad_request` if it is none.
pub(in crate::transport) fn channel(name: &str) -> Result<ChannelName, Refusal> {
    let bad = |message: String| Refusal::new(ErrorCode::BadRequest, message);
    let name = form_decoded(name).ok_or_else(|| bad("the channel in the address is not UTF-8".into()))?;
    ChannelName::parse(&name).map_err(|error| bad(error.to_string()))
}

/// What the last event's id was: a browser that comes back says so itself, whatever stands in the address from the first time.
fn stood(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    let header = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
    let stood = header.filter(|id| !id.is_empty()).or_else(|| form_decoded(parameter(query, "since")?));
    stood.filter(|id| !id.is_empty())
}

/// `epoch:offset` for one channel, `name=epoch:offset` between commas for each of several.
fn set_since(channels: &mut [Subscribe], stood: &str) {
    let is_one = channels.len() == 1;
    for part in stood.split(',') {
        let (name, position) = part.split_once('=').map_or((None, part), |(name, position)| (Some(name), position));
        let since = position.parse::<StreamPosition>().map_or(Since::Foreign, Since::Position);
        let meant = channels.iter_mut().find(|subscribe| match name {
            Some(name) => encoded(&subscribe.channel) == name || subscribe.channel.as_str() == name,
            None => is_one,
        });
        if let Some(subscribe) = meant {
            subscribe.since = Some(since);
        }
    }
}

fn wants_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let mut kinds =
        accepted.flat_map(|line| line.split(',')).map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.find(|kind| matches!(*kind, "text/event-stream" | "application/x-ndjson" | "*/*"))
        == Some("application/x-ndjson")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(uri: &str, lines: &[(&str, &str)]) -> Result<Wish, Refusal> {
        let mut request = Request::get(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        Wish::of(&request.body(()).unwrap())
    }

    fn asked(uri: &str, lines: &[(&str, &str)]) -> Vec<(String, String)> {
        let since = |since: Option<Since>| match since {
            Some(Since::Position(position)) => position.to_string(),
            Some(Since::Foreign) => "foreign".into(),
            None => String::new(),
        };
        let wish = wish(uri, lines).unwrap();
        wish.channels.into_iter().map(|asked| (asked.channel.as_str().to_owned(), since(asked.since))).collect()
    }

    fn pair(channel: &str, since: &str) -> (String, String) {
        (channel.into(), since.into())
    }

    #[test]
    fn channels_stand_in_the_address_each_once() {
        assert_eq!(asked("/sse?channel=a%3Ab+c&x=1&channel=d&channel=d", &[]), [pair("a:b c", ""), pair("d", "")]);
        for uri in ["/sse", "/sse?channel=", "/sse?channels=a", "/sse?channel=%ff", "/sse?channel=a%0a"] {
            assert_eq!(wish(uri, &[]).unwrap_err().code, ErrorCode::BadRequest, "{uri}");
        }
        let many: String = (0..200).map(|n| format!("channel=some-name-{n}&")).collect();
        assert_eq!(wish(&format!("/sse?{many}"), &[]).unwrap_err().code, ErrorCode::TooLarge);
    }

    #[test]
    fn where_the_client_stood_is_in_the_header_or_in_the_address() {
        let at = "k3x9k3x9:7";
        assert_eq!(asked(&format!("/sse?channel=a&since={at}"), &[]), [pair("a", at)]);
        let newer = [("last-event-id", "k3x9k3x9:9")];
        assert_eq!(asked(&format!("/sse?channel=a&since={at}"), &newer), [pair("a", "k3x9k3x9:9")]);
        assert_eq!(asked(&format!("/sse?channel=a&since={at}"), &[("last-event-id", "")]), [pair("a", at)]);
        assert_eq!(asked("/sse?channel=a", &[("last-event-id", "nonsense")]), [pair("a", "foreign")]);
        let many = [("last-event-id", "b%3D%2C=k3x9k3x9:2,a=k3x9k3x9:1,x=k3x9k3x9:3")];
        let uri = "/sse?channel=a&channel=b%3D%2C&channel=c";
        assert_eq!(asked(uri, &many), [pair("a", "k3x9k3x9:1"), pair("b=,", "k3x9k3x9:2"), pair("c", "")]);
        let plain = "/sse?channel=a&channel=b&since=a=k3x9k3x9:1,b=k3x9k3x9:2";
        assert_eq!(asked(plain, &[]), [pair("a", "k3x9k3x9:1"), pair("b", "k3x9k3x9:2")]);
    }

    #[test]
    fn lines_are_for_whoever_prefers_them() {
        let lines = |accept: &str| wish("/sse?channel=a", &[("accept", accept)]).unwrap().lines;
        assert!(lines("application/x-ndjson") && lines("application/x-ndjson, text/event-stream;q=0.5"));
        assert!(!lines("text/event-stream") && !lines("*/*") && !lines("text/html"));
        assert!(!wish("/sse?channel=a", &[]).unwrap().lines);
    }
}

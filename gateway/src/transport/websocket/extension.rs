use std::fmt;

/// What permessage-deflate was agreed on; as text (`Display`) the value of `Sec-WebSocket-Extensions` in the answer.
///
/// Neither end keeps a context between messages, whatever was offered: RFC 7692 §7.1.1 lets a server answer both
/// parameters unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// `server_max_window_bits` as it was asked for.
    asked: Option<u8>,
}

impl Agreed {
    /// The window that messages to this client may be compressed with, as the binary logarithm of its size in bytes: 9 to
    /// 15. What is compressed with a smaller window is good for a larger one.
    pub fn window_bits(self) -> u8 {
        self.asked.unwrap_or(LARGEST)
    }
}

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}; {SERVER_NO_CONTEXT}; {CLIENT_NO_CONTEXT}")?;
        match self.asked {
            Some(bits) => write!(f, "; {SERVER_WINDOW}={bits}"),
            None => Ok(()),
        }
    }
}

const NAME: &str = "permessage-deflate";
const SERVER_NO_CONTEXT: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT: &str = "client_no_context_takeover";
const SERVER_WINDOW: &str = "server_max_window_bits";
const CLIENT_WINDOW: &str = "client_max_window_bits";
/// RFC 7692 §7.1.2: 8 to 15.
const LARGEST: u8 = 15;
/// zlib has no raw stream with a window of 256 bytes, so an offer that asks for it is declined.
const SMALLEST: u8 = 9;

/// Chooses the first offer that can be kept, in the client's order. `values` are those of its `Sec-WebSocket-Extensions`
/// headers. `None`: no extension, and no such header in the answer.
///
/// An offer with an unknown parameter, the same one twice, or a value that is none is declined, not an error.
///
/// Source: RFC 6455 §9.1, RFC 7692 §5.1 and §7.1.
pub fn negotiate<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Agreed> {
    values.into_iter().flat_map(|value| split(value, ',')).find_map(accept)
}

fn accept(offer: &str) -> Option<Agreed> {
    let mut parts = split(offer, ';');
    if parts.next() != Some(NAME) {
        return None;
    }
    let mut asked = None;
    let mut seen = Vec::new(); // at most the four parameters that there are
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start()))),
            None => (part, None),
        };
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match (name, value) {
            (SERVER_NO_CONTEXT | CLIENT_NO_CONTEXT | CLIENT_WINDOW, None) => {}
            (CLIENT_WINDOW, Some(value)) => drop(window_bits(value)?), // every inflater has the largest window
            (SERVER_WINDOW, Some(value)) => asked = Some(window_bits(value).filter(|bits| *bits >= SMALLEST)?),
            _ => return None,
        }
    }
    Some(Agreed { asked })
}

/// 8 to 15 without a leading zero (RFC 7692 §7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    let is_number = !value.starts_with('0') && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|bits| is_number && (8..=LARGEST).contains(bits))
}

/// A value may be quoted (RFC 6455 §9.1). None of ours needs an escape within.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// Splits at `separator`, but not within a quoted string; each part without the blanks around it.
fn split(list: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    list.split(move |c| {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => return c == separator && !is_quoted,
        }
        false
    })
    .map(|part| part.trim_matches([' ', '\t']))
}

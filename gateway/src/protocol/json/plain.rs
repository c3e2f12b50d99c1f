//! The command of which there are most, in the form in which nearly every client writes it.
//!
//! `{"publish":{"channel":"…","data":…}}`, with an `id` in front or without, no space between the words and no escape in the
//! name, as `JSON.stringify` makes it: that much is found by looking where it has to stand, and the data is checked and
//! passed on as it is. Whatever else there is [`super::decode`] reads; what both can read they read alike.

use bytes::Bytes;
use serde_json::value::RawValue;
use skywave_proto::Payload;

use crate::{protocol::parts, session::Envelope};

/// A publish; all of it is part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Publish<'a> {
    id: Option<u64>,
    channel: &'a str,
    data: &'a str,
}

impl<'a> Publish<'a> {
    /// Finds its parts; `None` if it is not written so, or not one at all.
    pub(super) fn find(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(b"{\"")?;
        let (id, rest) = match rest.strip_prefix(b"id\":") {
            Some(rest) => number(rest).map(|(id, rest)| (Some(id), rest))?,
            None => (None, rest),
        };
        let rest = rest.strip_prefix(b"publish\":{\"channel\":\"")?.strip_suffix(b"}}")?;
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        let data = std::str::from_utf8(rest[end..].strip_prefix(b"\",\"data\":")?).ok()?;
        let channel = std::str::from_utf8(&rest[..end]).ok()?;
        // One value and nothing behind it: then the two braces are those of the command.
        let data = serde_json::from_str::<&RawValue>(data).ok()?.get();
        Some(Self { id, channel, data })
    }

    /// Makes the command of it. `message` is what the line is part of: it lives on as the payload, unless less than half
    /// of it is that; a history would hold the rest as well.
    pub(super) fn parse(self, message: &Bytes) -> Envelope {
        let data = self.data.as_bytes();
        let data = if data.len() * 2 >= message.len() { message.slice_ref(data) } else { Bytes::copy_from_slice(data) };
        Envelope { id: self.id, command: parts::publish(self.channel, Ok(Payload::json(data)), None) }
    }
}

/// A whole number up to the comma and the quotation mark behind it, and what comes then. One with so many digits that it
/// might not fit is left to others.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().take(20).position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    let rest = rest.strip_prefix(b",\"")?;
    if digits.len() > 1 && digits[0] == b'0' {
        return None; // no JSON
    }
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(line: &str) -> Option<(Option<u64>, &str, &str)> {
        Publish::find(line.as_bytes()).map(|Publish { id, channel, data }| (id, channel, data))
    }

    #[test]
    fn finds_what_clients_write() {
        assert_eq!(
            find(r#"{"publish":{"channel":"a:ü","data":{"x":[1,"}}"]}}}"#),
            Some((None, "a:ü", r#"{"x":[1,"}}"]}"#))
        );
        assert_eq!(find(r#"{"id":0,"publish":{"channel":"","data": 7 }}"#), Some((Some(0), "", "7")));
        let most = format!(r#"{{"id":{},"publish":{{"channel":"a","data":null}}}}"#, 1_234_567_890_123_456_789_u64);
        assert_eq!(find(&most), Some((Some(1_234_567_890_123_456_789), "a", "null")));
    }

    #[test]
    fn leaves_the_rest_to_others() {
        for line in [
            r#"{"publish":{"channel":"a","data":1},"x":2}"#,
            r#"{"publish":{"channel":"a","data":1,"key":"k"}}"#,
            r#"{"publish":{"channel":"a","data":1,"data":2}}"#,
            r#"{"publish":{"channel":"a\n","data":1}}"#,
            r#"{"publish":{"channel":"a","data":}}"#,
            r#"{"publish":{"channel":"a","data":1 2}}"#,
            r#"{"publish":{"channel":"a","data":01}}"#,
            r#"{"publish":{"channel":"a","data":{}}"#,
            r#"{"publish":{"channel":"a","data_base64":"AA=="}}"#,
            r#"{"id":01,"publish":{"channel":"a","data":1}}"#,
            r#"{"id":,"publish":{"channel":"a","data":1}}"#,
            r#"{"id":-1,"publish":{"channel":"a","data":1}}"#,
            r#"{"id":12345678901234567890,"publish":{"channel":"a","data":1}}"#,
            r#" {"publish":{"channel":"a","data":1}}"#,
            r#"{"ping":{}}"#,
            "",
        ] {
            assert_eq!(find(line), None, "{line}");
        }
    }

    #[test]
    fn a_message_lives_on_only_for_a_payload_that_is_most_of_it() {
        let shares = |text: String| {
            let message = Bytes::from(text);
            let line = message.split(|byte| *byte == b'\n').next().unwrap();
            let envelope = Publish::find(line).unwrap().parse(&message);
            let Ok(crate::session::Command::Publish { payload, .. }) = envelope.command else { panic!("a publish") };
            message.as_ptr_range().contains(&payload.data().as_ptr())
        };
        let publish = |bytes: usize| format!(r#"{{"publish":{{"channel":"a","data":"{}"}}}}"#, "x".repeat(bytes));
        assert!(shares(publish(100)));
        assert!(!shares(publish(1)));
        assert!(!shares(format!("{}\n{}", publish(100), publish(1000))));
    }
}

//! The frames of SockJS, and the escaping inside them; pure.
//!
//! Text inside a frame is JSON, with more escaped than JSON asks for: what browsers have eaten or changed on the way.

use std::fmt::Write as _;

use bytes::Bytes;

/// The first frame of a session.
pub const OPEN: &str = "o";
/// A sign of life.
pub const HEARTBEAT: &str = "h";

/// A frame with one message.
pub fn message(text: &str) -> Bytes {
    let mut frame = String::with_capacity(text.len() + text.len() / 8 + 6);
    frame.push_str("a[");
    quote(text, &mut frame);
    frame.push(']');
    frame.into()
}

/// One frame with the messages of several, in order. Each is one that [`message`] or this has made.
pub fn joined(frames: &[Bytes]) -> Bytes {
    if let [one] = frames {
        return one.clone();
    }
    let mut all = Vec::with_capacity(frames.iter().map(Bytes::len).sum());
    all.extend_from_slice(b"a[");
    for (index, frame) in frames.iter().enumerate() {
        if index > 0 {
            all.push(b',');
        }
        all.extend_from_slice(inside(frame));
    }
    all.push(b']');
    all.into()
}

fn inside(frame: &[u8]) -> &[u8] {
    frame.strip_prefix(b"a[").and_then(|rest| rest.strip_suffix(b"]")).unwrap_or_default()
}

/// The last frame of a session.
pub fn close(code: u16, reason: &str) -> Bytes {
    let mut frame = format!("c[{code},");
    quote(reason, &mut frame);
    frame.push(']');
    frame.into()
}

/// Appends a text as a JSON string.
fn quote(text: &str, to: &mut String) {
    to.push('"');
    let mut clean = 0;
    for (at, character) in text.char_indices() {
        if !is_escaped(character) {
            continue;
        }
        to.push_str(&text[clean..at]);
        clean = at + character.len_utf8();
        match character {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(to, "\\u{unit:04x}"); // a String takes everything
                }
            }
        }
    }
    to.push_str(&text[clean..]);
    to.push('"');
}

/// Source: sockjs-protocol, "escapable by server"; and what takes two units of UTF-16, which some clients cut in two.
fn is_escaped(character: char) -> bool {
    matches!(character,
        '"' | '\\'
        | '\0'..='\u{1f}'
        | '\u{200c}'..='\u{200f}'
        | '\u{2028}'..='\u{202f}'
        | '\u{2060}'..='\u{206f}'
        | '\u{fff0}'..='\u{ffff}'
        | '\u{10000}'..)
}

/// A frame as a string of a script inside a page: nothing in it can end the script.
pub fn script_string(frame: &str) -> String {
    let mut string = String::with_capacity(frame.len() + frame.len() / 4 + 2);
    string.push('"');
    for character in frame.chars() {
        match character {
            '"' => string.push_str("\\\""),
            '\\' => string.push_str("\\\\"),
            '<' => string.push_str("\\u003c"),
            other => string.push(other), // a frame has no control characters
        }
    }
    string.push('"');
    string
}

/// What a client sends: no JSON, or not what is expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Broken JSON encoding.")]
pub struct Broken;

/// The messages in what a client sends over HTTP: an array of strings.
///
/// # Errors
/// [`Broken`].
pub fn array(text: &[u8]) -> Result<Vec<String>, Broken> {
    serde_json::from_slice(text).map_err(|_| Broken)
}

/// The messages in what a client sends over a WebSocket: an array of strings, or one string, or nothing.
///
/// # Errors
/// [`Broken`].
pub fn message_or_array(text: &[u8]) -> Result<Vec<String>, Broken> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.trim_ascii_start().first() == Some(&b'"') {
        return serde_json::from_slice(text).map(|message| vec![message]).map_err(|_| Broken);
    }
    array(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_may_eat_is_escaped_byte_for_byte() {
        let text =
            "\u{0}\n\u{1f} \u{200b}\u{200c}\u{2028}\u{202f}\u{2060}\u{206f}\u{2070}\u{ffef}\u{fff0}\u{ffff}é\"\\/";
        let expected = "a[\"\\u0000\\u000a\\u001f \u{200b}\\u200c\\u2028\\u202f\\u2060\\u206f\u{2070}\u{ffef}\\ufff0\\uffffé\
                        \\\"\\\\/\"]";
        assert_eq!(message(text), expected);
        assert_eq!(message("a😀b"), r#"a["a\ud83d\ude00b"]"#);
        let back: Vec<String> = serde_json::from_slice(&message(text)[1..]).unwrap();
        assert_eq!(back, [text]);
    }

    #[test]
    fn messages_that_come_together_share_a_frame() {
        assert_eq!(joined(&[message("a"), joined(&[message("]"), message("c")])]), r#"a["a","]","c"]"#);
        assert_eq!(joined(&[message("a")]), r#"a["a"]"#);
    }

    #[test]
    fn the_end_says_why() {
        assert_eq!(close(3000, "Go away!"), r#"c[3000,"Go away!"]"#);
        assert_eq!(close(4000, "\"\n"), r#"c[4000,"\"\u000a"]"#);
    }

    #[test]
    fn nothing_in_a_frame_ends_a_script() {
        let frame = message("</script>\"\\\n");
        let frame = std::str::from_utf8(&frame).unwrap();
        let string = script_string(frame);
        assert!(!string.contains('<'));
        assert_eq!(serde_json::from_str::<String>(&string).unwrap(), frame);
    }

    #[test]
    fn what_a_client_sends_is_strings_or_nothing() {
        assert_eq!(array(br#"["a","b"]"#).unwrap(), ["a", "b"]);
        assert_eq!(array(b"[]").unwrap(), [""; 0]);
        for broken in [&b""[..], b"\"a\"", b"[1]", b"[\"a\"", b"{}", b"[\"\\ud800\"]", b"[\"\xff\"]"] {
            assert_eq!(array(broken), Err(Broken), "{broken:?}");
        }
        assert_eq!(message_or_array(b"").unwrap(), [""; 0]);
        assert_eq!(message_or_array(b" \"a\"").unwrap(), ["a"]);
        assert_eq!(message_or_array(b"[\"a\",\"b\"]").unwrap(), ["a", "b"]);
        assert_eq!(message_or_array(b"[\"a\""), Err(Broken));
    }
}

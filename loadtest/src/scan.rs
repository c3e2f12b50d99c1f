//! Finds what a publication of ours says without parsing it: the words stand where the node puts them, and the payload is
//! as long as it was made. Every byte of the line is compared, so that what is found is what a full parse would find.
//!
//! A line that is anything else is nobody's fault and costs a full parse; so is every publication of somebody else.

use crate::stamp::Stamp;

/// Finds the publications of one run on one channel.
#[derive(Debug)]
pub struct Scanner {
    /// Up to the channel's end: `{"publication":{"channel":"…",`.
    head: Vec<u8>,
    /// From the payload to the publisher's number: `"data":{"run":"…","from":`.
    stamp: Vec<u8>,
    run: String,
    /// Bytes of a payload.
    size: usize,
}

/// What a publication says.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Its place, and the epoch as JSON text; none on a live-only channel.
    pub position: Option<(u64, &'a str)>,
    /// What we had put into it.
    pub stamp: Stamp<'a>,
}

impl Scanner {
    /// `channel` and `run` as they were sent; `size` as given to [`Stamp::write`].
    pub fn new(channel: &str, run: &str, size: usize) -> Self {
        let channel = serde_json::Value::from(channel).to_string();
        Self {
            head: format!(r#"{{"publication":{{"channel":{channel},"#).into_bytes(),
            stamp: format!(r#""data":{{"run":"{run}","from":"#).into_bytes(),
            run: run.to_owned(),
            size,
        }
    }

    /// Reads the line at the beginning of `text`: what it says, and where the next one begins. `None`: it is not what a
    /// node writes for a publication of this run on this channel.
    pub fn scan<'a>(&'a self, text: &'a [u8]) -> Option<(Found<'a>, usize)> {
        let mut rest = text.strip_prefix(self.head.as_slice())?;
        let mut position = None;
        if let Some(after) = rest.strip_prefix(br#""offset":"#) {
            let (offset, after) = number(after)?;
            let after = after.strip_prefix(br#","epoch":"#)?;
            let end = after.iter().skip(1).position(|byte| matches!(byte, ..b' ' | b'"' | b'\\'))? + 2;
            let (epoch, after) = after.split_at(end);
            rest = after.strip_prefix(b",").filter(|_| epoch.starts_with(b"\"") && epoch.ends_with(b"\""))?;
            position = Some((offset, str::from_utf8(epoch).ok()?));
        }
        let payload = text.len() - rest.len() + br#""data":"#.len();
        let (from, rest) = number(rest.strip_prefix(self.stamp.as_slice())?)?;
        let (seq, rest) = number(rest.strip_prefix(br#","seq":"#)?)?;
        let (due, rest) = number(rest.strip_prefix(br#","due":"#)?)?;
        let (sent, rest) = number(rest.strip_prefix(br#","sent":"#)?)?;
        let rest = rest.strip_prefix(br#","pad":""#)?;
        let from = u32::try_from(from).ok()?;

        // A payload that had no room for padding ends elsewhere, and is not found here.
        let padding = text.get(text.len() - rest.len()..payload + self.size - br#""}"#.len())?;
        let tail = text.get(payload + self.size - br#""}"#.len()..)?.strip_prefix(br#""}"#)?;
        let line = tail.iter().position(|byte| *byte == b'\n');
        let (tail, next) = match line {
            Some(end) => (&tail[..end], text.len() - tail.len() + end + 1),
            None => (tail, text.len()),
        };
        let stamp = Stamp { run: &self.run, from, seq, due, sent };
        (is_padding(padding) && is_end(tail)).then_some((Found { position, stamp }, next))
    }
}

/// Whether it is what [`Stamp::write`] fills up with.
fn is_padding(text: &[u8]) -> bool {
    static PADDING: [u8; 4096] = [b'x'; 4096];
    text.chunks(PADDING.len()).all(|chunk| *chunk == PADDING[..chunk.len()])
}

/// Whether a line may end so behind its payload: with who published it, or without.
fn is_end(tail: &[u8]) -> bool {
    let mut rest = tail;
    for field in [br#","client":""#.as_slice(), br#","user":""#] {
        if let Some(after) = rest.strip_prefix(field) {
            let Some(after) = past_plain(after) else { return false };
            rest = after;
        }
    }
    rest == b"}}"
}

/// What follows a string of which the first quote was read, if it holds only what needs no second look: no escape, nothing
/// that JSON forbids, and no bytes that might not be UTF-8.
fn past_plain(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| matches!(byte, ..b' ' | b'"' | b'\\' | b'{' | b'}' | 0x7F..))?;
    text[end..].strip_prefix(b"\"")
}

/// A number as JSON writes it without sign and fraction, and what follows it.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in text.iter().enumerate() {
        match byte.wrapping_sub(b'0') {
            digit @ ..=9 => value = value.checked_mul(10)?.checked_add(u64::from(digit))?,
            _ if at == 1 || at > 1 && text[0] != b'0' => return Some((value, &text[at..])),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::incoming::Incoming;

    const RUN: &str = "0123abcd";

    fn payload(stamp: &Stamp<'_>, size: usize) -> String {
        let mut text = String::new();
        stamp.write(size, &mut text);
        text
    }

    fn line(channel: &str, offset: Option<u64>, data: &str, rest: &str) -> String {
        let position = offset.map(|offset| format!(r#""offset":{offset},"epoch":"k3x9","#)).unwrap_or_default();
        let channel = serde_json::Value::from(channel);
        format!(r#"{{"publication":{{"channel":{channel},{position}"data":{data}{rest}}}}}"#)
    }

    /// What the full parse says about a line.
    fn parsed<'a>(line: &'a str, channel: &str) -> Option<(Option<(u64, &'a str)>, Stamp<'a>)> {
        let publication = serde_json::from_str::<Incoming<'_>>(line).ok()?.publication?;
        let position = publication.offset.zip(publication.epoch.map(|epoch| epoch.get()));
        let stamp = serde_json::from_str(publication.data?.get()).ok()?;
        (publication.channel == channel).then_some((position, stamp))
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_full_parse_finds(
            channel in "[a-z:\"\\\\é]{1,20}",
            offset in prop::option::of(any::<u64>()),
            (from, seq, due, sent) in (any::<u32>(), 0..1_000_000_000_u64, 0..1_000_000_000_000_u64, any::<u32>()),
            size in 60..400_usize,
            (rest, is_plain) in prop_oneof![
                Just(("", true)),
                Just((r#","client":"01J""#, true)),
                Just((r#","client":"01J","user":"ann""#, true)),
                Just((r#","client":"01J","user":"}}\n""#, false)),
                Just((r#","client":"01J","user":"änn""#, false)),
            ],
            others in 0..3_usize,
        ) {
            let stamp = Stamp { run: RUN, from, seq, due, sent: sent.into() };
            let one = line(&channel, offset, &payload(&stamp, size), rest);
            let text = vec![one.as_str(); others + 1].join("\n");
            let scanner = Scanner::new(&channel, RUN, size);
            // A stamp longer than its size is left to the full parse, and so is what must be looked at twice.
            if let Some((found, next)) = scanner.scan(text.as_bytes()) {
                let (position, stamp) = parsed(&one, &channel).unwrap();
                prop_assert_eq!(found, Found { position, stamp });
                prop_assert_eq!(next, if others == 0 { text.len() } else { one.len() + 1 });
            } else {
                prop_assert!(size < Stamp::MIN_SIZE || !is_plain);
            }
        }

        #[test]
        fn a_line_with_a_wrong_byte_is_found_only_if_it_says_the_same(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            tail in prop_oneof![Just(""), Just(r#","client":"01J""#), Just(r#","client":"01J","user":"ann""#)],
        ) {
            let stamp = Stamp { run: RUN, from: 3, seq: 14, due: 15, sent: 92 };
            let mut text = line("a", Some(7), &payload(&stamp, 128), tail).into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            let scanner = Scanner::new("a", RUN, 128);
            if let Some((found, next)) = scanner.scan(&text) {
                prop_assert_eq!(next, text.len());
                let text = str::from_utf8(&text).unwrap();
                let (position, stamp) = parsed(text, "a").unwrap();
                prop_assert_eq!(found, Found { position, stamp });
            }
        }

        #[test]
        fn a_line_that_is_cut_is_not_found(keep in any::<prop::sample::Index>()) {
            let stamp = Stamp { run: RUN, from: 3, seq: 14, due: 15, sent: 92 };
            let text = line("a", Some(7), &payload(&stamp, 128), "");
            let keep = keep.index(text.len());
            let scanner = Scanner::new("a", RUN, 128);
            prop_assert_eq!(scanner.scan(&text.as_bytes()[..keep]), None);
        }
    }

    #[test]
    fn two_lines_without_a_newline_between_are_not_found() {
        let stamp = Stamp { run: RUN, from: 3, seq: 14, due: 15, sent: 92 };
        for tail in ["", r#","client":"01J""#, r#","client":"01J","user":"ann""#] {
            let one = line("a", Some(7), &payload(&stamp, 128), tail);
            let scanner = Scanner::new("a", RUN, 128);
            assert!(scanner.scan(one.as_bytes()).is_some());
            for glued in [format!("{one}{one}"), format!("{one},{one}"), format!("{one} {one}")] {
                assert_eq!(scanner.scan(glued.as_bytes()), None, "{glued}");
            }
        }
    }

    #[test]
    fn padding_is_looked_at_to_its_end() {
        let stamp = Stamp { run: RUN, from: 3, seq: 14, due: 15, sent: 92 };
        let whole = line("a", None, &payload(&stamp, 10_000), r#","client":"01J""#);
        let scanner = Scanner::new("a", RUN, 10_000);
        assert!(scanner.scan(whole.as_bytes()).is_some());
        for at in [whole.find("xx").unwrap(), 5_000, whole.rfind("xx").unwrap() + 1] {
            let mut text = whole.clone();
            text.replace_range(at..=at, "y");
            assert_eq!(scanner.scan(text.as_bytes()), None, "{at}");
        }
    }

    #[test]
    fn what_is_not_ours_is_left_to_the_full_parse() {
        let stamp = Stamp { run: RUN, from: 0, seq: 0, due: 0, sent: 0 };
        let ours = payload(&stamp, 128);
        let other = payload(&Stamp { run: "ffffffff", ..stamp }, 128);
        let scanner = Scanner::new("a", RUN, 128);
        assert!(scanner.scan(line("a", None, &ours, "").as_bytes()).is_some());
        for text in [
            line("b", None, &ours, ""),
            line("a", None, &other, ""),
            line("a", None, "1", ""),
            r#"{"id":1,"published":{}}"#.to_owned(),
            String::new(),
        ] {
            assert_eq!(scanner.scan(text.as_bytes()), None, "{text}");
        }
    }
}

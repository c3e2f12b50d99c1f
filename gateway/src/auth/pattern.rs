//! Which channels a token opens.

use std::{fmt, sync::Arc};

use skywave_proto::ChannelName;

/// The longest pattern, in bytes: as the longest channel name.
pub const MAX_PATTERN_BYTES: usize = ChannelName::MAX_BYTES;

/// Names channels. Segments are what `:` separates. A segment `*` stands for any one, a last segment `**` for any rest of at least
/// one, all others for themselves.
///
/// `chat:*` has `chat:a` and not `chat:a:b`; `chat:**` has both, and not `chat` itself, which belongs to another
/// namespace; `*` has `lobby`, `**` everything. The system's own channels (`#…`) no pattern has: what a client may do
/// there is not for its token to say.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

/// Why a text is not a [`Pattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It would not be a channel name either: empty, longer than [`MAX_PATTERN_BYTES`], control characters, spaces at the ends.
    #[error("a pattern has 1 to 255 bytes, no control characters and no spaces at its ends")]
    NoName,
    /// `a*`, `***`: whoever writes that expects something that does not happen.
    #[error("a `*` or `**` in a pattern is a whole segment between two `:`")]
    StarInSegment,
    /// `a:**:b`.
    #[error("a `**` is the last segment of its pattern")]
    RestNotLast,
    /// `#user:7`.
    #[error("a pattern does not begin with `#`: those channels are the system's own")]
    Reserved,
}

impl Pattern {
    /// Checks a pattern; the only way in.
    ///
    /// # Errors
    /// Which rule it breaks, in words for whoever wrote it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let name = ChannelName::parse(text).map_err(|_| PatternError::NoName)?;
        if name.is_reserved() {
            return Err(PatternError::Reserved);
        }
        let mut segments = text.split(':').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "**" if segments.peek().is_some() => return Err(PatternError::RestNotLast),
                "*" | "**" => {}
                other if other.contains('*') => return Err(PatternError::StarInSegment),
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// Whether it has this channel.
    pub fn matches(&self, channel: &ChannelName) -> bool {
        if channel.is_reserved() {
            return false;
        }
        let mut segments = channel.as_str().split(':');
        for wanted in self.0.split(':') {
            match (wanted, segments.next()) {
                (_, None) => return false,
                ("**", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(segment)) if wanted == segment => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Some patterns, shared by all that were made of one token. None: no channel.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Patterns(Option<Arc<[Pattern]>>);

impl Patterns {
    /// Whether one of them has this channel. Costs a comparison a pattern.
    pub fn matches(&self, channel: &ChannelName) -> bool {
        self.iter().any(|pattern| pattern.matches(channel))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter().flat_map(|patterns| patterns.iter())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl From<Vec<Pattern>> for Patterns {
    fn from(patterns: Vec<Pattern>) -> Self {
        Self((!patterns.is_empty()).then(|| patterns.into()))
    }
}

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    #[test]
    fn a_pattern_has_what_it_says_and_nothing_else() {
        let table: [(&str, &[&str], &[&str]); 10] = [
            ("lobby", &["lobby"], &["Lobby", "lobby:", "lobby:a", "lobb", "default:lobby"]),
            ("chat:lobby", &["chat:lobby"], &["chat:lobby:a", "chat", "lobby", "chat:lobbyx"]),
            ("chat:*", &["chat:a", "chat:", "chat:*", "chat:a b"], &["chat", "chat:a:b", "chats:a", "xchat:a"]),
            ("chat:**", &["chat:a", "chat:a:b", "chat:a:b:c", "chat:"], &["chat", "chats:a", "xchat:a"]),
            ("*", &["lobby", "chat", "*"], &["chat:a", "a:", "#user", "#user:7"]),
            ("**", &["lobby", "chat:a", "chat:a:b", ":"], &["#user", "#user:7", "#user:7:x", "#"]),
            ("*:log", &["a:log", "b:log", ":log"], &["a:log:x", "log", "a:b:log", "#user:log"]),
            ("a:*:c", &["a:b:c", "a::c"], &["a:b:d", "a:c", "a:b:b:c"]),
            ("a:*:**", &["a:b:c", "a:b:c:d", "a:b:"], &["a:b", "a"]),
            ("ü:*", &["ü:ß"], &["u:ß", "\u{75}\u{308}:ß"]),
        ];
        for (text, has, has_not) in table {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!(pattern.as_str(), text);
            for name in has {
                assert!(pattern.matches(&channel(name)), "{text} {name}");
            }
            for name in has_not {
                assert!(!pattern.matches(&channel(name)), "{text} {name}");
            }
        }
    }

    #[test]
    fn what_is_written_wrong_is_refused() {
        for (text, error) in [
            ("", PatternError::NoName),
            (" a", PatternError::NoName),
            ("a\n", PatternError::NoName),
            (&"x".repeat(256), PatternError::NoName),
            ("a*", PatternError::StarInSegment),
            ("a:*b", PatternError::StarInSegment),
            ("***", PatternError::StarInSegment),
            ("a:***", PatternError::StarInSegment),
            ("**:a", PatternError::RestNotLast),
            ("a:**:", PatternError::RestNotLast),
            ("#user:7", PatternError::Reserved),
            ("#user:*", PatternError::Reserved),
            ("#**", PatternError::Reserved),
        ] {
            assert_eq!(Pattern::parse(text), Err(error), "{text:?}");
        }
        assert!(Pattern::parse(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn none_open_nothing() {
        let none = Patterns::from(Vec::new());
        assert!(none.is_empty() && !none.matches(&channel("a")));
        let some = Patterns::from(vec![Pattern::parse("a").unwrap(), Pattern::parse("b:*").unwrap()]);
        assert!(some.matches(&channel("a")) && some.matches(&channel("b:x")) && !some.matches(&channel("c")));
        assert_eq!(format!("{some:?}"), r#"["a", "b:*"]"#);
    }

    proptest! {
        /// The same, said another way: as a regular language over segments.
        #[test]
        fn a_pattern_means_what_a_slow_reading_of_it_means(
            pattern in prop::collection::vec("[ab*]{0,2}", 1..4),
            name in prop::collection::vec("[ab#]{0,2}", 1..5),
        ) {
            fn slow(pattern: &[&str], name: &[&str]) -> bool {
                match (pattern, name) {
                    ([], []) => true,
                    (["**"], rest) => !rest.is_empty(),
                    (["*", pattern @ ..], [_, name @ ..]) => slow(pattern, name),
                    ([a, pattern @ ..], [b, name @ ..]) => a == b && slow(pattern, name),
                    _ => false,
                }
            }
            let (text, name) = (pattern.join(":"), name.join(":"));
            if let (Ok(parsed), Ok(channel)) = (Pattern::parse(&text), ChannelName::parse(&name)) {
                let split: (Vec<_>, Vec<_>) = (text.split(':').collect(), name.split(':').collect());
                prop_assert_eq!(parsed.matches(&channel), !name.starts_with('#') && slow(&split.0, &split.1));
            }
        }
    }
}

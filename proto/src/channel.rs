use std::{borrow::Borrow, fmt, sync::Arc};

/// The name of a channel: 1 to 255 bytes of UTF-8, no control characters, no spaces at the ends.
///
/// The part before the first `:` is its namespace; a name without one belongs to `default`. A leading `#` is reserved
/// for the system (`#user:ID` is a user's personal channel): [`ChannelName::is_reserved`]. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Checks a name; the only way in.
    ///
    /// # Errors
    /// Says which rule the name breaks, in words for whoever chose it.
    pub fn parse(name: &str) -> Result<Self, ChannelNameError> {
        if name.is_empty() {
            return Err(ChannelNameError::Empty);
        }
        if name.len() > Self::MAX_BYTES {
            return Err(ChannelNameError::TooLong { bytes: name.len() });
        }
        // Most names are of nothing else, and need no look at each character.
        if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            if name.chars().any(char::is_control) {
                return Err(ChannelNameError::ControlCharacter);
            }
            if name.trim() != name {
                return Err(ChannelNameError::SpaceAtEnd);
            }
        }
        Ok(Self(name.into()))
    }

    /// The system's own channel of this name that belongs to another channel, as the stream of its joins and leaves does:
    /// `#NAME:` and the channel's name. It may be longer than [`ChannelName::MAX_BYTES`].
    #[must_use]
    pub fn reserved(name: &str, of: &Self) -> Self {
        Self(format!("#{name}:{of}").into())
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace that decides how the channel behaves.
    pub fn namespace(&self) -> &str {
        self.0.split_once(':').map_or("default", |(namespace, _)| namespace)
    }

    /// Whether the name begins with `#` and so cannot be chosen by a client.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('#')
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Why a text is not a [`ChannelName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelNameError {
    /// No bytes at all.
    #[error("a channel name cannot be empty")]
    Empty,
    /// More than [`ChannelName::MAX_BYTES`].
    #[error("a channel name has at most 255 bytes, this one {bytes}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// A newline, a tab, a NUL.
    #[error("a channel name has no control characters")]
    ControlCharacter,
    /// White space that nobody would see.
    #[error("a channel name has no spaces at its ends")]
    SpaceAtEnd,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_rules_allow() {
        for name in ["a", "chat:lobby", "chat:a b", "ü:ß", "#user:7", ":", &"x".repeat(255)] {
            assert_eq!(ChannelName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_what_they_forbid() {
        assert_eq!(ChannelName::parse(""), Err(ChannelNameError::Empty));
        assert_eq!(ChannelName::parse(&"x".repeat(256)), Err(ChannelNameError::TooLong { bytes: 256 }));
        assert_eq!(ChannelName::parse("a\nb"), Err(ChannelNameError::ControlCharacter));
        assert_eq!(ChannelName::parse("a\u{85}b"), Err(ChannelNameError::ControlCharacter));
        assert_eq!(ChannelName::parse(" a"), Err(ChannelNameError::SpaceAtEnd));
        assert_eq!(ChannelName::parse("a "), Err(ChannelNameError::SpaceAtEnd));
    }

    #[test]
    fn the_namespace_ends_at_the_first_colon() {
        assert_eq!(ChannelName::parse("chat:a:b").unwrap().namespace(), "chat");
        assert_eq!(ChannelName::parse("lobby").unwrap().namespace(), "default");
    }
}

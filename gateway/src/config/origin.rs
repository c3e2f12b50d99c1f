//! Which web pages may connect.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use super::written::written_as_shown;

/// One entry of `public.origins`; see [`Origin::matches`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `*`: every page of everybody, also those without an origin of their own (`null`).
    Any,
    /// `https://app.example.com`: this one, in the form in which browsers send it.
    Exact(Box<str>),
    /// `https://*.example.com`: every host below, not `example.com` itself.
    HostsBelow {
        /// `https`.
        scheme: Box<str>,
        /// `.example.com`, followed by `:8443` where a port was given.
        ending: Box<str>,
    },
}

impl Origin {
    /// Checks an entry; the only way in.
    ///
    /// # Errors
    /// In words for whoever wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let wrong = |why: &str| {
            let form = r#"write "https://app.example.com", "https://*.example.com" or "*""#;
            Err(format!(r#""{text}" is not an origin ({why}): {form}"#))
        };
        let Some((scheme, rest)) = text.split_once("://") else { return wrong("no scheme") };
        if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) {
            return wrong("no scheme");
        }
        if rest.contains(['/', '?', '#']) {
            return wrong("it has no path, not even a slash at the end");
        }
        let Some((host, port)) = split_port(rest) else { return wrong("the port is not a number") };
        let name = host.strip_prefix("*.").unwrap_or(host);
        if name.contains('*') {
            return wrong("`*` stands only for the whole beginning of a host");
        }
        if !is_host(name) {
            return wrong("no host");
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = match (scheme.as_str(), port) {
            (_, None) | ("https", Some(443)) | ("http", Some(80)) => String::new(),
            (_, Some(port)) => format!(":{port}"),
        };
        let name = name.to_ascii_lowercase();
        Ok(if host.starts_with("*.") {
            Self::HostsBelow { scheme: scheme.into(), ending: format!(".{name}{port}").into() }
        } else {
            Self::Exact(format!("{scheme}://{name}{port}").into())
        })
    }

    /// Whether the `Origin` header of a handshake is this one. Browsers send it in lower case and leave out the port that
    /// belongs to the scheme; anything else is somebody's own client and may fail.
    ///
    /// Source: RFC 6454 §6.2.
    pub fn matches(&self, header: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(origin) => **origin == *header,
            Self::HostsBelow { scheme, ending } => header
                .split_once("://")
                .filter(|(with, _)| *with == &**scheme)
                .and_then(|(_, rest)| rest.strip_suffix(&**ending))
                .is_some_and(|below| below.split('.').all(is_label)),
        }
    }
}

written_as_shown!(Origin, "origin of a web page");

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(origin) => f.write_str(origin),
            Self::HostsBelow { scheme, ending } => write!(f, "{scheme}://*{ending}"),
        }
    }
}

fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => Some((host, Some(port.parse().ok()?))),
        _ => Some((authority, None)),
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_origin_is_itself_only() {
        let origin = Origin::parse("HTTPS://App.example.com:443").unwrap();
        assert_eq!(origin.to_string(), "https://app.example.com");
        assert!(origin.matches("https://app.example.com"));
        for other in ["http://app.example.com", "https://app.example.com:8443", "https://example.com", "null", ""] {
            assert!(!origin.matches(other), "{other}");
        }
        assert!(Origin::parse("http://localhost:3000").unwrap().matches("http://localhost:3000"));
        assert!(Origin::parse("http://[::1]:3000").unwrap().matches("http://[::1]:3000"));
        assert!(Origin::parse("capacitor://localhost").unwrap().matches("capacitor://localhost"));
    }

    #[test]
    fn a_wildcard_takes_hosts_below() {
        let origin = Origin::parse("https://*.example.com").unwrap();
        for below in ["https://a.example.com", "https://a.b.example.com"] {
            assert!(origin.matches(below), "{below}");
        }
        for other in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://evil.com/.example.com",
            "https://evil.com#.example.com",
            "https://u@a.example.com",
            "null",
        ] {
            assert!(!origin.matches(other), "{other}");
        }
        let origin = Origin::parse("https://*.example.com:8443").unwrap();
        assert_eq!(origin.to_string(), "https://*.example.com:8443");
        assert!(origin.matches("https://a.example.com:8443"));
        assert!(Origin::Any.matches("null"));
    }

    #[test]
    fn refuses_what_can_never_match() {
        for text in [
            "",
            "app.example.com",
            "://a",
            "https://",
            "https://a.example.com/",
            "https://*",
            "https://a*.example.com",
            "https://*.*.com",
            "https://a:b",
            "https://u@a.com",
            "https://a..b",
            "null",
            "https://[::zz]",
        ] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
    }
}

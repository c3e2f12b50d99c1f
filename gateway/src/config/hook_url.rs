//! Where a webhook's receiver is. The path and the query may be secrets, so only the place is ever shown.

use std::fmt;

use reqwest::Url;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{secret::fingerprint, written::written_as};

/// The address of a receiver: `http` or `https`, a host, no user. `Debug` and `Display` show scheme, host and port only;
/// the one way to the rest is [`HookUrl::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct HookUrl(Url);

impl HookUrl {
    /// Checks an address; the only way in.
    ///
    /// # Errors
    /// In words for whoever wrote it, without the address.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("not the address of a webhook ({why}): write https://host/path"));
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(error) => return wrong(&error.to_string()),
        };
        match url.scheme() {
            "http" | "https" => {}
            _ => return wrong("neither http nor https"),
        }
        if !url.has_host() {
            return wrong("no host");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("a user or password; set `secret`, and check the signature");
        }
        if url.fragment().is_some() {
            return wrong("a part behind #, which is never sent");
        }
        Ok(Self(url))
    }

    /// The whole address: to send to, never for a message.
    pub fn reveal(&self) -> &Url {
        &self.0
    }

    /// Whether what is sent there can be read on the way: `http` to another machine.
    pub(super) fn is_readable_on_the_way(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_here =
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        self.0.scheme() == "http" && !is_here
    }
}

impl fmt::Display for HookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for HookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}/***")
    }
}

written_as!(HookUrl, "URL, `https` or `http`", { "type": "string" });

impl Serialize for HookUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&fingerprint(format_args!("{self}/"), self.0.as_str()))
    }
}

impl<'de> Deserialize<'de> for HookUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_place_only() {
        let url = HookUrl::parse("https://hooks.example.com:8443/T0/secret?token=hunter2").unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://hooks.example.com:8443 https://hooks.example.com:8443/***");
        assert_eq!(url.reveal().path(), "/T0/secret");
    }

    #[test]
    fn refuses_what_it_cannot_ask_or_would_give_away() {
        for (text, why) in [
            ("", "relative URL without a base"),
            ("hooks.example.com/a", "relative URL without a base"),
            ("ftp://hooks.example.com", "neither http nor https"),
            ("unix:/run/app.sock", "neither http nor https"),
            ("https://u:hunter2@host/", "a user or password"),
            ("https://hunter2@host/", "a user or password"),
            ("https://host/#hunter2", "behind #"),
            ("https://", "empty host"),
        ] {
            let message = HookUrl::parse(text).unwrap_err();
            assert!(message.contains(why) && !message.contains("hunter2"), "{text}: {message}");
        }
    }

    #[test]
    fn knows_what_can_be_read_on_the_way() {
        let readable = |text: &str| HookUrl::parse(text).unwrap().is_readable_on_the_way();
        assert!(readable("http://app:3000/hooks") && readable("http://10.0.0.1/"));
        assert!(!readable("https://app/") && !readable("http://localhost:3000/"));
        assert!(!readable("http://127.0.0.1/") && !readable("http://[::1]:80/"));
    }
}

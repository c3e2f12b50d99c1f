//! Where public keys are fetched from.

use std::{fmt, net::IpAddr};

use http::Uri;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{secret::fingerprint, written::written_as};

/// The address of a JWK Set: `https`, or `http` to this machine. It may hold a password; `Debug` and `Display` show the host only.
#[derive(Clone, PartialEq, Eq)]
pub struct JwksUrl {
    url: Box<str>,
    shown: Box<str>,
}

impl JwksUrl {
    /// Checks an address.
    ///
    /// # Errors
    /// Why it is none, without repeating it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.trim().parse().map_err(|_| "not a URL: write it like https://id.example.com/jwks.json")?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host().filter(|host| !host.is_empty())) else {
            return Err("not a URL with its scheme: write it like https://id.example.com/jwks.json");
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_here = bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match scheme {
            "https" => {}
            "http" if is_here => {}
            "http" => {
                return Err(
                    "http only goes to this machine (localhost, 127.0.0.1, [::1]): on any other way somebody could put their \
                            key in the place of yours; use https",
                );
            }
            _ => return Err("not a URL of https: write it like https://id.example.com/jwks.json"),
        }
        let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        let shown = format!("{scheme}://{host}{port}/…").into();
        Ok(Self { url: text.trim().into(), shown })
    }

    /// The whole address: for a request, never for a message.
    pub fn reveal(&self) -> &str {
        &self.url
    }
}

written_as!(JwksUrl, "URL of a JWK Set", { "type": "string" });

impl Serialize for JwksUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&fingerprint(self.shown.trim_end_matches('…'), &self.url))
    }
}

impl<'de> Deserialize<'de> for JwksUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_can_change_on_the_way_is_taken() {
        for (good, shown) in [
            ("https://id.example.com/jwks.json?key=hunter2", "https://id.example.com/…"),
            ("https://ada:hunter2@id.example.com:8443/x", "https://id.example.com:8443/…"),
            ("http://localhost:1/x", "http://localhost:1/…"),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:1/…"),
            ("http://[::1]:1/x", "http://[::1]:1/…"),
        ] {
            let url = JwksUrl::parse(good).unwrap();
            assert_eq!((url.to_string().as_str(), url.reveal()), (shown, good));
        }
        for bad in [
            "",
            "x",
            "/jwks.json",
            "http://id.example.com/",
            "http://127.0.0.1.example.com/",
            "http://localhost@example.com/",
            "ftp://x/",
            "file:///etc/keys",
            "https://",
            "https:///x",
        ] {
            assert!(JwksUrl::parse(bad).is_err(), "{bad}");
        }
    }
}

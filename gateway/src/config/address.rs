//! Addresses to listen on.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize as _, Serializer, de};

use super::written::written_as;

struct Address(SocketAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.trim().parse().map(Self).map_err(|_| {
            de::Error::custom(format!(
                r#""{text}" is not an IP address with a port: write "127.0.0.1:8000", "0.0.0.0:8000" or "[::]:8000""#
            ))
        })
    }
}

/// For `#[serde(with = …)]`: at least one address.
pub(super) struct List;

impl List {
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
        let addresses: Vec<Address> = Vec::deserialize(deserializer)?;
        if addresses.is_empty() {
            return Err(de::Error::custom(r#"needs at least one address, like ["127.0.0.1:8000"]"#));
        }
        Ok(addresses.into_iter().map(|address| address.0).collect())
    }

    pub(super) fn serialize<S: Serializer>(addresses: &[SocketAddr], serializer: S) -> Result<S::Ok, S::Error> {
        addresses.serialize(serializer)
    }
}

written_as!(List, "list of IP addresses with ports", { "type": "array" });

/// Whether two listeners cannot both be had: the same port on the same address, or on one and all of its family.
/// Port 0 is a new one each time.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let ip = a.ip() == b.ip() || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    ip && a.port() == b.port() && a.port() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_collides_with_every_address_of_its_family() {
        let collide = |a: &str, b: &str| collide(a.parse().unwrap(), b.parse().unwrap());
        assert!(collide("127.0.0.1:1", "127.0.0.1:1"));
        assert!(collide("0.0.0.0:1", "127.0.0.1:1"));
        assert!(collide("[::1]:1", "[::]:1"));
        assert!(!collide("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!collide("0.0.0.0:1", "[::]:1"));
        assert!(!collide("127.0.0.2:1", "127.0.0.1:1"));
    }
}

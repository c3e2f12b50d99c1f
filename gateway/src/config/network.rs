//! Addresses of proxies: one, or a network of them.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Deserializer, de};

use super::written::written_as_shown;

/// `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Bits that count: at most 32 or 128.
    prefix: u8,
}

impl Network {
    /// Checks an entry; the only way in.
    ///
    /// # Errors
    /// In words for whoever wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| format!(r#""{text}" is no network ({why}): write "10.0.0.0/8", "fd00::/8" or one address"#);
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong("no IP address"))?;
        if address.is_ipv6() && address.to_canonical().is_ipv4() {
            return Err(wrong("it is an IPv4 network in IPv6's clothes: write it as 10.0.0.0/8"));
        }
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix =
            match prefix {
                None => bits,
                Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= bits).ok_or_else(|| {
                    wrong(if bits == 32 { "the prefix is 0 to 32" } else { "the prefix is 0 to 128" })
                })?,
            };
        // Somebody meant another network than the one that this would be.
        let network = Self { address, prefix };
        if host_bits(address, prefix) { Err(wrong("the address has bits set behind the prefix")) } else { Ok(network) }
    }

    /// Whether this address is in it. An IPv4 address in IPv6's clothes (`::ffff:10.0.0.1`) is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (u32::from(network) ^ u32::from(address)).checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                (u128::from(network) ^ u128::from(address)).checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Whether it is all addresses there are.
    pub fn is_everybody(&self) -> bool {
        self.prefix == 0
    }
}

fn host_bits(address: IpAddr, prefix: u8) -> bool {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_shl(u32::from(prefix)).unwrap_or(0) != 0,
        IpAddr::V6(address) => u128::from(address).checked_shl(u32::from(prefix)).unwrap_or(0) != 0,
    }
}

written_as_shown!(Network, "IP address or network");

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(String::deserialize(deserializer)?.trim()).map_err(de::Error::custom)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        Network::parse(network).unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn contains_what_begins_alike() {
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.1.2.3", "10.1.2.3"));
        assert!(!contains("10.1.2.3", "10.1.2.2"));
        assert!(contains("0.0.0.0/0", "192.0.2.1"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(contains("172.16.0.0/12", "172.31.255.255"));
        assert!(!contains("172.16.0.0/12", "172.32.0.0"));
        assert!(contains("fd00::/8", "fdff::1"));
        assert!(!contains("fd00::/8", "fe80::1"));
        assert!(contains("::/0", "fe80::1"));
        assert!(contains("::1", "::1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.0.0.1"), "a listener on [::] may see it so");
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, why) in [
            ("::ffff:10.0.0.0/104", "IPv4 network"),
            ("", "no IP address"),
            ("proxy.example.com", "no IP address"),
            ("10.0.0.0/33", "0 to 32"),
            ("fd00::/129", "0 to 128"),
            ("10.0.0.0/x", "0 to 32"),
            ("10.0.0.0/", "0 to 32"),
            ("10.0.0.1/8", "bits set behind"),
            ("fd00::1/64", "bits set behind"),
        ] {
            let error = Network::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

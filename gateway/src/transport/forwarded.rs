//! Whom a proxy speaks for, in words of HTTP: `X-Forwarded-For` and `Forwarded` (RFC 7239); pure.
//!
//! Anybody can write these lines. Each proxy adds the address that it saw at the end, so what trusted ones have added
//! stands there, and what a client made up before it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};

use crate::config::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address: `peer`, or if that is a trusted proxy the last address in the lines that is not a trusted one's.
/// Where an entry cannot be read, the proxy that wrote it is all that is known.
///
/// A proxy writes one of the two kinds of lines and may let the other through as the client sent it. If there are both they
/// have to agree, or neither is believed.
pub(super) fn client(headers: &HeaderMap, peer: IpAddr, trusted: &[Network]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return peer;
    }
    let walk = |name: &HeaderName, address: fn(&str) -> Option<IpAddr>| {
        let lines = headers.get_all(name).iter().rev();
        let entries = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        let mut client = peer;
        for entry in entries {
            let Some(said) = address(entry) else { break };
            client = said.to_canonical();
            if !is_trusted(client) {
                break;
            }
        }
        headers.contains_key(name).then_some(client)
    };
    match (walk(&X_FORWARDED_FOR, address), walk(&header::FORWARDED, forwarded_for)) {
        (Some(one), Some(other)) if one != other => peer,
        (one, other) => one.or(other).unwrap_or(peer),
    }
}

/// `for=` of one element (RFC 7239 §4). A comma within quotes ends it too, so nothing that a client wrote can swallow what
/// comes behind it.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let node = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?.1.trim();
    address(node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node))
}

/// An address with or without a port, IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trusts 10.0.0.0/8 and 2001:db8:1::/48.
    fn seen(peer: &str, lines: &[(&str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48"].map(|network| Network::parse(network).unwrap());
        client(&headers, peer.parse().unwrap(), &trusted).to_string()
    }

    #[test]
    fn strangers_are_who_they_are() {
        assert_eq!(seen("192.0.2.1", &[("x-forwarded-for", "198.51.100.1")]), "192.0.2.1");
        assert_eq!(seen("192.0.2.1", &[("forwarded", "for=198.51.100.1")]), "192.0.2.1");
        assert_eq!(seen("::ffff:192.0.2.1", &[]), "192.0.2.1");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1", "the proxy's own request");
    }

    #[test]
    fn the_last_that_is_not_trusted_is_the_client() {
        for (line, client) in [
            ("198.51.100.1", "198.51.100.1"),
            ("1.1.1.1, 198.51.100.1", "198.51.100.1"),
            ("1.1.1.1, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
            ("1.1.1.1,198.51.100.1:5000 ,10.0.0.2:80", "198.51.100.1"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:443, 2001:db8:1::1", "2001:db8::7"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("1.1.1.1, unknown", "10.0.0.1"),
            ("1.1.1.1, nonsense, 10.0.0.2", "10.0.0.2"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(seen("10.0.0.1", &[("x-forwarded-for", line)]), client, "{line}");
        }
        let lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "198.51.100.1, 10.0.0.2")];
        assert_eq!(seen("10.0.0.1", &lines), "198.51.100.1", "lines in their order");
    }

    #[test]
    fn forwarded_says_the_same() {
        for (line, client) in [
            ("for=198.51.100.1;proto=https;by=10.0.0.1", "198.51.100.1"),
            ("for=1.1.1.1, For=\"198.51.100.1:5000\"", "198.51.100.1"),
            ("proto=https; for=\"[2001:db8::7]:443\", for=10.0.0.2", "2001:db8::7"),
            ("for=1.1.1.1, for=unknown", "10.0.0.1"),
            ("for=1.1.1.1, for=_hidden", "10.0.0.1"),
            ("for=1.1.1.1, by=10.0.0.1", "10.0.0.1"),
            ("for=\"1.1.1.1, for=198.51.100.1", "198.51.100.1"),
        ] {
            assert_eq!(seen("10.0.0.1", &[("forwarded", line)]), client, "{line}");
        }
    }

    #[test]
    fn of_two_that_differ_neither_is_believed() {
        let both = |forwarded| seen("10.0.0.1", &[("x-forwarded-for", "198.51.100.1"), ("forwarded", forwarded)]);
        assert_eq!(both("for=198.51.100.1"), "198.51.100.1");
        assert_eq!(both("for=1.1.1.1"), "10.0.0.1");
    }
}

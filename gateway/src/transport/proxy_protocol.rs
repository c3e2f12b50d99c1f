//! What a proxy says about a connection before the client's first byte: the PROXY protocol, version 2.
//!
//! Source: haproxy.org, `proxy-protocol.txt`, §2.2.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const HEAD: usize = 16;
/// The most that may follow it: addresses take at most 216 bytes, and what proxies add to them (names, TLS, ids of networks)
/// fits into the rest many times.
const MOST: usize = 2048;
/// Both addresses and both ports of IPv6, the longest that is looked at.
const ADDRESSES: usize = 36;

/// Reads exactly the header, whatever follows it, and returns the client's address; `None` where the proxy speaks for itself
/// (a health check) or does not say. What is not looked at is skipped in small pieces: nothing is reserved for the length
/// that the header claims.
///
/// # Errors
/// What is no header of version 2, or longer than 2048 bytes; what the socket says.
pub(super) async fn read<R: AsyncRead + Unpin>(socket: &mut R) -> io::Result<Option<SocketAddr>> {
    let mut head = [0; HEAD];
    socket.read_exact(&mut head).await?;
    let header = Header::parse(&head).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
    let mut addresses = [0; ADDRESSES];
    let known = header.length.min(ADDRESSES);
    socket.read_exact(&mut addresses[..known]).await?;
    let mut left = header.length - known;
    let mut scratch = [0; 128];
    while left > 0 {
        let piece = left.min(scratch.len());
        socket.read_exact(&mut scratch[..piece]).await?;
        left -= piece;
    }
    header.client(&addresses[..known]).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
}

enum Family {
    /// The proxy's own connection, or one of a family that has no IP address.
    Unsaid,
    Tcp4,
    Tcp6,
}

struct Header {
    family: Family,
    length: usize,
}

impl Header {
    fn parse(head: &[u8; HEAD]) -> Result<Self, &'static str> {
        let [signature @ .., version_command, family, high, low] = head;
        if *signature != SIGNATURE {
            return Err(
                "no header of the PROXY protocol, version 2: public.proxy_protocol says that the proxy sends one",
            );
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length > MOST {
            return Err("the header of the PROXY protocol is longer than 2048 bytes");
        }
        let family = match (version_command, family) {
            (0x20, _) => Family::Unsaid, // LOCAL: the rest is to be skipped
            (0x21, 0x11) => Family::Tcp4,
            (0x21, 0x21) => Family::Tcp6,
            (0x21, 0x00 | 0x31) => Family::Unsaid, // UNSPEC, UNIX
            (0x21, _) => return Err("the PROXY protocol speaks of something else than a stream"),
            _ => return Err("this version or command of the PROXY protocol is unknown"),
        };
        Ok(Self { family, length })
    }

    /// The source address; `addresses` is what there is of it.
    fn client(&self, addresses: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
        let short = "the header of the PROXY protocol ends within its addresses";
        let port = |at: usize| addresses.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
        match self.family {
            Family::Unsaid => Ok(None),
            Family::Tcp4 => {
                let address = addresses.first_chunk::<4>().copied().map(Ipv4Addr::from);
                let client = address.zip(port(8)).filter(|_| addresses.len() >= 12);
                client.map(|client| Some(client.into())).ok_or(short)
            }
            Family::Tcp6 => {
                let address = addresses.first_chunk::<16>().copied().map(Ipv6Addr::from);
                let client = address.zip(port(32)).filter(|_| addresses.len() >= ADDRESSES);
                client.map(|client| Some(client.into())).ok_or(short)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_command, family], &length, rest].concat()
    }

    /// The outcome, and what is left for the client's own protocol.
    fn read_all(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, usize) {
        let mut rest = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let outcome = runtime.block_on(read(&mut rest));
        (outcome, rest.len())
    }

    const TCP4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];

    #[test]
    fn the_client_is_the_source() {
        let tail = b"GET /";
        let (client, rest) = read_all(&[&header(0x21, 0x11, &TCP4)[..], tail].concat());
        assert_eq!((client.unwrap(), rest), (Some("192.0.2.1:8080".parse().unwrap()), tail.len()));
        let mut tcp6 = [0; 36];
        tcp6[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        tcp6[32..34].copy_from_slice(&[0, 7]);
        assert_eq!(read_all(&header(0x21, 0x21, &tcp6)).0.unwrap(), Some("[2001:db8::1]:7".parse().unwrap()));
    }

    #[test]
    fn what_is_added_is_skipped() {
        let with = [&TCP4[..], &[4; 1500]].concat();
        let (client, rest) = read_all(&[&header(0x21, 0x11, &with)[..], b"x"].concat());
        assert_eq!((client.unwrap(), rest), (Some("192.0.2.1:8080".parse().unwrap()), 1));
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_or_does_not_say_is_let_through() {
        for (command, family, rest) in
            [(0x20, 0, &[][..]), (0x20, 0x11, &TCP4), (0x21, 0, &[1, 2, 3]), (0x21, 0x31, &[7; 216])]
        {
            assert_eq!(read_all(&header(command, family, rest)).0.unwrap(), None, "{command:x} {family:x}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let mut long = header(0x21, 0x11, &TCP4);
        long[14..16].copy_from_slice(&2049_u16.to_be_bytes());
        for (bytes, why) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 8080 80\r\n".to_vec(), "version 2"),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), "version 2"),
            (header(0x31, 0x11, &TCP4), "unknown"),
            (header(0x22, 0x11, &TCP4), "unknown"),
            (header(0x21, 0x12, &TCP4), "stream"),
            (header(0x21, 0x11, &TCP4[..11]), "within"),
            (header(0x21, 0x21, &TCP4), "within"),
            (long, "2048"),
        ] {
            let error = read_all(&bytes).0.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_eq!(read_all(&header(0x21, 0x11, &TCP4)[..20]).0.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn reads_no_more_than_it_is_told(command in 0x20_u8..0x22, family in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&header(command, family, &rest)[..], b"tail"].concat();
            let (outcome, left) = read_all(&bytes);
            prop_assert!(outcome.is_err() || left == 4);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_all(&bytes);
            let _ = read_all(&[&SIGNATURE[..], &bytes].concat());
        }
    }
}

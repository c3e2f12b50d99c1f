//! Where clients connect to: parsed and resolved once.

use std::{
    fs, io,
    net::{SocketAddr, ToSocketAddrs as _},
    path::Path,
    sync::Arc,
};

use http::Uri;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

/// A node's WebSocket.
#[derive(Debug, Clone)]
pub struct Target {
    url: String,
    authority: String,
    path: String,
    addresses: Vec<SocketAddr>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Why an URL is none that we can use. The user's mistake.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not `ws://host[:port]/path`.
    #[error("{url} is not a WebSocket URL: write ws://host:port/ws")]
    Syntax {
        /// What was given.
        url: String,
    },
    /// Whom to trust is not said.
    #[error("{url}: give the file with the certificate that its own was signed with as --ca")]
    NoCa {
        /// What was given.
        url: String,
    },
    /// Not a file of certificates.
    #[error("cannot read certificates from {path}: {why}")]
    Ca {
        /// What was given.
        path: String,
        /// In words.
        why: String,
    },
    /// No such host.
    #[error("cannot find the host of {url}")]
    Resolve {
        /// What was given.
        url: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
}

/// Whom to trust over TLS: what the certificates in a PEM file have signed, and nobody else.
///
/// Sessions are never resumed, so that every handshake costs the node what a stranger's does.
///
/// # Errors
/// [`TargetError::Ca`].
pub fn trust(path: &Path) -> Result<Arc<ClientConfig>, TargetError> {
    let wrong = |why: String| TargetError::Ca { path: path.display().to_string(), why };
    let pem = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|error| wrong(error.to_string()))?).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is none".to_owned()));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

impl Target {
    /// Parses a URL and resolves its host. `wss` needs somebody to trust.
    ///
    /// # Errors
    /// [`TargetError`], each telling what to write instead.
    pub fn parse(url: &str, trusted: Option<&Arc<ClientConfig>>) -> Result<Self, TargetError> {
        let syntax = || TargetError::Syntax { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| syntax())?;
        let host = uri.host().ok_or_else(syntax)?.trim_start_matches('[').trim_end_matches(']');
        let (port, tls) = match (uri.scheme_str(), trusted) {
            (Some("ws"), _) => (80, None),
            (Some("wss"), Some(trusted)) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|_| syntax())?;
                (443, Some((trusted.clone(), name)))
            }
            (Some("wss"), None) => return Err(TargetError::NoCa { url: url.to_owned() }),
            _ => return Err(syntax()),
        };
        let addresses = (host, uri.port_u16().unwrap_or(port))
            .to_socket_addrs()
            .map_err(|source| TargetError::Resolve { url: url.to_owned(), source })?
            .collect();
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Ok(Self { url: url.to_owned(), authority, path, addresses, tls })
    }

    /// The same node at another path.
    #[must_use]
    pub fn at(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// As it was written.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What its host stands for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Host and port, as a request names them.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path, and what is asked for behind it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// How to speak TLS, and the name to expect; `None`: not at all.
    pub fn tls(&self) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        self.tls.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_work_say_why() {
        for (url, word) in [("wss://localhost/ws", "--ca"), ("http://localhost/ws", "ws://host"), ("", "ws://host")] {
            let error = Target::parse(url, None).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::parse("ws://[::1]:8000/ws?a=b", None).unwrap();
        assert_eq!(target.addresses(), ["[::1]:8000".parse().unwrap()]);
        assert_eq!((target.authority(), target.path()), ("[::1]:8000", "/ws?a=b"));
        assert_eq!(target.at("/echo").path(), "/echo");
    }

    #[test]
    fn a_file_that_holds_no_certificate_is_not_trusted() {
        assert!(trust(Path::new("/dev/null")).unwrap_err().to_string().contains("none"));
        assert!(trust(Path::new("/nowhere")).is_err());
    }
}

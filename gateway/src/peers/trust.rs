//! TLS towards other nodes: whom this node believes, and what it shows.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;

use crate::config::TlsSettings;

/// With `internal.tls`, other nodes are believed whose certificates come from one of these authorities: those of its
/// `client_ca`; those behind the node's own certificate in `certificate`; and where neither is there, the certificate
/// itself, which all nodes then share. The files are read for each connection, of which there are few.
pub(super) struct Trust(Option<TlsSettings>);

impl Trust {
    pub(super) fn new(tls: Option<TlsSettings>) -> Self {
        Self(tls)
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.0.is_some()
    }

    /// To connect with; `None`: without TLS.
    pub(super) fn connector(&self) -> io::Result<Option<TlsConnector>> {
        let Some(tls) = &self.0 else { return Ok(None) };
        let chain = certificates(&tls.certificate)?;
        let mut authorities = tls.client_ca.as_ref().map(|path| certificates(path)).transpose()?.unwrap_or_default();
        authorities.extend(chain.iter().skip(1).cloned());
        if authorities.is_empty() {
            authorities.extend(chain.first().cloned());
        }
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(io::Error::other)?;
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?.with_root_certificates(roots);
        let mut config = if tls.client_ca.is_some() {
            let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|_| io::Error::other("the key cannot be read"))?;
            builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }

    /// What the certificate at an address has to be for.
    pub(super) fn name_of(address: &str) -> io::Result<ServerName<'static>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(host.to_owned()).map_err(io::Error::other)
    }
}

fn certificates(path: &std::path::Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    found.map_err(|_| io::Error::other(format!("{} cannot be read", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_for_the_host() {
        for (address, name) in [("gw-1.example:8001", "gw-1.example"), ("10.0.0.1:1", "10.0.0.1"), ("[::1]:1", "::1")] {
            assert_eq!(Trust::name_of(address).unwrap().to_str(), name);
        }
    }
}

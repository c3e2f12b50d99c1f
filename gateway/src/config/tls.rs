//! TLS on a listener: which files, and what they hold.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `tls = { … }` of a listener: TLS 1.2 and 1.3, and nothing without it. Paths are as the process sees them: relative ones
/// start at its working directory. The files are read again when they change (looked at every 2 s, at once on SIGHUP), without
/// a restart; connections stay.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// A PEM file with the listener's certificate, and behind it those between it and the authority.
    pub certificate: PathBuf,
    /// A PEM file with the private key of the certificate, not encrypted. Keep it from everybody else's eyes.
    pub key: PathBuf,
    /// A PEM file with authorities: only clients with a certificate from one of them are let in. Default: none, clients
    /// need no certificate.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// Why a listener cannot have its TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TlsError {
    /// Which of the three settings: `certificate`, `key` or `client_ca`.
    pub setting: &'static str,
    /// For whoever wrote it.
    pub message: String,
}

impl TlsSettings {
    /// Reads the files as they are now; blocks while it does.
    ///
    /// # Errors
    /// [`TlsError`] for the first that cannot be read.
    pub fn read(&self) -> Result<TlsFiles, TlsError> {
        Ok(TlsFiles {
            certificate: read("certificate", &self.certificate)?,
            key: read("key", &self.key)?,
            client_ca: self.client_ca.as_deref().map(|path| read("client_ca", path)).transpose()?,
            settings: self.clone(),
        })
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let wrong = |message| Err(TlsError { setting, message });
    // It would be repeated in the message, and it may be a key.
    if path.as_os_str().as_encoded_bytes().trim_ascii_start().starts_with(b"-----") {
        return wrong("is the path of a PEM file, not what stands in it".to_owned());
    }
    std::fs::read(path).or_else(|error| wrong(format!("cannot read {}: {error}", path.display())))
}

/// What the files of a listener held when they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsFiles {
    settings: TlsSettings,
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl TlsFiles {
    /// What a listener does with them. `protocols` are offered in this order (ALPN, RFC 7301).
    ///
    /// # Errors
    /// [`TlsError`] if they are not what they should be, or the key belongs to another certificate.
    pub fn server_config(&self, protocols: &[&str]) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let identity = self.identity(&provider)?;
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| TlsError { setting: "certificate", message: error.to_string() })?;
        let builder = match self.authorities()? {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                let message = |error| TlsError { setting: "client_ca", message: format!("is of no use: {error}") };
                builder.with_client_cert_verifier(verifier.map_err(message)?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }

    /// When the listener's certificate, or the first to end of those behind it, is no longer valid, in seconds since 1970.
    pub fn expiry(&self) -> Option<i64> {
        let chain = certificates("certificate", &self.settings.certificate, &self.certificate).ok()?;
        let ends = |certificate: &CertificateDer<'_>| {
            let (_, read) = x509_parser::parse_x509_certificate(certificate).ok()?;
            Some(read.validity().not_after.timestamp())
        };
        chain.iter().filter_map(ends).min()
    }

    fn identity(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let chain = certificates("certificate", &self.settings.certificate, &self.certificate)?;
        let shown = self.settings.key.display();
        let wrong = |message| TlsError { setting: "key", message };
        // What the parser says is left out: it may repeat a piece of the file.
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            wrong(format!("{shown} holds no private key in PEM without a password (-----BEGIN PRIVATE KEY-----)"))
        })?;
        let key = provider.key_provider.load_private_key(key).map_err(|_| {
            wrong(format!(
                "{shown} holds a private key that is broken or of an unknown kind; ECDSA, Ed25519 and RSA are known"
            ))
        })?;
        let identity = CertifiedKey::new(chain, key);
        match identity.keys_match() {
            Ok(()) => Ok(identity),
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                let certificate = self.settings.certificate.display();
                Err(wrong(format!("{shown} is not the key of the first certificate in {certificate}")))
            }
            Err(error) => {
                let message = format!("{} cannot be used: {error}", self.settings.certificate.display());
                Err(TlsError { setting: "certificate", message })
            }
        }
    }

    fn authorities(&self) -> Result<Option<RootCertStore>, TlsError> {
        let (Some(path), Some(pem)) = (&self.settings.client_ca, &self.client_ca) else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates("client_ca", path, pem)? {
            roots.add(certificate).map_err(|error| {
                let message = format!("{} holds a certificate that cannot be used: {error}", path.display());
                TlsError { setting: "client_ca", message }
            })?;
        }
        Ok(Some(roots))
    }
}

impl fmt::Debug for TlsFiles {
    /// Where they are, not what they hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

fn certificates(setting: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| TlsError {
        setting,
        message: format!(
            "{} holds no certificate in PEM, or a broken one (-----BEGIN CERTIFICATE-----)",
            path.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        folder: tempfile::TempDir,
        settings: TlsSettings,
    }

    impl Files {
        fn new(certificate: &str, key: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                path
            };
            let settings =
                TlsSettings { certificate: write("tls.crt", certificate), key: write("tls.key", key), client_ca: None };
            Self { folder, settings }
        }

        fn wrong(&self) -> (&'static str, String) {
            let outcome = self.settings.read().and_then(|files| files.server_config(&["h2"]));
            let error = outcome.expect_err("this is wrong");
            (error.setting, error.message.replace(&format!("{}/", self.folder.path().display()), ""))
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_pair_that_belongs_together_is_taken() {
        let (certificate, key) = pair();
        let mut files = Files::new(&certificate, &key);
        files.settings.client_ca = Some(files.settings.certificate.clone());
        let read = files.settings.read().unwrap();
        assert_eq!(read.server_config(&["h2", "http/1.1"]).unwrap().alpn_protocols, [&b"h2"[..], b"http/1.1"]);
        assert_eq!(read, files.settings.read().unwrap(), "nothing has changed");
        assert!(!format!("{read:?}").contains("PRIVATE"));
    }

    #[test]
    fn the_first_certificate_of_the_chain_to_end_says_when() {
        let until = |year| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut wanted = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
            wanted.not_after = rcgen::date_time_ymd(year, 1, 1);
            (wanted.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let ((leaf, key), (authority, _)) = (until(2040), until(2030));
        let expiry = |certificates: &str| Files::new(certificates, &key).settings.read().unwrap().expiry();
        assert_eq!(expiry(&leaf), Some(2_208_988_800));
        assert_eq!(expiry(&(leaf.clone() + &authority)), Some(1_893_456_000));
        assert_eq!(expiry(""), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_setting() {
        let ((certificate, key), (_, other)) = (pair(), pair());
        assert_eq!(
            Files::new("", &key).wrong(),
            (
                "certificate",
                "tls.crt holds no certificate in PEM, or a broken one (-----BEGIN CERTIFICATE-----)".into()
            )
        );
        assert_eq!(
            Files::new(&certificate, &certificate).wrong(),
            ("key", "tls.key holds no private key in PEM without a password (-----BEGIN PRIVATE KEY-----)".into())
        );
        assert_eq!(
            Files::new(&certificate, &other).wrong(),
            ("key", "tls.key is not the key of the first certificate in tls.crt".into())
        );
        let mut files = Files::new(&certificate, &key);
        files.settings.client_ca = Some(files.settings.key.clone());
        assert_eq!(files.wrong().0, "client_ca");
        files.settings.client_ca = Some(files.folder.path().join("none"));
        assert!(files.wrong().1.starts_with("cannot read none: "), "{:?}", files.wrong());
        files.settings.key = key.into();
        assert_eq!(files.wrong(), ("key", "is the path of a PEM file, not what stands in it".into()));
    }
}

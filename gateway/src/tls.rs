//! TLS on a listener: its certificate can be exchanged while it listens.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{TlsError, TlsFiles, TlsSettings},
    metrics,
};

/// How often the files are looked at. A SIGHUP makes it now.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What a listener shows to its clients, as new as its files.
pub struct Tls {
    /// `public` or `internal`.
    listener: &'static str,
    settings: TlsSettings,
    protocols: &'static [&'static str],
    /// Locked for a look only, once a handshake.
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files of a listener, `public` or `internal`; blocks while it does. `protocols` are offered in this order (ALPN).
    ///
    /// # Errors
    /// [`TlsError`] if they are not what they should be.
    pub fn open(
        listener: &'static str,
        settings: &TlsSettings,
        protocols: &'static [&'static str],
    ) -> Result<(Arc<Self>, Watch), TlsError> {
        let files = settings.read()?;
        let current = RwLock::new(Arc::new(files.server_config(protocols)?));
        let tls = Arc::new(Self { listener, settings: settings.clone(), protocols, current });
        tls.tell_expiry(&files);
        Ok((tls.clone(), Watch { tls, seen: Ok(files) }))
    }

    /// Does the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.read().clone())
    }

    fn tell_expiry(&self, files: &TlsFiles) {
        if let Some(at) = files.expiry() {
            metrics::certificate_expiry(self.listener, at);
        }
    }
}

/// Keeps a [`Tls`] as new as its files.
pub struct Watch {
    tls: Arc<Tls>,
    seen: Result<TlsFiles, TlsError>,
}

impl Watch {
    /// Looks at the files until `closed`. Those that are of no use are said in the log, once, and what is in use stays in
    /// use: a certificate and its key are often written one after the other. Connections are never touched.
    pub async fn run(mut self, closed: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_INTERVAL);
        let mut hangup = signal(SignalKind::hangup()).ok();
        loop {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = tick.tick() => {}
                _ = hung_up => {}
                () = closed.cancelled() => return,
            }
            let settings = self.tls.settings.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || settings.read()).await else { return };
            self.take(found);
        }
    }

    fn take(&mut self, found: Result<TlsFiles, TlsError>) {
        if found == self.seen {
            return;
        }
        let fresh = found.as_ref().map_err(Clone::clone).and_then(|files| files.server_config(self.tls.protocols));
        let certificate = self.tls.settings.certificate.display();
        match fresh {
            Ok(fresh) => {
                *self.tls.current.write() = Arc::new(fresh);
                found.iter().for_each(|files| self.tls.tell_expiry(files));
                tracing::info!(%certificate, "new connections get the new certificate");
            }
            Err(error) => tracing::error!(
                %certificate,
                setting = error.setting,
                %error,
                "the new TLS files cannot be used, the certificate read before stays in use: put files there that belong together"
            ),
        }
        self.seen = found;
    }
}

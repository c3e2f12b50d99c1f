//! Over TLS: a terminator with a certificate of its own, in front of the stand-in.
#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

use std::{fs, net::SocketAddr, sync::Arc, thread, time::Duration};

use indicatif::ProgressBar;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use skywave_loadtest::{
    scenario::{Access, Load, ScenarioError, fanout},
    standin::{Fault, StandIn},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime,
};
use tokio_rustls::TlsAcceptor;

/// Takes TLS off and hands on to `to`, on a thread that ends with the process. Its address, and its certificate as PEM.
fn terminator(to: SocketAddr) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = made.cert.pem();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (listener, acceptor) = (TcpListener::from_std(listener).unwrap(), TlsAcceptor::from(Arc::new(config)));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let mut node = TcpStream::connect(to).await.unwrap();
                        node.set_nodelay(true).unwrap();
                        let _ = copy_bidirectional(&mut stream, &mut node).await;
                    }
                });
            }
        });
    });
    (address, pem)
}

fn run(
    clients: usize,
    size: usize,
    ca: impl FnOnce(String) -> String,
) -> Result<skywave_loadtest::report::Report, ScenarioError> {
    let node = StandIn::start(Fault::None).unwrap();
    let plain = node.url().trim_start_matches("ws://").trim_end_matches("/ws").parse().unwrap();
    let (address, pem) = terminator(plain);
    let file = std::env::temp_dir().join(format!("loadtest-ca-{}-{}.pem", std::process::id(), address.port()));
    fs::write(&file, ca(pem)).unwrap();
    let url = format!("wss://localhost:{}/ws", address.port());
    let settings = fanout::Settings {
        access: Access { ca: Some(file.clone()), ..Access::to(vec![url]) },
        clients,
        load: Load::Window(8),
        burst: true,
        size,
        duration: Duration::from_millis(300),
        ..fanout::Settings::default()
    };
    let report = fanout::run(&settings, &ProgressBar::hidden());
    fs::remove_file(file).unwrap();
    report
}

#[test]
fn everything_arrives_over_tls() {
    // More than a TLS record, in each direction.
    let report = run(5, 20_000, |pem| pem).unwrap();
    assert!(report.verdict.passed, "{report}");
    assert!(report.publications.sent >= 8);
    assert_eq!(report.deliveries.received, report.publications.sent * 6);
}

#[test]
fn a_certificate_of_somebody_else_is_refused() {
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let error = run(5, 128, |_| other).unwrap_err();
    assert!(error.advice().unwrap().contains("--ca"), "{error}");
}

/// All in one task, which has a budget of 128 turns of its sockets. Each takes four files of this process, of 1,024.
#[test]
fn more_come_at_once_than_a_turn_has_room_for() {
    let report = run(140, 128, |pem| pem).unwrap();
    assert!(report.verdict.passed, "{report}");
}

//! `skywave serve`.

use std::{io::IsTerminal as _, process::ExitCode};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::{failed, wrong};
use crate::{
    config::{Files, Flags, Loader, LogFormat, Settings},
    metrics,
    node::{Node, StartError},
    open_files,
    outbound::describe,
};

/// Threads of the runtime beside the shards: it carries the backplane, the server API and metrics, which wait more than
/// they work.
const WORKERS: usize = 2;
/// With fewer files than this a node is full before it has something to do.
const MANY_FILES: u64 = 8192;

pub(super) fn run(flags: &Flags) -> ExitCode {
    let loader = Loader::new(flags, std::env::vars_os());
    let (settings, files) = match loader.load_with_files() {
        (Ok(settings), files) => (settings, files),
        (Err(error), _) => return wrong(&error),
    };
    log(settings.node.log);
    match open_files::raise_limit() {
        Ok(Some(limit)) if limit < MANY_FILES => {
            warn!(limit, "few files may be open, and each connection is one: raise the limit, as with ulimit -n");
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "cannot raise the limit of open files"),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(settings, loader, files)),
        Err(error) => failed(&format!("cannot start: {error}")),
    }
}

/// Lines go to standard error; `SKYWAVE_LOG` (as `debug`, or `skywave_gateway=debug`) says which.
fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("SKYWAVE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let text = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => registry.with(text.with_target(false)).init(),
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).init();
        }
    }
}

async fn serve(settings: Settings, loader: Loader, files: Files) -> ExitCode {
    announce(&settings);
    let recorded = match metrics::install(&settings.node.name) {
        Ok(recorded) => recorded,
        Err(error) => return failed(&format!("cannot record metrics: {error}")),
    };
    // Before the node listens to it, it must not end the process. What has changed by then is found by looking at the files.
    let _hangup = signal(SignalKind::hangup());
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("cannot listen for signals: {error}")),
    };
    let (demo, encrypted) = (settings.demo.enabled, settings.public.tls.is_some());
    let node = match Node::start(settings, Some(recorded)).await {
        Ok(node) => node,
        Err(error @ (StartError::Backplane(_) | StartError::Tls { .. })) => return wrong(&describe(&error)),
        Err(error) => return failed(&describe(&error)),
    };
    node.follow(loader, files);
    say_where(&node, demo, encrypted);
    tokio::select! {
        () = asked_to_stop(&mut terminate, &mut interrupt) => {}
        () = node.asked_to_leave() => {}
    }
    tokio::select! {
        () = node.drain() => ExitCode::SUCCESS,
        () = asked_to_stop(&mut terminate, &mut interrupt) => {
            warn!("asked twice to stop, cutting all connections");
            ExitCode::SUCCESS
        }
    }
}

fn announce(settings: &Settings) {
    let version = env!("CARGO_PKG_VERSION");
    let node = settings.node.name.as_str();
    if settings.development() {
        info!(version, node, "starting in development mode: anyone on this machine may connect, subscribe and publish");
    } else {
        info!(version, node, "starting");
    }
    for warning in settings.warnings() {
        warn!("{warning}");
    }
}

fn say_where(node: &Node, demo: bool, encrypted: bool) {
    for address in node.internal_addresses() {
        info!(%address, "listening for back ends and operators");
    }
    for address in node.public_addresses() {
        info!(%address, "listening for clients");
    }
    if let Some(address) = node.public_addresses().first() {
        let host = if address.ip().is_unspecified() { "127.0.0.1".into() } else { address.ip().to_string() };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let page = if demo { "demo/" } else { "" };
        let scheme = if encrypted { "https" } else { "http" };
        info!("open {scheme}://{host}:{port}/{page} in a browser", port = address.port());
    }
}

async fn asked_to_stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

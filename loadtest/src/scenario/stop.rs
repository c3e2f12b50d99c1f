//! The wish that a run ends before its time: SIGINT or SIGTERM.

use std::sync::mpsc;

use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::scenario::{
    ScenarioError,
    crew::{on_this_thread, spawn},
};

/// Listens from now on, until nobody holds the receiver any more: a signal that comes while clients still connect is not missed.
///
/// # Errors
/// The system has no thread, or no signals, for us.
pub(super) fn listen() -> Result<watch::Receiver<bool>, ScenarioError> {
    let (stop, is_stopped) = watch::channel(false);
    let (ready, is_ready) = mpsc::channel();
    let wait = move || async move {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ScenarioError::Start)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(ScenarioError::Start)?;
        let _ = ready.send(());
        loop {
            select! {
                _ = interrupt.recv() => drop(stop.send(true)),
                _ = terminate.recv() => drop(stop.send(true)),
                () = stop.closed() => return Ok(()),
            }
        }
    };
    let listening = spawn("load-signals".to_owned(), || on_this_thread(wait))?;
    match is_ready.recv() {
        Ok(()) => Ok(is_stopped),
        Err(_) => listening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(|()| is_stopped),
    }
}

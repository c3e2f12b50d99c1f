//! What the nodes of one test file write into their log.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use skywave_backplane::conformance::DEADLINE;

static LOG: OnceLock<Log> = OnceLock::new();

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

/// The log, from the first call on: of all tests of the file together, so look for what is your own in it.
pub(crate) fn log() -> &'static Log {
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    })
}

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// The lines of one server: those that name its port.
    pub(crate) fn of(&self, port: u16) -> Vec<String> {
        let address = format!("127.0.0.1:{port}");
        self.text().lines().filter(|line| line.contains(&address)).map(str::to_owned).collect()
    }

    /// Waits for a line of this server that has all of these words in it.
    pub(crate) async fn until(&self, port: u16, words: &[&str]) -> String {
        let found = || self.of(port).into_iter().find(|line| words.iter().all(|word| line.contains(word)));
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(line) = found() {
                return line;
            }
            assert!(
                Instant::now() < deadline,
                "not within {DEADLINE:?}: {words:?} in {:#?}",
                self.of(port).last_chunk::<3>()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

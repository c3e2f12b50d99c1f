//! The user's back end decides and is told, and it is away, slow, wrong or back again.
#![allow(missing_docs, unreachable_pub, reason = "nobody reads these from outside")]
#![allow(clippy::unwrap_used, reason = "the helpers of a test are a test")]

mod decide;
mod events;
mod receiver;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../support/tls.rs"]
mod tls;

use std::sync::Arc;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use skywave_gateway::{
    config::{Flags, Settings, WebhookSettings},
    outbound::Outbound,
    webhooks::Webhooks,
};

/// `URL` stands for the receiver's.
fn settings(text: &str, url: &str) -> WebhookSettings {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("skywave.toml");
    std::fs::write(&file, text.replace("URL", url)).unwrap();
    let flags = Flags { config: Some(file), ..Flags::default() };
    Settings::load(&flags, [("", ""); 0]).unwrap_or_else(|error| panic!("{error}")).webhooks
}

fn start(settings: &WebhookSettings) -> Webhooks {
    Webhooks::start(settings, Outbound::new(None).unwrap(), "node-1".into())
}

/// What this test's thread counts: each test has its own thread, and all of its tasks run there.
struct Figures {
    handle: PrometheusHandle,
    _recorder: metrics::LocalRecorderGuard<'static>,
}

impl Figures {
    fn record() -> Self {
        let recorder: &'static PrometheusRecorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        Self { handle: recorder.handle(), _recorder: metrics::set_default_local_recorder(recorder) }
    }

    /// None: it has not been opened.
    fn count(&self, hook: &str, outcome: &str) -> Option<u64> {
        let series = format!("skywave_webhooks_total{{hook=\"{hook}\",outcome=\"{outcome}\"}} ");
        self.handle.render().lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
    }

    /// Waits until it is this.
    async fn until(&self, hook: &str, outcome: &str, count: u64) {
        let deadline = tokio::time::Instant::now() + receiver::DEADLINE;
        while self.count(hook, outcome) != Some(count) {
            assert!(tokio::time::Instant::now() < deadline, "{hook} {outcome}: {:?}", self.count(hook, outcome));
            tokio::time::sleep(std::time::Duration::from_millis(5)).await; // between two looks at the condition
        }
    }
}

fn text(text: &str) -> Arc<str> {
    text.into()
}

//! Words that all nodes over one Redis share: the first that asks writes them.

use std::{sync::Arc, time::Duration};

use deadpool_redis::{Pool, PoolError};

use super::Redis;
use crate::Cause;

/// Between two tries while Redis is away.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What Redis says that does not change by itself.
const FINAL: [&str; 4] = ["NOPERM", "WRONGPASS", "WRONGTYPE", "NOAUTH"];

/// Redis refused it, or, without a cause, the backplane was closed meanwhile.
#[derive(Debug)]
pub(super) struct NotAgreed(pub(super) Option<Cause>);

impl Redis {
    /// What stands at a key, where `fresh` is put if nothing does. Waits until Redis is there.
    ///
    /// Cancel-safe: whoever asks next gets the same.
    pub(super) async fn agree(&self, key: &str, fresh: &str) -> Result<String, NotAgreed> {
        let mut state = self.0.state.clone();
        loop {
            let Some(link) = self.0.masters.link_of_key(key) else {
                if self.0.stop.is_cancelled() {
                    return Err(NotAgreed(None));
                }
                let _ = tokio::time::timeout(RETRY_INTERVAL, state.changed()).await;
                continue;
            };
            match ask(link.occasional(), key, fresh).await {
                Ok(agreed) => return Ok(agreed),
                Err(PoolError::Backend(error)) if error.code().is_some_and(|code| FINAL.contains(&code)) => {
                    return Err(NotAgreed(Some(Arc::new(error))));
                }
                // Gone again before it answered.
                Err(_) if !self.0.stop.is_cancelled() => tokio::time::sleep(RETRY_INTERVAL).await,
                Err(_) => return Err(NotAgreed(None)),
            }
        }
    }
}

async fn ask(pool: &Pool, key: &str, fresh: &str) -> Result<String, PoolError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg(key).arg(fresh).arg("NX").ignore().cmd("GET").arg(key);
    let (agreed,) = pipeline.query_async(&mut pool.get().await?).await?;
    Ok(agreed)
}

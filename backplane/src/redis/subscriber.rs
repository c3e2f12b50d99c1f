//! The connection that publications come in on. It carries nothing but SUBSCRIBE and UNSUBSCRIBE.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, Client, PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection};
use skywave_proto::ChannelName;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{keys::Keys, link::CONNECT_TIMEOUT, options::RedisOptions, pump::Pump};

/// Names in one SUBSCRIBE: others wait for it at most 4 ms. (100,000 at once: half a second; a million: cut off.)
const NAMES: usize = 512;
/// How long a confirmation may take while other nodes subscribe a lot as well.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// When something was heard last.
pub(super) struct Heard {
    origin: Instant,
    after_ms: AtomicU64,
}

impl Heard {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), after_ms: 0.into() }
    }

    pub(super) fn now(&self) {
        let after = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after_ms.store(after, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Instant {
        self.origin + Duration::from_millis(self.after_ms.load(Ordering::Relaxed))
    }
}

/// One such connection. Silent for ever once dropped, even if Redis still writes to it.
pub(super) struct Subscriber {
    connection: MultiplexedConnection,
    keys: Keys,
    lost: CancellationToken,
    muted: Arc<AtomicBool>,
}

impl Subscriber {
    pub(super) async fn open(
        options: &RedisOptions,
        keys: &Keys,
        pump: &Arc<Pump>,
        heard: &Arc<Heard>,
    ) -> RedisResult<Self> {
        let client = Client::open(options.connection.clone())?;
        let (lost, muted) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CONFIRM_TIMEOUT))
            .set_push_sender({
                let (keys, pump, heard) = (keys.clone(), pump.clone(), heard.clone());
                let (lost, muted) = (lost.clone(), muted.clone());
                move |push: PushInfo| {
                    if push.kind == PushKind::Disconnection {
                        lost.cancel();
                    } else if !muted.load(Ordering::Acquire) {
                        heard.now();
                        take(push, &keys, &pump);
                    }
                    Ok::<_, std::convert::Infallible>(())
                }
            });
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // Before the first SUBSCRIBE nothing can come unasked, so nothing can be taken for its answer.
        redis::cmd("CLIENT").arg("SETNAME").arg(options.client_name()).exec_async(&mut connection).await?;
        Ok(Self { connection, keys: keys.clone(), lost, muted })
    }

    /// Subscribes; when it returns all are confirmed.
    pub(super) async fn subscribe(&mut self, channels: &[ChannelName]) -> RedisResult<()> {
        for names in self.names(channels) {
            self.connection.subscribe(names).await?;
        }
        Ok(())
    }

    pub(super) async fn unsubscribe(&mut self, channels: &[ChannelName]) -> RedisResult<()> {
        for names in self.names(channels) {
            self.connection.unsubscribe(names).await?;
        }
        Ok(())
    }

    fn names(&self, channels: &[ChannelName]) -> Vec<Vec<String>> {
        channels.chunks(NAMES).map(|chunk| chunk.iter().map(|channel| self.keys.channel(channel)).collect()).collect()
    }

    pub(super) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.muted.store(true, Ordering::Release);
    }
}

/// Runs in the connection itself: must not wait.
fn take(push: PushInfo, keys: &Keys, pump: &Pump) {
    if push.kind != PushKind::Message {
        return;
    }
    let mut parts = push.data.into_iter();
    if let (Some(Value::BulkString(channel)), Some(Value::BulkString(frame))) = (parts.next(), parts.next())
        && let Some(channel) = keys.read_channel(&channel)
    {
        pump.dispatch(channel, frame);
    }
}

//! The connection that publications come in on. It carries nothing but SUBSCRIBE and UNSUBSCRIBE.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection,
};
use skywave_proto::ChannelName;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    inbox::Inbox,
    keys::{self, Keys},
    link::{CONNECT_TIMEOUT, Target, require_master},
    options::RedisOptions,
    pump::Pump,
};
use crate::metrics;

/// Names in one SUBSCRIBE: others wait for it at most 4 ms. (100,000 at once: half a second; a million: cut off.)
const NAMES: usize = 512;
/// How long a confirmation may take while other nodes subscribe a lot as well.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// So many publications in a millisecond are delivered by the connection itself: more, and the lanes share them.
const FEW: u64 = 16;
/// A delivery that takes this long holds the connection up, and Redis cuts off who does not read …
const LONG_MS: u64 = 2;
/// … so for so long the lanes deliver everything.
const REST_MS: u64 = 1000;

/// What the names of channels begin with that a node probes its own way through Redis with.
pub(super) const PROBE: &str = "#probe:";

/// When something was heard last, and how long probes take.
pub(super) struct Heard {
    origin: Instant,
    after_ms: AtomicU64,
    in_this_ms: AtomicU64,
    /// Until then the connection delivers nothing itself.
    resting_until_ms: AtomicU64,
    probed: Mutex<Option<Instant>>,
}

impl Heard {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            after_ms: 0.into(),
            in_this_ms: 0.into(),
            resting_until_ms: 0.into(),
            probed: Mutex::default(),
        }
    }

    /// A probe is about to go out.
    pub(super) fn probe_goes(&self) {
        *self.probed.lock() = Some(Instant::now());
    }

    fn probe_came(&self) {
        if let Some(at) = self.probed.lock().take() {
            metrics::probe_took(at.elapsed());
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What came last has been delivered by the connection itself.
    fn delivered(&self) {
        let after = self.elapsed_ms();
        if after.saturating_sub(self.after_ms.load(Ordering::Relaxed)) >= LONG_MS {
            self.resting_until_ms.store(after + REST_MS, Ordering::Relaxed);
        }
    }

    /// Something has come in. Tells whether that is little: few in this millisecond, and what came before was quickly
    /// delivered. Only the connection calls it.
    pub(super) fn now(&self) -> bool {
        let after = self.elapsed_ms();
        let before = self.after_ms.swap(after, Ordering::Relaxed);
        let count = if before == after { self.in_this_ms.load(Ordering::Relaxed) + 1 } else { 1 };
        self.in_this_ms.store(count, Ordering::Relaxed);
        count <= FEW && after >= self.resting_until_ms.load(Ordering::Relaxed)
    }

    pub(super) fn last(&self) -> Instant {
        self.origin + Duration::from_millis(self.after_ms.load(Ordering::Relaxed))
    }
}

/// One such connection. Silent for ever once dropped, even if Redis still writes to it.
pub(super) struct Subscriber {
    connection: MultiplexedConnection,
    sharded: bool,
    keys: Keys,
    lost: CancellationToken,
    muted: Arc<AtomicBool>,
    /// Names that are being unsubscribed: for all others Redis ends a subscription because the slot has moved.
    leaving: Arc<Mutex<HashSet<Vec<u8>>>>,
}

impl Subscriber {
    pub(super) async fn open(
        options: &RedisOptions,
        target: &Target,
        keys: &Keys,
        pump: &Arc<Pump>,
        inbox: &Arc<Inbox>,
        heard: &Arc<Heard>,
    ) -> RedisResult<Self> {
        let address = target.address.clone().ok_or((ErrorKind::InvalidClientConfig, "no master is known"))?;
        let client = Client::open(address)?;
        let (lost, muted) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let leaving = Arc::<Mutex<HashSet<_>>>::default();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CONFIRM_TIMEOUT))
            .set_push_sender({
                let (keys, pump, inbox, heard) = (keys.clone(), pump.clone(), inbox.clone(), heard.clone());
                let (lost, muted, leaving) = (lost.clone(), muted.clone(), leaving.clone());
                move |push: PushInfo| {
                    if push.kind == PushKind::Disconnection {
                        lost.cancel();
                    } else if !muted.load(Ordering::Acquire) {
                        let is_little = heard.now();
                        match push.kind {
                            PushKind::Message | PushKind::SMessage => take(push, &keys, &pump, &heard, is_little),
                            PushKind::SUnsubscribe => dropped(push, &keys, &inbox, &leaving),
                            _ => {}
                        }
                    }
                    Ok::<_, std::convert::Infallible>(())
                }
            });
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // Before the first SUBSCRIBE nothing can come unasked, so nothing can be taken for its answer.
        redis::cmd("CLIENT").arg("SETNAME").arg(options.client_name()).exec_async(&mut connection).await?;
        require_master(&mut connection).await?;
        Ok(Self { connection, sharded: target.sharded, keys: keys.clone(), lost, muted, leaving })
    }

    /// Subscribes; when it returns all are confirmed.
    pub(super) async fn subscribe(&mut self, channels: &[ChannelName]) -> RedisResult<()> {
        for names in self.names(channels) {
            if self.sharded {
                self.each("SSUBSCRIBE", &names).await?;
            } else {
                self.connection.subscribe(names).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn unsubscribe(&mut self, channels: &[ChannelName]) -> RedisResult<()> {
        for names in self.names(channels) {
            if self.sharded {
                self.leaving.lock().extend(names.iter().map(|name| name.as_bytes().to_vec()));
                let done = self.each("SUNSUBSCRIBE", &names).await;
                self.leaving.lock().clear();
                done?;
            } else {
                self.connection.unsubscribe(names).await?;
            }
        }
        Ok(())
    }

    /// One name in each command: several in one would have to share a slot.
    async fn each(&mut self, command: &str, names: &[String]) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        for name in names {
            pipeline.cmd(command).arg(name);
        }
        if names.is_empty() {
            return Ok(());
        }
        let answers = self.connection.send_packed_commands(&pipeline, 0, names.len()).await?;
        answers.into_iter().try_for_each(|answer| answer.extract_error().map(drop))
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
fn take(push: PushInfo, keys: &Keys, pump: &Pump, heard: &Heard, is_little: bool) {
    let mut parts = push.data.into_iter();
    if let (Some(Value::BulkString(channel)), Some(Value::BulkString(frame))) = (parts.next(), parts.next())
        && let Some(channel) = keys.read_channel(&channel)
    {
        if channel.starts_with(PROBE) {
            heard.probe_came();
        } else {
            pump.dispatch(channel, frame, is_little);
            if is_little {
                heard.delivered();
            }
        }
    }
}

/// The slot has gone to another master: whoever has the partition now subscribes its channels.
fn dropped(push: PushInfo, keys: &Keys, inbox: &Inbox, leaving: &Mutex<HashSet<Vec<u8>>>) {
    let Some(Value::BulkString(name)) = push.data.into_iter().next() else { return };
    if !leaving.lock().contains(&name)
        && let Some(channel) = keys.read_channel(&name)
    {
        inbox.dropped.lock().insert(keys::partition_of(channel));
        inbox.was_dropped.notify_one();
    }
}

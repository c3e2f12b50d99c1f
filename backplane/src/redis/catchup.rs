//! Delivering what was missed: channels that the live rule has sent here, and sweeps over all of them.

use std::{sync::Arc, time::Duration};

use redis::RedisResult;
use skywave_proto::{ChannelName, StreamPosition};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, error, info, warn};

use super::{
    history::{self, Page},
    inbox::Inbox,
    keys::Keys,
    link::Link,
    pump::Pump,
};
use crate::metrics;

/// How many channels are asked for publications together, how many each gives, and how many bytes.
const CHANNELS: usize = 32;
const PUBLICATIONS: u32 = 256;
const BYTES: u64 = 1 << 20;
/// How often all positions are compared although nothing seems wrong: 0.75 us of Redis for each channel.
const IDLE_SWEEP: Duration = Duration::from_secs(30);
/// How long a publication may be on its way before a channel counts as behind.
const IN_FLIGHT: Duration = Duration::from_secs(1);
/// How long to wait when Redis does not answer, yet is not given up.
const RETRY: Duration = Duration::from_millis(200);

/// Asks the history for what subscribers lack. Cloning shares it.
#[derive(Clone)]
pub(super) struct CatchUp {
    /// Which master is asked, and what waits for it.
    pub(super) master: usize,
    pub(super) inbox: Arc<Inbox>,
    pub(super) pump: Arc<Pump>,
    pub(super) keys: Keys,
    pub(super) link: watch::Receiver<Option<Arc<Link>>>,
}

impl CatchUp {
    /// Serves the channels that fall behind, for as long as it is polled.
    pub(super) async fn run(self) {
        let mut next_idle_sweep = Instant::now() + IDLE_SWEEP;
        let mut suspects = Vec::new();
        let mut recheck = Instant::now();
        loop {
            tokio::select! {
                () = self.inbox.fell_behind.notified() => self.serve().await,
                () = self.inbox.overflow.notified() => {
                    if !self.sweep_all().await {
                        self.inbox.overflow.notify_one();
                    }
                }
                () = tokio::time::sleep_until(next_idle_sweep) => {
                    metrics::ring_bytes(self.pump.ring_bytes());
                    self.touch().await;
                    suspects = self.suspects().await;
                    (recheck, next_idle_sweep) = (Instant::now() + IN_FLIGHT, Instant::now() + IDLE_SWEEP);
                }
                () = tokio::time::sleep_until(recheck), if !suspects.is_empty() => {
                    self.recheck(std::mem::take(&mut suspects));
                }
            }
        }
    }

    fn current(&self) -> Option<Arc<Link>> {
        self.link.borrow().clone().filter(|link| !link.is_broken())
    }

    /// A quiet channel's line lives as long as somebody is subscribed to it.
    async fn touch(&self) {
        let Some(link) = self.current() else { return };
        if let Err(error) = history::touch(&link, &self.keys, &self.pump.untouched(self.master)).await {
            debug!(%error, "lines could not be made to live on; the next time is soon enough");
        }
    }

    async fn serve(&self) {
        loop {
            let channels = self.pump.take_behind(self.master, CHANNELS);
            if channels.is_empty() {
                return;
            }
            // Without a connection they stay as they are: the sweep after the next one takes them over.
            let Some(link) = self.current() else { continue };
            match self.round(&link, channels.clone()).await {
                // To the end of the queue: a channel that is always behind must not hold up the others.
                Ok(again) if again.is_empty() => {}
                Ok(again) => self.pump.put_behind(self.master, again),
                Err(error) => {
                    debug!(%error, "the history could not be asked");
                    tokio::time::sleep(RETRY).await;
                    if !link.is_broken() {
                        self.pump.put_behind(self.master, channels);
                    }
                }
            }
        }
    }

    /// After frames were dropped. True when done, or when a reconnect will do it.
    async fn sweep_all(&self) -> bool {
        let Some(link) = self.current() else { return true };
        match self.sweep(&link, self.pump.channels(self.master)).await {
            Ok(()) => true,
            Err(error) => {
                warn!(%error, "could not catch up after publications were dropped; trying again");
                tokio::time::sleep(RETRY).await;
                link.is_broken()
            }
        }
    }

    /// Compares positions and delivers what was missed; returns when every channel has reached where it stood.
    pub(super) async fn sweep(&self, link: &Link, channels: Vec<ChannelName>) -> RedisResult<()> {
        let channels: Vec<_> = channels.into_iter().filter(|channel| self.pump.last(channel).is_some()).collect();
        let positions = history::positions(link, &self.keys, &channels).await?;
        let mut behind = Vec::new();
        for (channel, position) in channels.into_iter().zip(positions) {
            match position {
                Ok(position) => behind.extend(self.pump.start_catching(&channel, position).then_some(channel)),
                Err(error) => error!(%channel, %error, "cannot read where a channel stands"),
            }
        }
        if !behind.is_empty() {
            info!(channels = behind.len(), "catching up from history");
        }
        while !behind.is_empty() {
            let rest = behind.split_off(behind.len().saturating_sub(CHANNELS));
            behind.extend(self.round(link, rest).await?);
        }
        Ok(())
    }

    /// One page for each channel. Gives those that need another.
    async fn round(&self, link: &Link, channels: Vec<ChannelName>) -> RedisResult<Vec<ChannelName>> {
        let ask = |channel: ChannelName| self.pump.ask(&channel).map(|(ticket, last)| (channel, ticket, last));
        let asked: Vec<_> = channels.into_iter().filter_map(ask).collect();
        let answers = self.pages(link, &asked).await?;
        let (mut again, mut lineless) = (Vec::new(), Vec::new());
        for ((channel, ticket, _), page) in asked.into_iter().zip(answers) {
            match page {
                Ok(Page { line: Some(line), publications }) => {
                    again.extend(self.pump.absorb(&channel, ticket, &line, publications).then_some(channel));
                }
                Ok(Page { line: None, .. }) => {
                    // Lost with all of it. A new one is begun, so that there is something to say where live goes on.
                    let policy = self.pump.policy(&channel);
                    lineless.extend(policy.map(|policy| ((channel, policy), ticket)));
                }
                Err(error) => {
                    error!(%channel, %error, "cannot read a channel's history");
                    self.pump.give_up(&channel, ticket);
                }
            }
        }
        let (lineless, tickets): (Vec<_>, Vec<_>) = lineless.into_iter().unzip();
        let lines = history::lines(link, &self.keys, &lineless).await?;
        for (((channel, _), ticket), line) in lineless.into_iter().zip(tickets).zip(lines) {
            match line {
                Ok(line) => again.extend(self.pump.absorb(&channel, ticket, &line, Vec::new()).then_some(channel)),
                Err(error) => {
                    error!(%channel, %error, "cannot begin a line of offsets");
                    self.pump.give_up(&channel, ticket);
                }
            }
        }
        Ok(again)
    }

    async fn pages(
        &self,
        link: &Link,
        asked: &[(ChannelName, u64, StreamPosition)],
    ) -> RedisResult<Vec<RedisResult<Page>>> {
        let mut pipeline = redis::pipe();
        for (channel, _, last) in asked {
            let first = i64::try_from(last.offset).unwrap_or(i64::MAX).saturating_add(1);
            pipeline.add_command(history::request(link, &self.keys, channel, first, PUBLICATIONS, BYTES));
        }
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let answers = link.ask(&pipeline).await?;
        Ok(answers.into_iter().zip(asked).map(|(answer, (channel, ..))| history::read(channel, answer)).collect())
    }

    /// Channels that are not where Redis says: perhaps behind, perhaps their publication is on its way just now. One
    /// without a line is none: its end was its time to live, and the next publication tells.
    async fn suspects(&self) -> Vec<(ChannelName, StreamPosition)> {
        let Some(link) = self.current() else { return Vec::new() };
        let mut channels = self.pump.channels(self.master);
        channels.retain(|channel| self.pump.last(channel).is_some());
        let Ok(positions) = history::positions(&link, &self.keys, &channels).await else { return Vec::new() };
        let suspect = |(channel, position): (ChannelName, RedisResult<Option<StreamPosition>>)| {
            let position = position.ok().flatten()?;
            (self.pump.last(&channel) != Some(position)).then_some((channel, position))
        };
        channels.into_iter().zip(positions).filter_map(suspect).collect()
    }

    fn recheck(&self, suspects: Vec<(ChannelName, StreamPosition)>) {
        let is_behind = |channel: &ChannelName, position: &StreamPosition| {
            self.pump.last(channel).is_some_and(|last| last.epoch != position.epoch || last.offset < position.offset)
        };
        let behind: Vec<_> = suspects
            .into_iter()
            .filter(|(channel, at)| is_behind(channel, at) && self.pump.start_catching(channel, Some(*at)))
            .map(|(channel, _)| channel)
            .collect();
        if !behind.is_empty() {
            warn!(channels = behind.len(), "publications had not come in although nothing seemed wrong");
            self.pump.put_behind(self.master, behind);
        }
    }
}

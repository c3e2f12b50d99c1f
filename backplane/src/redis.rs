#![allow(missing_docs)]
use crate::*;
use skywave_proto::{ChannelName, Member, StreamPosition};
use std::{sync::Arc, time::Duration};
#[derive(Clone)]
pub struct Redis;
pub struct RedisOptions;
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct RedisOptionsError;
impl RedisOptions {
    pub fn parse(_: &str, _: &str, _: Option<&str>, _: Option<&str>, _: &str) -> Result<Self, RedisOptionsError> {
        Ok(Self)
    }
}
impl Redis {
    pub fn new(_: RedisOptions, _: Arc<dyn Sink>) -> Self {
        Self
    }
    pub async fn shared_secret(&self) -> Result<[u8; 32], HistoryError> {
        std::future::pending().await
    }
}
impl Backplane for Redis {
    fn publish(&self, p: NewPublication) -> impl Future<Output = Result<Published, PublishError>> + Send + 'static {
        std::future::ready(Err(PublishError::Unavailable { channel: p.channel, source: None }))
    }
    async fn subscribe(&self, c: &[Interest]) -> Vec<Result<Option<StreamPosition>, SubscribeError>> {
        c.iter().map(|_| Err(SubscribeError::Unavailable)).collect()
    }
    fn unsubscribe(&self, _: &[ChannelName]) {}
    async fn history(&self, _: &ChannelName, _: HistoryQuery) -> Result<HistoryPage, HistoryError> {
        Err(HistoryError::Unavailable(None))
    }
    async fn positions(&self, _: &[ChannelName]) -> Result<Vec<Option<StreamPosition>>, HistoryError> {
        Err(HistoryError::Unavailable(None))
    }
    async fn forget(&self, _: &ChannelName) -> Result<(), HistoryError> {
        Err(HistoryError::Unavailable(None))
    }
    fn state(&self) -> BackplaneState {
        BackplaneState::Never
    }
}
impl Presence for Redis {
    async fn join(&self, _: &ChannelName, _: Member, _: u64) -> Result<(), PresenceError> {
        Err(PresenceError::Unavailable("stub"))
    }
    async fn leave(&self, _: &ChannelName, _: &Arc<str>, _: u64, _: Duration) -> Result<(), PresenceError> {
        Err(PresenceError::Unavailable("stub"))
    }
    async fn members(&self, _: &ChannelName, _: Option<&str>, _: usize) -> Result<MemberPage, PresenceError> {
        Err(PresenceError::Unavailable("stub"))
    }
}

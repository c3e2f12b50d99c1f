//! What one client may do beyond what its namespaces give to everybody, and for how long; pure.

use skywave_proto::ChannelName;

use crate::{
    auth::{Claims, Pattern, Patterns},
    webhooks::Welcome,
};

/// What a token, and the back end at `connect`, say for a client.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    token: Option<Box<Claims>>,
    back_end: Option<Box<Added>>,
}

/// What the back end adds.
#[derive(Debug, Clone)]
struct Added {
    /// When it said so: milliseconds since 1970.
    at_ms: u64,
    subscribe: Patterns,
    publish: Patterns,
    channels: Vec<ChannelName>,
    expires_at_ms: Option<u64>,
}

impl Grant {
    /// What a token says.
    pub fn of_token(claims: Claims) -> Self {
        Self { token: Some(Box::new(claims)), back_end: None }
    }

    /// The same with another token. What the back end added stays, and ends when it would have.
    #[must_use]
    pub fn renewed(&self, claims: Claims) -> Self {
        Self { token: Some(Box::new(claims)), ..self.clone() }
    }

    /// Adds what the back end says at `connect`.
    ///
    /// # Errors
    /// If its words are no patterns: that is the back end's mistake.
    pub fn add(&mut self, welcome: &Welcome, now_ms: u64) -> Result<(), String> {
        let pattern = |text: &String| Pattern::parse(text).map_err(|error| format!("pattern {text:?}: {error}"));
        let patterns = |texts: &[String]| texts.iter().map(pattern).collect::<Result<Vec<_>, _>>().map(Patterns::from);
        self.back_end = Some(Box::new(Added {
            at_ms: now_ms,
            subscribe: patterns(&welcome.subscribe)?,
            publish: patterns(&welcome.publish)?,
            channels: welcome.channels.clone(),
            expires_at_ms: welcome.expires_in_ms.map(|within| now_ms.saturating_add(within)),
        }));
        Ok(())
    }

    /// The channels that the client is subscribed to at connect, each once.
    pub fn channels(&self) -> Vec<&ChannelName> {
        let mut channels: Vec<_> = self.token().into_iter().flat_map(|claims| &claims.channels).collect();
        for channel in self.back_end.iter().flat_map(|added| &added.channels) {
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
        channels
    }

    /// When it ends, a token with its leeway: milliseconds since 1970; `None`: never. The earlier end counts.
    pub fn ends_at_ms(&self) -> Option<u64> {
        let token = self.token().and_then(|claims| claims.ends_at_ms);
        let back_end = self.back_end.as_ref().and_then(|added| added.expires_at_ms);
        token.into_iter().chain(back_end).min()
    }

    /// When the back end said who the client is; `None`: it was not asked.
    pub fn vouched_at_ms(&self) -> Option<u64> {
        self.back_end.as_ref().map(|added| added.at_ms)
    }

    /// When the client should bring a newer token by: the end without the leeway, for others who look at the same token may
    /// give none.
    pub fn renew_by_ms(&self) -> Option<u64> {
        let token = self.token().and_then(|claims| claims.expires_at_ms);
        let back_end = self.back_end.as_ref().and_then(|added| added.expires_at_ms);
        token.into_iter().chain(back_end).min()
    }

    /// The token that it came with.
    pub fn token(&self) -> Option<&Claims> {
        self.token.as_deref()
    }

    /// Whether it names the channel for subscribing.
    pub fn subscribes(&self, channel: &ChannelName) -> bool {
        let named =
            |patterns: &Patterns, channels: &[ChannelName]| patterns.matches(channel) || channels.contains(channel);
        self.token().is_some_and(|claims| named(&claims.subscribe, &claims.channels))
            || self.back_end.as_ref().is_some_and(|added| named(&added.subscribe, &added.channels))
    }

    /// Whether it names the channel for publishing.
    pub fn publishes(&self, channel: &ChannelName) -> bool {
        self.token().is_some_and(|claims| claims.publish.matches(channel))
            || self.back_end.as_ref().is_some_and(|added| added.publish.matches(channel))
    }
}

/// What is known of whoever asks, as far as rights go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing<'a> {
    /// Who it says it is.
    pub user: Option<&'a str>,
    /// What its token says.
    pub grant: Option<&'a Grant>,
}

impl Standing<'_> {
    /// Whether its token names the channel for subscribing.
    pub(super) fn subscribes(&self, channel: &ChannelName) -> bool {
        self.grant.is_some_and(|grant| grant.subscribes(channel))
    }

    /// Whether its token names the channel for publishing.
    pub(super) fn publishes(&self, channel: &ChannelName) -> bool {
        self.grant.is_some_and(|grant| grant.publishes(channel))
    }
}

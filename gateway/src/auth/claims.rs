//! What a token says of its holder, checked.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use skywave_proto::ChannelName;

use super::{
    error::TokenError,
    object::Object,
    pattern::{Pattern, Patterns},
};
use crate::config::TokenSettings;

/// The most patterns of a token, for subscribing and publishing together.
pub const MAX_PATTERNS: usize = 100;
/// The most channels that a token subscribes its holder to.
pub const MAX_CHANNELS: usize = 128;
/// The longest `sub` and `jti`, in bytes.
pub const MAX_ID_BYTES: usize = 255;
/// The largest `info`, in bytes.
pub const MAX_INFO_BYTES: usize = 4 << 10;
/// The last second of the year 9999: what is later is not in seconds.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// What the token of a connection says.
#[derive(Debug, Clone)]
pub struct Claims {
    /// `sub`: who the client is, 1 to 255 bytes, as a channel's name is built, so that the user's own channel can be called
    /// so. `None`: nobody in particular.
    pub user: Option<Arc<str>>,
    /// `exp`, since 1970.
    pub expires_at_ms: Option<u64>,
    /// `exp` and the leeway, since 1970: from then on the token is refused, and the session that lives by it ends. That is what a client
    /// is told.
    pub ends_at_ms: Option<u64>,
    /// `iat`, since 1970.
    pub issued_at_ms: Option<u64>,
    /// `jti`: which token it is, 1 to 255 bytes.
    pub id: Option<Arc<str>>,
    /// `skywave.subscribe`: the channels that it may subscribe to.
    pub subscribe: Patterns,
    /// `skywave.publish`: the channels that it may publish to.
    pub publish: Patterns,
    /// `skywave.channels`: what it is subscribed to at once, at most [`MAX_CHANNELS`]; the right to it comes with it. None is reserved.
    pub channels: Vec<ChannelName>,
    /// `skywave.info`: a JSON object for presence, without line breaks, at most [`MAX_INFO_BYTES`].
    pub info: Option<Bytes>,
}

/// What the token of one subscription says.
#[derive(Debug, Clone)]
pub struct ChannelClaims {
    /// `sub`: only this user may use it; the session compares.
    pub user: Arc<str>,
    /// `channel`: what it opens. Not reserved.
    pub channel: ChannelName,
    /// `exp`, since 1970, as in [`Claims::expires_at_ms`].
    pub expires_at_ms: Option<u64>,
    /// As [`Claims::ends_at_ms`]: then the subscription ends.
    pub ends_at_ms: Option<u64>,
    /// `iat`, since 1970.
    pub issued_at_ms: Option<u64>,
    /// `jti`.
    pub id: Option<Arc<str>>,
}

/// What every token has to keep to, from the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    issuer: Option<Box<str>>,
    audience: Box<[String]>,
    leeway_ms: u64,
    require_expiry: bool,
}

impl Rules {
    pub(super) fn new(settings: &TokenSettings) -> Self {
        Self {
            issuer: settings.issuer.as_deref().map(Into::into),
            audience: settings.audience.clone().into(),
            leeway_ms: u64::try_from(settings.leeway.as_millis()).unwrap_or(u64::MAX),
            require_expiry: settings.require_expiry,
        }
    }

    /// Whether the token holds at `now_ms` and is for us; until when, both without leeway and with it.
    fn check(&self, payload: &Payload<'_>, now_ms: u64) -> Result<Option<[u64; 2]>, TokenError> {
        if let Some(issuer) = &self.issuer
            && payload.iss.as_deref() != Some(&**issuer)
        {
            return Err(TokenError::Issuer);
        }
        let named = |wanted: &String| payload.aud.as_ref().is_some_and(|aud| aud.0.contains(wanted));
        match (self.audience.is_empty(), &payload.aud) {
            (true, None) => {}
            // RFC 7519 §4.1.3: whoever does not find himself in it must refuse the token.
            (true, Some(_)) => return Err(TokenError::Audience),
            (false, _) if self.audience.iter().any(named) => {}
            (false, _) => return Err(TokenError::Audience),
        }
        let ends = payload.exp.map(|Date(ms)| [ms, ms.saturating_add(self.leeway_ms)]);
        match ends {
            None if self.require_expiry => return Err(TokenError::claims("it needs `exp`")),
            Some([_, end]) if now_ms >= end => return Err(TokenError::Expired),
            _ => {}
        }
        // A token from the future would outlive what is revoked now.
        let latest = now_ms.saturating_add(self.leeway_ms);
        let begins = [payload.nbf, payload.iat].into_iter().flatten().map(|Date(ms)| ms).max();
        if begins.is_some_and(|begins| begins > latest) {
            return Err(TokenError::NotYetValid);
        }
        Ok(ends)
    }
}

/// Reads the claims of a connection's token, whose signature is right.
///
/// # Errors
/// [`TokenError::Claims`] and all that has to do with time, issuer and audience.
pub(super) fn read(payload: &[u8], rules: &Rules, now_ms: u64) -> Result<Claims, TokenError> {
    let payload = parse(payload)?;
    let ends = rules.check(&payload, now_ms)?;
    if payload.channel.is_some() {
        return Err(TokenError::claims("with `channel` it is for one subscription, not for a connection"));
    }
    let Object(ours) = payload.skywave.unwrap_or_default();
    if ours.subscribe.len() + ours.publish.len() > MAX_PATTERNS {
        return Err(TokenError::claims("it has more than 100 patterns"));
    }
    if ours.channels.len() > MAX_CHANNELS {
        return Err(TokenError::claims("it has more than 128 channels"));
    }
    Ok(Claims {
        user: payload.sub.as_deref().map(user).transpose()?,
        expires_at_ms: ends.map(|[exp, _]| exp),
        ends_at_ms: ends.map(|[_, end]| end),
        issued_at_ms: payload.iat.map(|Date(ms)| ms),
        id: payload.jti.as_deref().map(id).transpose()?,
        subscribe: patterns(&ours.subscribe)?,
        publish: patterns(&ours.publish)?,
        channels: ours.channels.iter().map(|name| channel(name)).collect::<Result<_, _>>()?,
        info: ours.info.map(info).transpose()?,
    })
}

/// Reads the claims of a subscription's token, whose signature is right.
///
/// # Errors
/// As [`read`].
pub(super) fn read_channel(payload: &[u8], rules: &Rules, now_ms: u64) -> Result<ChannelClaims, TokenError> {
    let payload = parse(payload)?;
    let ends = rules.check(&payload, now_ms)?;
    let Some(name) = &payload.channel else {
        return Err(TokenError::claims("without `channel` it is for a connection, not for one subscription"));
    };
    if payload.skywave.is_some() {
        return Err(TokenError::claims("it has `channel` or `skywave`, not both"));
    }
    // One that is anybody's could be handed on.
    let Some(sub) = payload.sub.as_deref() else { return Err(TokenError::claims("with `channel` it needs `sub`")) };
    Ok(ChannelClaims {
        user: user(sub)?,
        channel: channel(name)?,
        expires_at_ms: ends.map(|[exp, _]| exp),
        ends_at_ms: ends.map(|[_, end]| end),
        issued_at_ms: payload.iat.map(|Date(ms)| ms),
        id: payload.jti.as_deref().map(id).transpose()?,
    })
}

/// The claims that mean something here; all others are passed over. `'a`: the decoded payload.
#[derive(Deserialize)]
struct Payload<'a> {
    sub: Option<String>,
    exp: Option<Date>,
    nbf: Option<Date>,
    iat: Option<Date>,
    jti: Option<String>,
    iss: Option<String>,
    aud: Option<Audience>,
    channel: Option<String>,
    #[serde(borrow)]
    skywave: Option<Object<Ours<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ours<'a> {
    subscribe: Vec<String>,
    publish: Vec<String>,
    channels: Vec<String>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
}

fn parse(payload: &[u8]) -> Result<Payload<'_>, TokenError> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let Object(parsed) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // What serde says would repeat the value. The path has names of ours only: others are passed over.
        let path = error.path().to_string();
        match error.inner().is_data() && path != "." {
            true => TokenError::Claims(format!("`{path}` is not what it has to be").into()),
            false => no_object(),
        }
    })?;
    json.end().map_err(|_| no_object())?;
    Ok(parsed)
}

fn no_object() -> TokenError {
    TokenError::claims("its payload is not one JSON object with each claim once")
}

fn user(sub: &str) -> Result<Arc<str>, TokenError> {
    let fits = ChannelName::parse(sub).is_ok();
    fits.then(|| sub.into())
        .ok_or(TokenError::claims("`sub` has 1 to 255 bytes, no control characters and no spaces at its ends"))
}

fn id(jti: &str) -> Result<Arc<str>, TokenError> {
    let fits = (1..=MAX_ID_BYTES).contains(&jti.len());
    fits.then(|| jti.into()).ok_or(TokenError::claims("`jti` has 1 to 255 bytes"))
}

fn channel(name: &str) -> Result<ChannelName, TokenError> {
    match ChannelName::parse(name) {
        Ok(name) if name.is_reserved() => {
            Err(TokenError::claims("it names a channel that begins with `#`: those are the system's own"))
        }
        Ok(name) => Ok(name),
        Err(_) => Err(TokenError::claims("it names a channel that cannot be called so")),
    }
}

fn patterns(written: &[String]) -> Result<Patterns, TokenError> {
    let parsed = written.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>, _>>();
    parsed.map(Into::into).map_err(|error| TokenError::Claims(error.to_string().into()))
}

fn info(raw: &RawValue) -> Result<Bytes, TokenError> {
    // Between values only; inside a text JSON has none.
    let text: String = raw.get().chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    if !text.starts_with('{') {
        return Err(TokenError::claims("`skywave.info` is a JSON object"));
    }
    if text.len() > MAX_INFO_BYTES {
        return Err(TokenError::claims("`skywave.info` has more than 4096 bytes"));
    }
    Ok(text.into())
}

/// A NumericDate (RFC 7519 §2): seconds since 1970, here in milliseconds.
#[derive(Clone, Copy)]
struct Date(u64);

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if !(0.0..=LAST_SECOND).contains(&seconds) {
            return Err(de::Error::custom("not a date in seconds"));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bounds above")]
        Ok(Self((seconds * 1000.0) as u64))
    }
}

/// `aud`: one, or several (RFC 7519 §4.1.3).
struct Audience(Vec<String>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Audience;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Audience, E> {
                Ok(Audience(vec![text.to_owned()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Audience, A::Error> {
                let mut all = Vec::new();
                while let Some(next) = list.next_element()? {
                    all.push(next);
                }
                Ok(Audience(all))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

//! `GET /poll`: what comes next on one channel, as one answer. On any node: the client says where it stood.
//!
//! A poll that waits is a member of its channel on a shard. Between two polls there is nothing of a client on the node: what it
//! missed comes from history, so a channel that keeps none cannot be polled.

use std::{rc::Rc, time::Duration};

use futures_util::FutureExt as _;
use http::{Method, Request};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use skywave_proto::{ChannelName, ErrorCode, StreamPosition};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    credentials::{form_decoded, parameter},
    detached::{Detached, Next},
    http::{Answer, Door},
    passing::{self, Passer},
    problem::problem,
    sse,
};
use crate::{
    metrics,
    protocol::{Lines, refusal_of},
    session::{self, PAGE_PUBLICATIONS, REPLY_BYTES, Refusal, Since, Subscribe},
};

const METHODS: &str = "GET, OPTIONS";
/// How long a poll waits if it does not say, and the longest that one may: proxies cut what is silent for a minute.
const WAIT: Duration = Duration::from_secs(25);
const LONGEST: Duration = Duration::from_secs(60);

/// Answers a poll: with what there is, or with what comes, or with nothing once its time is over or the node leaves.
pub(super) async fn answer(request: Request<Incoming>, door: &Rc<Door>) -> Answer {
    let passer = match Passer::of(&request, door) {
        Ok(passer) => passer,
        Err(answer) => return *answer,
    };
    let cors = passer.cors.clone();
    let answer = match *request.method() {
        Method::GET => poll(&request, passer, door).await.unwrap_or_else(|refusal| problem(&refusal)),
        Method::OPTIONS => return cors.preflight(METHODS),
        _ => sse::wrong_method(METHODS),
    };
    cors.on(answer)
}

/// What the address says.
struct Wish {
    channel: ChannelName,
    since: Option<Since>,
    wait: Duration,
}

impl Wish {
    fn of(query: Option<&str>) -> Result<Self, Refusal> {
        let bad = |message: &str| Refusal::new(ErrorCode::BadRequest, message);
        let name = parameter(query, "channel").ok_or_else(|| bad("say which channel: /poll?channel=NAME"))?;
        let since = parameter(query, "since").and_then(form_decoded).filter(|since| !since.is_empty());
        let since = since.map(|since| since.parse::<StreamPosition>().map_or(Since::Foreign, Since::Position));
        let wait = match parameter(query, "timeout_ms").map(str::parse::<u64>) {
            None => WAIT,
            Some(Ok(wait)) => Duration::from_millis(wait).min(LONGEST),
            Some(Err(_)) => return Err(bad("timeout_ms is a number of milliseconds")),
        };
        Ok(Self { channel: sse::channel(name)?, since, wait })
    }
}

async fn poll(request: &Request<Incoming>, passer: Passer, door: &Rc<Door>) -> Result<Answer, Refusal> {
    let until = Instant::now();
    let Wish { channel, since, wait } = Wish::of(request.uri().query())?;
    let until = until + wait;
    {
        let namespace = session::namespace(&passer.settings, &channel)?;
        session::require_history(namespace, &channel)?;
    }
    let within = passer.settings.timeouts.handshake;
    let _seat = passer.seat(door, true).await?;
    let subscribe = Subscribe { channel, since, presence: false, echo: true, token: None };
    let detached = passer.enter(door, &Lines, vec![subscribe]);
    let first = match timeout(within, detached.next()).await {
        Ok(Next::Frame(frame)) => frame,
        Ok(Next::End(_)) => return Err(passing::gone()),
        Ok(Next::Beat) | Err(_) => return Err(passing::too_late(within)),
    };
    if let Some(goodbye) = detached.ending() {
        let refusal = refusal_of(&goodbye).inspect(|_| metrics::refused("rights"));
        return Err(refusal.unwrap_or_else(passing::gone));
    }
    detached.begin();
    let Some(subscribed) = serde_json::from_slice::<Line<'_>>(first.payload()).ok().and_then(|line| line.subscribed)
    else {
        return Err(Refusal::new(ErrorCode::Internal, "the node made a mistake; try again, and tell its operator"));
    };
    let is_done = !subscribed.publications.is_empty()
        || subscribed.recovered == Some(false)
        || (since.is_none() && subscribed.position.is_some());
    let mut found = Found {
        position: subscribed.position.map(ToOwned::to_owned),
        recovered: subscribed.recovered,
        publications: subscribed.publications.into_iter().map(ToOwned::to_owned).collect(),
    };
    if !is_done {
        found.wait(&detached, until).await;
    }
    Ok(passing::json(serde_json::to_vec(&found).unwrap_or_default()))
}

/// A line of what the session says.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    subscribed: Option<SubscribedWords<'a>>,
    #[serde(borrow)]
    publication: Option<&'a RawValue>,
    #[serde(borrow)]
    gap: Option<GapWords<'a>>,
}

#[derive(Deserialize)]
struct SubscribedWords<'a> {
    #[serde(borrow)]
    position: Option<&'a RawValue>,
    recovered: Option<bool>,
    #[serde(borrow, default)]
    publications: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct GapWords<'a> {
    #[serde(borrow)]
    position: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct PositionWords<'a> {
    epoch: &'a str,
    offset: u64,
}

/// The answer.
#[derive(Serialize)]
struct Found {
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
    publications: Vec<Box<RawValue>>,
}

impl Found {
    /// Waits for the first publication, and takes what is there behind it; a page at most.
    async fn wait(&mut self, detached: &Detached, until: Instant) {
        let mut next = timeout_at(until, detached.next()).await.ok();
        let mut room = REPLY_BYTES;
        while let Some(Next::Frame(frame)) = next {
            let Ok(line) = serde_json::from_slice::<Line<'_>>(frame.payload()) else { return };
            if let Some(publication) = line.publication {
                self.publications.push(publication.to_owned());
                self.position = frame.position().and_then(written).or_else(|| self.position.take());
            }
            if let Some(gap) = line.gap {
                // Behind what was found the next poll finds it again.
                if self.publications.is_empty() {
                    self.recovered = Some(false);
                    self.position = gap.position.map(ToOwned::to_owned);
                }
                return;
            }
            let most = usize::try_from(PAGE_PUBLICATIONS).unwrap_or(usize::MAX);
            room = room.saturating_sub(frame.payload().len());
            next = if self.publications.is_empty() {
                timeout_at(until, detached.next()).await.ok()
            } else if room > 0 && self.publications.len() < most {
                detached.next().now_or_never()
            } else {
                None
            };
        }
    }
}

fn written(position: StreamPosition) -> Option<Box<RawValue>> {
    let words = PositionWords { epoch: position.epoch.as_str(), offset: position.offset };
    serde_json::value::to_raw_value(&words).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_says_what_is_wanted() {
        let wish = Wish::of(Some("channel=a%3Ab&since=k3x9k3x9%3A7&timeout_ms=100")).unwrap();
        assert_eq!((wish.channel.as_str(), wish.wait), ("a:b", Duration::from_millis(100)));
        assert!(matches!(wish.since, Some(Since::Position(since)) if since.offset == 7));
        assert_eq!(Wish::of(Some("channel=a")).unwrap().wait, WAIT);
        assert_eq!(Wish::of(Some("channel=a&timeout_ms=9999999")).unwrap().wait, LONGEST);
        assert!(matches!(Wish::of(Some("channel=a&since=x")).unwrap().since, Some(Since::Foreign)));
        for query in [None, Some("since=x"), Some("channel="), Some("channel=a&timeout_ms=-1")] {
            assert_eq!(Wish::of(query).err().unwrap().code, ErrorCode::BadRequest, "{query:?}");
        }
    }
}

//! The public keys that a key server publishes (a JWK Set, RFC 7517), fetched when they are needed.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode, header};
use jsonwebtoken::jwk::Jwk;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value as Json;
use tokio::sync::watch;
use tracing::{info, warn};

use super::keys::Keys;
use crate::{config::JwksUrl, outbound::Outbound};

/// The largest set, in bytes.
const MAX_BYTES: usize = 256 << 10;
/// The most keys that are taken from one.
const MAX_KEYS: usize = 64;
/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// From one request to the next, whoever asks: a stranger who makes up key names must not make us ask for each.
pub(super) const PAUSE_MS: u64 = 10_000;

/// The keys of one server. Of all that need them at once one request is made, and none within [`PAUSE_MS`] of the last.
///
/// When the server is down the old set stays, however old: that it does not answer must not end everybody's connection.
#[derive(Debug)]
pub(super) struct Jwks {
    url: JwksUrl,
    outbound: Outbound,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    set: Option<Set>,
    /// When the last request began, and whether it failed.
    asked_at_ms: Option<u64>,
    failed: bool,
    /// Closed when the request under way is over.
    under_way: Option<watch::Receiver<()>>,
}

#[derive(Debug, Clone)]
struct Set {
    keys: Arc<Keys>,
    asked_at_ms: u64,
    max_age_ms: u64,
}

/// Why the keys are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A token is to be checked.
    Fresh,
    /// A token names a key that is not among them: they may have been replaced.
    Newer,
}

enum Step {
    Take,
    Wait(watch::Receiver<()>),
    Ask(watch::Sender<()>),
}

impl State {
    /// What to do at `now_ms` for a set that is at most `refresh_ms` old. Pure but for the note of who asks.
    fn step(&mut self, wanted: Wanted, refresh_ms: u64, now_ms: u64) -> Step {
        let is_fresh = self.set.as_ref().is_some_and(|set| {
            let lifetime = set.max_age_ms.clamp(PAUSE_MS.min(refresh_ms), refresh_ms);
            now_ms.abs_diff(set.asked_at_ms) < lifetime
        });
        if is_fresh && wanted == Wanted::Fresh {
            return Step::Take;
        }
        // One whose task has died is over as well.
        if let Some(under_way) = self.under_way.as_ref().filter(|request| request.has_changed().is_ok()) {
            return Step::Wait(under_way.clone());
        }
        if self.asked_at_ms.is_some_and(|asked| now_ms.abs_diff(asked) < PAUSE_MS) {
            return Step::Take;
        }
        let (done, under_way) = watch::channel(());
        (self.asked_at_ms, self.under_way) = (Some(now_ms), Some(under_way));
        Step::Ask(done)
    }
}

impl Jwks {
    pub(super) fn new(url: JwksUrl, outbound: Outbound) -> Self {
        Self { url, outbound, state: Arc::default() }
    }

    pub(super) fn is_of(&self, url: &JwksUrl) -> bool {
        self.url == *url
    }

    /// The set, asked for again if it is older than `refresh` (or than the server wants it to be), or if `wanted` says
    /// so; `None` if there has never been one. Waits for the answer, at most [`TIMEOUT`].
    ///
    /// # Cancel safety
    /// Cancel-safe: the request is a task of its own, for all who wait.
    pub(super) async fn keys(&self, wanted: Wanted, refresh: Duration, now_ms: u64) -> Option<Arc<Keys>> {
        let refresh_ms = u64::try_from(refresh.as_millis()).unwrap_or(u64::MAX);
        let step = self.state.lock().step(wanted, refresh_ms, now_ms);
        let mut over = match step {
            Step::Take => return self.set(),
            Step::Wait(under_way) => under_way,
            Step::Ask(done) => {
                let over = done.subscribe();
                tokio::spawn(ask(self.url.clone(), self.outbound.clone(), self.state.clone(), now_ms, done));
                over
            }
        };
        // Nothing is ever sent: an error is the end.
        let _ = over.changed().await;
        self.set()
    }

    /// Whether the last request brought nothing: then who is unknown may only be unknown here.
    pub(super) fn is_out_of_reach(&self) -> bool {
        let state = self.state.lock();
        state.failed || state.set.is_none()
    }

    fn set(&self) -> Option<Arc<Keys>> {
        self.state.lock().set.as_ref().map(|set| set.keys.clone())
    }
}

/// One request. `_done` is dropped at its end, however it ends.
async fn ask(url: JwksUrl, outbound: Outbound, state: Arc<Mutex<State>>, now_ms: u64, _done: watch::Sender<()>) {
    let answer = fetch(&url, &outbound).await;
    let mut state = state.lock();
    state.under_way = None;
    state.failed = answer.is_err();
    match answer {
        Ok((keys, max_age)) => {
            let max_age_ms = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
            if state.set.as_ref().is_none_or(|set| set.keys.len() != keys.len()) {
                info!(%url, keys = keys.len(), "fetched the keys of tokens");
            }
            state.set = Some(Set { keys: Arc::new(keys), asked_at_ms: now_ms, max_age_ms });
        }
        Err(error) => warn!(%url, %error, "cannot fetch the keys of tokens; those from before stay"),
    }
}

async fn fetch(url: &JwksUrl, outbound: &Outbound) -> Result<(Keys, Duration), String> {
    let request =
        outbound.client().get(url.reveal()).header(header::ACCEPT, "application/jwk-set+json, application/json");
    // What the library says may hold the address.
    let request = request.build().map_err(|_| "not an address".to_owned())?;
    let answer = outbound.send(request, TIMEOUT, MAX_BYTES).await.map_err(|error| error.to_string())?;
    if answer.status != StatusCode::OK {
        return Err(format!("the answer has status {}", answer.status));
    }
    let set: JwkSet = serde_json::from_slice(&answer.body).map_err(|_| "the answer is no JWK Set".to_owned())?;
    // What cannot be understood is passed over (RFC 7517 §5).
    let all = set.keys.len();
    let known = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let keys = Keys::published(known, MAX_KEYS);
    if keys.len() < all {
        warn!(%url, passed_over = all - keys.len(), "keys without a use here: secrets, unknown kinds, other purposes");
    }
    Ok((keys, max_age(&answer.headers).unwrap_or(Duration::MAX)))
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Json>,
}

/// `Cache-Control: max-age` (RFC 9111 §5.2.2.1), and 0 for what must not be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut shortest = None;
    for directive in values.flat_map(|value| value.split(',')).map(|text| text.trim().to_ascii_lowercase()) {
        let seconds = match directive.split_once('=') {
            Some(("max-age", seconds)) => seconds.trim_matches('"').parse().ok(),
            None if directive == "no-store" || directive == "no-cache" => Some(0),
            _ => None,
        };
        shortest = [shortest, seconds].into_iter().flatten().min();
    }
    shortest.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH_MS: u64 = 300_000;

    fn state(asked_at_ms: u64, max_age_ms: u64) -> State {
        let set = Set { keys: Arc::default(), asked_at_ms, max_age_ms };
        State { set: Some(set), asked_at_ms: Some(asked_at_ms), ..State::default() }
    }

    fn asks(state: &mut State, wanted: Wanted, now_ms: u64) -> bool {
        matches!(state.step(wanted, REFRESH_MS, now_ms), Step::Ask(_))
    }

    #[test]
    fn a_set_is_used_as_long_as_both_sides_want() {
        for (max_age_ms, fresh_until) in
            [(u64::MAX, REFRESH_MS), (60_000, 60_000), (0, PAUSE_MS), (5_000, PAUSE_MS), (REFRESH_MS * 9, REFRESH_MS)]
        {
            let at = |after| asks(&mut state(1_000, max_age_ms), Wanted::Fresh, 1_000 + after);
            assert!(!at(fresh_until - 1) && at(fresh_until), "{max_age_ms}");
        }
    }

    #[test]
    fn an_unknown_key_makes_one_request_in_a_while() {
        let mut state = state(1_000, u64::MAX);
        assert!(!asks(&mut state, Wanted::Newer, 1_000 + PAUSE_MS - 1));
        let step = state.step(Wanted::Newer, REFRESH_MS, 1_000 + PAUSE_MS);
        let Step::Ask(done) = step else { panic!("it is time") };
        assert!(matches!(state.step(Wanted::Newer, REFRESH_MS, 1_001 + PAUSE_MS), Step::Wait(_)));
        assert!(
            matches!(state.step(Wanted::Fresh, REFRESH_MS, 1_001 + PAUSE_MS), Step::Take),
            "who knows its key goes on"
        );
        drop(done);
        assert!(!asks(&mut state, Wanted::Newer, 1_002 + PAUSE_MS), "its task has died, and that counts as a request");
        assert!(asks(&mut state, Wanted::Newer, 1_000 + 2 * PAUSE_MS));
    }

    #[test]
    fn a_clock_that_was_set_back_stops_nothing() {
        let mut state = state(1_000_000_000, u64::MAX);
        assert!(asks(&mut state, Wanted::Fresh, 1_000));
    }

    #[test]
    fn how_long_the_server_wants_it_kept() {
        let max_age = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, value.parse().unwrap());
            max_age(&headers).map(|age| age.as_secs())
        };
        assert_eq!(max_age("public, max-age=600, must-revalidate"), Some(600));
        assert_eq!(max_age("Max-Age=\"7\""), Some(7));
        assert_eq!(max_age("max-age=600, no-store"), Some(0));
        for nothing in ["", "public", "s-maxage=5", "max-age=", "max-age=-1", "max-age=99999999999999999999"] {
            assert_eq!(max_age(nothing), None, "{nothing}");
        }
    }
}

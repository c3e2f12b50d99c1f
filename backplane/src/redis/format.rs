//! How what nodes keep in Redis, and say to each other through it, is written: a number that all of them agree on.
//!
//! It stands at `{prefix}:format`, with the release that wrote it: the first node there does. The master that has the key is
//! asked before a link to any master is opened, so that a node that does not understand it writes nothing, buries nobody
//! and hears nothing. What the key says is also what is written: nodes of two versions cannot differ about it, as they
//! could if each concluded from the registry who is alive.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use redis::{AsyncConnectionConfig, Client, Value};
use tokio::sync::watch;

use super::{
    inbox::Inboxes,
    inspect::{self, Credentials},
    keys::{self, Keys},
    link::{CONNECT_TIMEOUT, NO_WRITES, RESPONSE_TIMEOUT, Target, code},
};

/// What this version writes. Raised when a node of the version before would misread a key, a script's answer or a frame;
/// what it may overlook (a field, a signal) changes nothing. `docs/UPGRADES.md` says how.
const FORMAT: u32 = 1;
/// What this version reads and, where others still do, writes: its own and that of the minor version before.
const UNDERSTOOD: RangeInclusive<u32> = FORMAT..=FORMAT;
const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// How long those who have not got the key wait for the one that has.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was found, and who has to be asked.
pub(super) struct Format {
    key: String,
    slot: usize,
    inboxes: Arc<Inboxes>,
    /// `None`: nobody was asked yet.
    verdict: watch::Sender<Option<Result<(), Foreign>>>,
}

/// Nodes of another version work with what is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the keys in redis are of format {number} ({key}), written by {}, and this is {RELEASE}, which understands {}: run {}, or use \
     another backplane.prefix",
    .release.as_ref().map_or_else(|| "an unknown release".to_owned(), |release| format!("release {release}")),
    in_words(&UNDERSTOOD),
    advice(.number, .release.as_deref())
)]
pub(super) struct Foreign {
    key: String,
    number: String,
    release: Option<String>,
}

/// Why no link is opened now.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotChecked {
    #[error(transparent)]
    Foreign(#[from] Foreign),
    /// It cannot be asked.
    #[error("{0}")]
    Away(String),
    /// Another one has the key.
    #[error("the master that has {0} has not said yet in which format the keys are")]
    Elsewhere(String),
}

impl Format {
    pub(super) fn new(keys: &Keys, inboxes: Arc<Inboxes>) -> Self {
        let key = keys.format();
        Self { slot: keys::slot_of(&key), key, inboxes, verdict: watch::Sender::new(None) }
    }

    /// Why this node does not work with what it has found, in words.
    pub(super) fn refusal(&self) -> Option<String> {
        self.verdict.borrow().as_ref().and_then(|verdict| verdict.as_ref().err()).map(ToString::to_string)
    }

    /// Whether a link to this master may be opened: asks it, or waits for the one that can be asked.
    pub(super) async fn check(&self, master: usize, target: &Target) -> Result<(), NotChecked> {
        if self.inboxes.owner(self.slot) == Some(master) {
            let verdict = match self.ask(target).await? {
                Some(found) => judge(&self.key, &found),
                None => Ok(()),
            };
            self.verdict.send_replace(Some(verdict.clone()));
            return Ok(verdict?);
        }
        let mut verdict = self.verdict.subscribe();
        match tokio::time::timeout(PATIENCE, verdict.wait_for(Option::is_some)).await {
            Ok(Ok(verdict)) => Ok(verdict.clone().unwrap_or(Ok(()))?),
            Ok(Err(_)) | Err(_) => Err(NotChecked::Elsewhere(self.key.clone())),
        }
    }

    /// What stands there, where our own is put if nothing does; `None` while nothing can be.
    async fn ask(&self, target: &Target) -> Result<Option<String>, NotChecked> {
        let address = target.address.clone().ok_or_else(|| NotChecked::Away("no master is known".into()))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let answers = async {
            let mut connection = Client::open(address)?.get_multiplexed_async_connection_with_config(&config).await?;
            let mut questions = redis::pipe();
            questions.cmd("SET").arg(&self.key).arg(format!("{FORMAT} {RELEASE}")).arg("NX");
            questions.cmd("GET").arg(&self.key);
            connection.send_packed_commands(&questions, 0, questions.len()).await
        };
        let away = |error| NotChecked::Away(inspect::explain(&error, Credentials::Redis));
        let mut answers = answers.await.map_err(away)?.into_iter();
        let (set, get) = (answers.next().unwrap_or(Value::Nil), answers.next().unwrap_or(Value::Nil));
        let found = get.extract_error().and_then(|found| Ok(redis::from_redis_value::<Option<String>>(found)?));
        match (found.map_err(away)?, set) {
            (Some(found), _) => Ok(Some(found)),
            // Such a master is served from all the same, and the next link asks again.
            (None, set) if code(&set).is_some_and(|code| NO_WRITES.contains(&code)) => Ok(None),
            (None, set) => set.extract_error().map(|_| None).map_err(away),
        }
    }
}

/// `found`: the number, and the release that wrote it, if it did.
fn judge(key: &str, found: &str) -> Result<(), Foreign> {
    let (number, release) = found.split_once(' ').map_or((found, None), |(number, release)| (number, Some(release)));
    if number.parse().is_ok_and(|number| UNDERSTOOD.contains(&number)) {
        return Ok(());
    }
    // Whatever stands there goes into the log, and to whoever asks whether the node is ready.
    let short = |text: &str| text.chars().filter(|char| !char.is_control()).take(32).collect::<String>();
    Err(Foreign { key: key.to_owned(), number: short(number), release: release.map(short) })
}

fn in_words(understood: &RangeInclusive<u32>) -> String {
    match (understood.start(), understood.end()) {
        (first, last) if first == last => format!("only {first}"),
        (first, last) => format!("{first} to {last}"),
    }
}

/// Which release to run.
fn advice(number: &str, release: Option<&str>) -> String {
    match (number.parse::<u32>(), release) {
        (Ok(number), Some(release)) if number > *UNDERSTOOD.end() => format!("{release} or a later one"),
        (Ok(number), Some(release)) if number < *UNDERSTOOD.start() => {
            format!("{release}, or the minor version after it")
        }
        _ => "the release that the other nodes have".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_format_and_no_other() {
        for ours in ["1", "1 0.1.0", "1 0.2.0 and more"] {
            assert_eq!(judge("k", ours), Ok(()));
        }
        for other in ["0", "2", "", "one", "-1", "99999999999999999999", " 1", "2 0.2.0"] {
            assert!(judge("k", other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_found_and_what_to_run() {
        let said = |found| judge("skywave:format", found).unwrap_err().to_string();
        assert_eq!(
            said("2 0.9.0"),
            format!(
                "the keys in redis are of format 2 (skywave:format), written by release 0.9.0, and this is {RELEASE}, which \
                 understands only 1: run 0.9.0 or a later one, or use another backplane.prefix"
            )
        );
        assert!(said("2").contains("written by an unknown release"));
        assert!(said("2").contains("run the release that the other nodes have"));
        let foreign = said(&format!("{}\n2", "x".repeat(1000)));
        assert!(foreign.len() < 400 && !foreign.contains('\n'), "{foreign}");
        assert_eq!((in_words(&(1..=1)), in_words(&(1..=2))), ("only 1".to_owned(), "1 to 2".to_owned()));
    }
}

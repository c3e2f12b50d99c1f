//! New settings for a running node: when its files change, or on SIGHUP.
//!
//! They are loaded as at start and checked first. Good ones are in force at once and together; bad ones change nothing and
//! are said in the log. Connections are never touched, but for subscriptions to which the right was withdrawn.

use std::{path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use skywave_backplane::Presence as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    config::{ConfigError, Files, Loader, Settings},
    metrics,
    relay::Relay,
    session::Ground,
};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Exchanges the settings of a node.
pub struct Exchange {
    ground: Arc<Ground>,
    relay: Relay,
    /// The version in force; one exchange at a time.
    version: Mutex<String>,
}

impl Exchange {
    /// Of the settings in this ground.
    pub fn new(ground: Arc<Ground>, relay: Relay) -> Self {
        let version = ground.settings().version();
        metrics::settings_version(None, &version);
        metrics::connections_limit(ground.settings().limits.connections);
        Self { ground, relay, version: Mutex::new(version) }
    }

    /// Puts these in force, except for what a running node cannot change: that is said in the log and stays. Where the rest
    /// does not go together with what stays, nothing changes.
    ///
    /// Blocks while another exchange is on its way. Every connection looks at its rights again, a slice at a time, after it
    /// has returned.
    pub fn put_in_force(&self, fresh: Settings) -> Outcome {
        let mut version = self.version.lock();
        let running = Arc::clone(&self.ground.settings());
        let (fresh, needs_restart) = fresh.for_running(&running);
        if !needs_restart.is_empty() {
            let settings = needs_restart.join(", ");
            warn!(settings, "changed settings need a restart: this node goes on with those that it was started with");
        }
        let changed = running.differences(&fresh);
        if changed.is_empty() {
            return Outcome::Unchanged;
        }
        // Each is good where it was written, and yet they may not go together.
        let problems = fresh.contradictions();
        for problem in &problems {
            let (key, message) = (&problem.key, &problem.message);
            error!(
                key,
                message,
                "the new settings need a restart: they do not go together with what this node was started with; \
                 those from before stay in force"
            );
        }
        if !problems.is_empty() {
            return Outcome::Refused;
        }
        // What takes a while, or may fail, comes first.
        let hooks = match self.ground.webhooks.prepare(&fresh.webhooks) {
            Ok(hooks) => hooks,
            Err(error) => {
                error!(%error, "webhooks.ca cannot be used, the settings from before stay in force");
                return Outcome::Refused;
            }
        };
        let new: Vec<_> = fresh.namespaces().map(|(name, _)| name).filter(|name| !has(&running, name)).collect();
        new.into_iter().for_each(metrics::describe_namespace);
        for warning in fresh.warnings() {
            warn!("{warning}");
        }
        let fresh = Arc::new(fresh);
        self.ground.replace_settings(fresh.clone());
        self.ground.authority.replace(&fresh.auth.tokens);
        self.ground.webhooks.put_in_force(hooks);
        self.relay.backplane().tell_transitions(self.ground.webhooks.wants_members());
        for shard in &self.ground.shards {
            shard.run(|shard| shard.for_everybody(|owner| owner.refresh()));
        }
        let next = fresh.version();
        metrics::settings_version(Some(&version), &next);
        metrics::connections_limit(fresh.limits.connections);
        info!(version = next, changed = changed.join(", "), "new settings are in force");
        *version = next;
        Outcome::Applied
    }
}

fn has(settings: &Settings, name: &str) -> bool {
    settings.namespaces().any(|(known, _)| known == name)
}

/// What became of a reload; the label `outcome` of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// New settings are in force.
    Applied,
    /// They say what is in force already, or differ only in what needs a restart.
    Unchanged,
    /// They are wrong, and those from before stay.
    Refused,
}

impl Outcome {
    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}

/// Keeps the settings of a node as new as its files.
pub struct Watch {
    loader: Arc<Loader>,
    exchange: Arc<Exchange>,
    looks: Looks,
    hangup: Option<Signal>,
}

/// Whether files are worth loading; pure.
struct Looks {
    /// What was loaded last, whether it was good or not.
    loaded: Files,
    /// What the files held at the last look, if that was something else.
    seen: Option<Files>,
}

impl Looks {
    fn new(loaded: Files) -> Self {
        Self { loaded, seen: None }
    }

    /// Whether what a look has found is new, and was found by the look before too: nobody is writing it just then.
    fn is_settled(&mut self, found: Files) -> bool {
        let is_settled = self.seen.as_ref() == Some(&found);
        self.seen = (found != self.loaded).then_some(found);
        self.seen.is_some() && is_settled
    }
}

impl Watch {
    /// From now on SIGHUP is listened to; the files are looked at by [`Watch::run`]. `loaded` is what the settings in force
    /// were read from.
    pub fn new(loader: Loader, loaded: Files, exchange: Arc<Exchange>) -> Self {
        let hangup = signal(SignalKind::hangup());
        let hangup = hangup.inspect_err(|error| error!(%error, "SIGHUP cannot be listened to")).ok();
        Self { loader: Arc::new(loader), exchange, looks: Looks::new(loaded), hangup }
    }

    /// Looks at the files until `closed`. A change counts once two looks have seen the same, so that a file that somebody is
    /// just writing is not read; SIGHUP counts at once.
    pub async fn run(mut self, closed: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let hung_up = async {
                match &mut self.hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            let wanted = tokio::select! {
                _ = tick.tick() => self.look().await,
                _ = hung_up => self.can_read_again(),
                () = closed.cancelled() => return,
            };
            if wanted {
                self.reload().await;
            }
        }
    }

    async fn look(&mut self) -> bool {
        let loaded = self.looks.loaded.clone();
        let found = tokio::task::spawn_blocking(move || loaded.look()).await;
        found.is_ok_and(|found| self.looks.is_settled(found))
    }

    fn can_read_again(&self) -> bool {
        let pipe: Option<PathBuf> = self.looks.loaded.pipe().map(Into::into);
        if let Some(pipe) = &pipe {
            let file = pipe.display();
            error!(%file, "SIGHUP changes nothing: the settings come from what can be read once only, use a file");
        }
        pipe.is_none()
    }

    async fn reload(&mut self) {
        let (loader, exchange) = (self.loader.clone(), self.exchange.clone());
        let loading = tokio::task::spawn_blocking(move || {
            let (outcome, files) = loader.load_with_files();
            (outcome.map(|settings| exchange.put_in_force(settings)), files)
        });
        let Ok((outcome, files)) = loading.await else { return };
        self.looks = Looks::new(files);
        let outcome = outcome.unwrap_or_else(|error| refuse(&error));
        metrics::reloaded(outcome.as_str());
    }
}

fn refuse(error: &ConfigError) -> Outcome {
    for problem in error.problems() {
        error!(%problem, "the new settings are wrong, those from before stay in force");
    }
    Outcome::Refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    #[test]
    fn a_file_that_is_being_written_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("skywave.toml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("");
        let flags = Flags { config: Some(file.clone()), ..Flags::default() };
        let loader = Loader::new(&flags, [("SKYWAVE__NODE__NAME", "a")]);
        let mut looks = Looks::new(loader.load_with_files().1);
        let look = |looks: &mut Looks| {
            let found = looks.loaded.look();
            looks.is_settled(found)
        };
        assert!(!look(&mut looks), "nothing has changed");
        for half in ["[deb", "[debug]\nec", "[debug]\necho = t", "[debug]\necho = true\n"] {
            write(half);
            assert!(!look(&mut looks), "{half:?} is new, and may not be all");
        }
        assert!(look(&mut looks), "it has stayed the same");
        let mut looks = Looks::new(loader.load_with_files().1);
        assert!(!look(&mut looks) && !look(&mut looks), "it is loaded");
        write("[debug]\n");
        assert!(!look(&mut looks));
        write("[debug]\necho = true\n");
        assert!(!look(&mut looks) && !look(&mut looks), "it is as it was");
        std::fs::remove_file(&file).unwrap();
        assert!(!look(&mut looks) && look(&mut looks), "a file that is gone is worth a word");
    }
}

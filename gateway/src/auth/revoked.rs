//! What has been revoked before its time.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

/// The most entries, users and tokens together: about 20 MB. Only back ends can make them.
pub const MAX_REVOKED: usize = 100_000;
/// So many entries are kept without looking whether some have ended.
const FEW: usize = 1_024;

/// There is no room for another revocation until some have ended. Nothing that was revoked is let in again for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_REVOKED} revocations are in force, and there is no room for more")]
pub struct RevokedFull;

/// What has been revoked: users' tokens up to a time of issue, and single tokens; each until a time at which they will have
/// expired anyway.
///
/// Looked up for each token, in one step; the lock is held for one look. Times are milliseconds since 1970.
#[derive(Debug, Default)]
pub struct Revoked(RwLock<Entries>);

#[derive(Debug, Default)]
struct Entries {
    users: HashMap<Arc<str>, UserEntry, ahash::RandomState>,
    tokens: HashMap<Arc<str>, u64, ahash::RandomState>,
    /// From this many on it is worth looking for those that have ended.
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UserEntry {
    issued_before_ms: u64,
    until_ms: u64,
}

impl Revoked {
    /// Revokes what was issued to a user up to `issued_before_ms`, until `until_ms`. Of two the stricter counts. A token that
    /// does not say when it was issued is revoked too; one that says it in whole seconds counts from the beginning of its second.
    /// Returns whether any token is revoked by it that was not before.
    ///
    /// # Errors
    /// [`RevokedFull`].
    pub fn user(&self, user: &str, issued_before_ms: u64, until_ms: u64, now_ms: u64) -> Result<bool, RevokedFull> {
        let mut entries = self.0.write();
        if let Some(entry) = entries.users.get_mut(user) {
            let known = *entry;
            entry.issued_before_ms = known.issued_before_ms.max(issued_before_ms);
            entry.until_ms = known.until_ms.max(until_ms);
            return Ok(known != *entry);
        }
        entries.make_room(now_ms)?;
        entries.users.insert(user.into(), UserEntry { issued_before_ms, until_ms });
        Ok(true)
    }

    /// Revokes the token with this `jti`, until `until_ms`. Returns whether it was not before, or not for so long.
    ///
    /// # Errors
    /// [`RevokedFull`].
    pub fn token(&self, id: &str, until_ms: u64, now_ms: u64) -> Result<bool, RevokedFull> {
        let mut entries = self.0.write();
        if let Some(until) = entries.tokens.get_mut(id) {
            let known = *until;
            *until = known.max(until_ms);
            return Ok(known != *until);
        }
        entries.make_room(now_ms)?;
        entries.tokens.insert(id.into(), until_ms);
        Ok(true)
    }

    /// Whether a token that says this of itself is revoked at `now_ms`.
    pub fn has(&self, user: Option<&str>, issued_at_ms: Option<u64>, id: Option<&str>, now_ms: u64) -> bool {
        let entries = self.0.read();
        let of_user = user.and_then(|user| entries.users.get(user)).is_some_and(|entry| {
            entry.until_ms > now_ms && issued_at_ms.is_none_or(|issued| issued <= entry.issued_before_ms)
        });
        of_user || id.and_then(|id| entries.tokens.get(id)).is_some_and(|until| *until > now_ms)
    }

    /// How many entries there are, some of which may have ended.
    pub fn len(&self) -> usize {
        self.0.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entries {
    fn len(&self) -> usize {
        self.users.len() + self.tokens.len()
    }

    /// Lets go of what has ended, each time that the entries have doubled: so an insertion costs one step, on the average.
    fn make_room(&mut self, now_ms: u64) -> Result<(), RevokedFull> {
        if self.len() >= self.sweep_at.clamp(FEW, MAX_REVOKED) {
            self.users.retain(|_, entry| entry.until_ms > now_ms);
            self.tokens.retain(|_, until| *until > now_ms);
            self.sweep_at = self.len() * 2;
        }
        if self.len() >= MAX_REVOKED { Err(RevokedFull) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_revoked_up_to_a_time_of_issue_and_until_a_time() {
        let revoked = Revoked::default();
        revoked.user("ada", 5_000, 9_000, 5_000).unwrap();
        let has = |issued, now| revoked.has(Some("ada"), issued, None, now);
        assert!(has(Some(4_000), 6_000) && has(Some(5_000), 6_000) && has(None, 8_999));
        assert!(!has(Some(5_001), 6_000) && !has(Some(4_000), 9_000));
        assert!(!revoked.has(Some("bob"), None, None, 6_000) && !revoked.has(None, None, None, 6_000));
        revoked.user("ada", 3_000, 8_000, 6_000).unwrap();
        assert!(has(Some(5_000), 8_500), "the stricter counts");
        revoked.user("ada", 7_000, 12_000, 7_000).unwrap();
        assert!(has(Some(6_000), 11_000) && revoked.len() == 1);
    }

    #[test]
    fn a_token_is_revoked_by_its_id() {
        let revoked = Revoked::default();
        revoked.token("t1", 9_000, 0).unwrap();
        assert!(revoked.has(Some("ada"), Some(1), Some("t1"), 8_999));
        assert!(!revoked.has(None, None, Some("t1"), 9_000) && !revoked.has(None, None, Some("t2"), 1));
        assert!(!revoked.has(Some("t1"), None, None, 1), "an id is not a user");
    }

    #[test]
    fn it_has_a_bound_and_what_has_ended_makes_room() {
        let revoked = Revoked::default();
        for number in 0..MAX_REVOKED as u64 {
            revoked.token(&number.to_string(), 10 + number, 0).unwrap();
        }
        assert_eq!(revoked.token("one more", 10, 0), Err(RevokedFull));
        assert_eq!(revoked.user("one more", 10, 10, 0), Err(RevokedFull));
        assert_eq!(revoked.token("7", 99, 0), Ok(true), "what is there can be prolonged");
        assert!(revoked.has(None, None, Some("99999"), 5), "nothing was forgotten for it");
        assert_eq!(revoked.token("one more", 90_000, 50_000), Ok(true));
        assert_eq!(revoked.token("one more", 80_000, 50_000), Ok(false));
        assert!(revoked.len() < MAX_REVOKED / 2 + 20, "{}", revoked.len());
    }
}

use std::collections::HashMap;

use super::now_ms;
use crate::{ClusterError, MAX_REVOCATIONS, Memory, Revocation, Revocations, RevokeError, Subject};

/// Which tokens were revoked. Bound: [`MAX_REVOCATIONS`].
#[derive(Default)]
pub(super) struct Revoked(HashMap<Subject, Revocation, ahash::RandomState>);

impl Revoked {
    fn add(&mut self, revocation: Revocation, now_ms: u64) -> Result<(), RevokeError> {
        revocation.subject.check()?;
        if let Some(known) = self.0.get_mut(&revocation.subject) {
            *known = revocation.merged(known);
            return Ok(());
        }
        if self.0.len() >= MAX_REVOCATIONS {
            self.expire(now_ms);
            if self.0.len() >= MAX_REVOCATIONS {
                return Err(RevokeError::Full);
            }
        }
        self.0.insert(revocation.subject.clone(), revocation);
        Ok(())
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        self.0.retain(|_, revocation| revocation.until_ms > now_ms);
    }
}

impl Revocations for Memory {
    async fn revoke(&self, revocation: Revocation) -> Result<(), RevokeError> {
        self.0.revoked.lock().add(revocation, now_ms())
    }

    async fn revocations(&self) -> Result<Vec<Revocation>, ClusterError> {
        let mut revoked = self.0.revoked.lock();
        revoked.expire(now_ms());
        Ok(revoked.0.values().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_full_until_one_is_over() {
        let revoke = |user: usize, until_ms| Revocation {
            subject: Subject::User(user.to_string().into()),
            issued_before_ms: 1,
            until_ms,
        };
        let mut revoked = Revoked::default();
        for user in 0..MAX_REVOCATIONS {
            revoked.add(revoke(user, if user == 7 { 50 } else { 100 }), 10).unwrap();
        }
        revoked.add(revoke(3, 100), 10).unwrap(); // known already
        assert!(matches!(revoked.add(revoke(MAX_REVOCATIONS, 100), 49), Err(RevokeError::Full)));
        revoked.add(revoke(MAX_REVOCATIONS, 100), 50).unwrap();
        assert!(matches!(revoked.add(revoke(7, 100), 50), Err(RevokeError::Full)));
    }
}

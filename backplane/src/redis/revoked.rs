//! Which tokens were revoked: in the registry's partition, so that every node finds them in one place.

use std::sync::Arc;

use redis::{RedisError, RedisResult, Value};

use super::{
    Redis, history,
    keys::{self, CONTROL},
    link::Link,
};
use crate::{
    Cause, ClusterError, HistoryError, MAX_REVOCATIONS, MAX_SUBJECT_BYTES, Revocation, Revocations, RevokeError,
    Subject, Unreadable,
};

/// How many are read at once: Redis does nothing else meanwhile.
const PAGE: usize = 1000;
/// The largest time that Redis' scripts hold exactly, in ms since 1970: some day of the year 287396.
const LAST_MS: u64 = (1 << 53) - 1;

impl Revocations for Redis {
    async fn revoke(&self, revocation: Revocation) -> Result<(), RevokeError> {
        revocation.subject.check()?;
        let link = self.registry_link().ok_or(RevokeError::Unavailable(None))?;
        match self.write_revocation(&link, &revocation).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(RevokeError::Full),
            Err(error) => Err(RevokeError::Unavailable(Some(cause(error)))),
        }
    }

    async fn revocations(&self) -> Result<Vec<Revocation>, ClusterError> {
        let link = self.registry_link().ok_or(ClusterError::Unavailable(None))?;
        self.read_revocations(&link).await.map_err(|error| {
            let HistoryError::Unavailable(cause) = history::unavailable(error);
            ClusterError::Unavailable(cause)
        })
    }
}

impl Redis {
    fn registry_link(&self) -> Option<Arc<Link>> {
        self.0.masters.link_of(keys::partition_of(CONTROL))
    }

    /// False if there are too many.
    async fn write_revocation(&self, link: &Link, revocation: &Revocation) -> RedisResult<bool> {
        let keys = &self.0.keys;
        let mut call = link.scripts().revoke.call(&[&keys.registry("r"), &keys.registry("re")]);
        call.arg(write(&revocation.subject))
            .arg(revocation.issued_before_ms.min(LAST_MS))
            .arg(revocation.until_ms.min(LAST_MS))
            .arg(MAX_REVOCATIONS);
        let mut pipeline = redis::pipe();
        pipeline.add_command(call);
        let answer = link.ask(&pipeline).await?.pop().unwrap_or_default().extract_error()?;
        Ok(redis::from_redis_value(answer)?)
    }

    async fn read_revocations(&self, link: &Link) -> RedisResult<Vec<Revocation>> {
        let key = self.0.keys.registry("r");
        let mut revocations = Vec::<Revocation>::new();
        let mut from = b"-".to_vec();
        loop {
            let mut pipeline = redis::pipe();
            pipeline.cmd("TIME");
            pipeline.cmd("ZRANGEBYLEX").arg(&key).arg(&from).arg("+").arg("LIMIT").arg(0).arg(PAGE);
            let mut answers = link.ask(&pipeline).await?.into_iter().map(Value::extract_error);
            let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
            let (seconds, micros): (u64, u64) = redis::from_redis_value(next()?)?;
            let now_ms = seconds * 1000 + micros / 1000;
            let entries: Vec<Vec<u8>> = redis::from_redis_value(next()?)?;
            let known = |entry: &Vec<u8>| {
                let revocation = read(entry);
                if revocation.is_none() {
                    Unreadable::Revocation.tell(&key, &"not a revocation");
                }
                revocation
            };
            for revocation in entries.iter().filter_map(known) {
                // One that was extended while we turned the page stands behind itself.
                match revocations.last_mut().filter(|last| last.subject == revocation.subject) {
                    Some(last) => *last = revocation.merged(last),
                    None => revocations.push(revocation),
                }
            }
            match entries.last() {
                // Who writes past the bound is not one of ours.
                Some(last) if entries.len() == PAGE && revocations.len() < MAX_REVOCATIONS => {
                    from = [b"(", last.as_slice()].concat();
                }
                _ => {
                    revocations.retain(|revocation| revocation.until_ms > now_ms);
                    return Ok(revocations);
                }
            }
        }
    }
}

fn cause(error: RedisError) -> Cause {
    Arc::new(error)
}

/// As `scripts/revoke.lua` takes it: what it is, how long, and the id.
fn write(subject: &Subject) -> String {
    match subject {
        Subject::User(id) => format!("u{}:{id}", id.len()),
        Subject::Token(id) => format!("t{}:{id}", id.len()),
    }
}

/// An entry of `scripts/revoke.lua`; `None` for what is not one.
fn read(entry: &[u8]) -> Option<Revocation> {
    let entry = std::str::from_utf8(entry).ok()?;
    let (length, rest) = entry.get(1..)?.split_once(':')?;
    let length = length.parse().ok().filter(|length| *length <= MAX_SUBJECT_BYTES)?;
    let (id, rest) = rest.split_at_checked(length)?;
    let subject = match entry.as_bytes()[0] {
        b'u' => Subject::User(id.into()),
        b't' => Subject::Token(id.into()),
        _ => return None,
    };
    let (issued, until) = rest.strip_prefix(' ')?.split_once(' ')?;
    Some(Revocation { subject, issued_before_ms: issued.parse().ok()?, until_ms: until.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for subject in [
            Subject::User("ada".into()),
            Subject::Token("ada".into()),
            Subject::User("3:a 1 2\0\n".into()),
            Subject::User("ü".repeat(MAX_SUBJECT_BYTES / 2).into()),
        ] {
            let entry = format!("{} 17 4711", write(&subject));
            assert_eq!(read(entry.as_bytes()), Some(Revocation { subject, issued_before_ms: 17, until_ms: 4711 }));
        }
        for bad in
            ["", "u", "u3:ad", "u3:ada", "u3:ada 1", "u3:ada 1 x", "x3:ada 1 2", "u2:aü 1 2", "u256:a 1 2", "ü3:a"]
        {
            assert_eq!(read(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(read(b"u1:\xff 1 2"), None);
    }
}

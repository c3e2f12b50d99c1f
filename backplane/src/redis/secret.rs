//! The secret that all nodes share.

use std::time::Duration;

use deadpool_redis::{Pool, PoolError};

use super::Redis;
use crate::Cause;

/// Between two tries while Redis is away.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What Redis says that does not change by itself.
const FINAL: [&str; 4] = ["NOPERM", "WRONGPASS", "WRONGTYPE", "NOAUTH"];

/// Why the secret that all nodes share is not known.
#[derive(Debug, thiserror::Error)]
pub enum SharedSecretError {
    /// Redis refused it, or the backplane was closed meanwhile.
    #[error("redis did not give the secret that all nodes share")]
    Unavailable(#[source] Option<Cause>),
    /// Somebody else has written something there.
    #[error("the secret in redis is not 64 hexadecimal digits: delete the key {key} to have another one made")]
    Malformed {
        /// Where it stands.
        key: String,
    },
}

impl Redis {
    /// The secret that all nodes share: made by the first that asks, at `{prefix}:secret`. Waits until Redis is there.
    ///
    /// # Errors
    /// [`SharedSecretError`]: a person has to look at it.
    /// # Cancel safety
    /// Cancel-safe: whoever asks next gets the same.
    pub async fn shared_secret(&self) -> Result<[u8; 32], SharedSecretError> {
        let key = self.0.keys.secret();
        let fresh: [u8; 32] = rand::random();
        let fresh: String = fresh.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut state = self.0.state.clone();
        loop {
            let Some(link) = self.0.masters.link_of_key(&key) else {
                if self.0.stop.is_cancelled() {
                    return Err(SharedSecretError::Unavailable(None));
                }
                let _ = tokio::time::timeout(RETRY_INTERVAL, state.changed()).await;
                continue;
            };
            match agree(link.occasional(), &key, &fresh).await {
                Ok(secret) => return read(&secret).ok_or(SharedSecretError::Malformed { key }),
                Err(PoolError::Backend(error)) if error.code().is_some_and(|code| FINAL.contains(&code)) => {
                    return Err(SharedSecretError::Unavailable(Some(std::sync::Arc::new(error))));
                }
                // Gone again before it answered.
                Err(_) if !self.0.stop.is_cancelled() => tokio::time::sleep(RETRY_INTERVAL).await,
                Err(_) => return Err(SharedSecretError::Unavailable(None)),
            }
        }
    }
}

async fn agree(pool: &Pool, key: &str, fresh: &str) -> Result<String, PoolError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg(key).arg(fresh).arg("NX").ignore().cmd("GET").arg(key);
    let (secret,) = pipeline.query_async(&mut pool.get().await?).await?;
    Ok(secret)
}

fn read(secret: &str) -> Option<[u8; 32]> {
    if secret.len() != 64 || !secret.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(secret.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_64_digits_and_nothing_else() {
        assert_eq!(read(&"0f".repeat(32)), Some([15; 32]));
        for bad in ["", "0f", &"0g".repeat(32), &"+f".repeat(32), &"é".repeat(32)] {
            assert_eq!(read(bad), None);
        }
    }
}

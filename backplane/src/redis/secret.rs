use redis::Value;

use super::{Redis, link::Link};
use crate::Cause;

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
        let mut links = self.0.link.clone();
        loop {
            let link = links.wait_for(Option::is_some).await.map_err(|_| SharedSecretError::Unavailable(None))?.clone();
            let link = link.expect("waited for");
            match agree(&link, &key, &fresh).await {
                Ok(secret) => return read(&secret).ok_or(SharedSecretError::Malformed { key }),
                // Gone again before it answered: with the next connection.
                Err(_) if link.is_broken() && !self.0.stop.is_cancelled() => {
                    links.changed().await.map_err(|_| SharedSecretError::Unavailable(None))?;
                }
                Err(error) => return Err(SharedSecretError::Unavailable(Some(Box::new(error)))),
            }
        }
    }
}

async fn agree(link: &Link, key: &str, fresh: &str) -> redis::RedisResult<String> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg(key).arg(fresh).arg("NX").cmd("GET").arg(key);
    let answers = link.ask(&pipeline).await?.into_iter().map(Value::extract_error).collect::<Result<Vec<_>, _>>()?;
    Ok(redis::from_redis_value(answers.into_iter().next_back().unwrap_or_default())?)
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

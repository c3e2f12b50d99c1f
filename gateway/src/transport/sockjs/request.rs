//! What the requests of SockJS say beside their path; pure.

use bytes::Bytes;
use http::{HeaderMap, header};

use crate::{
    protocol::sockjs::array,
    transport::credentials::{decoded, parameter},
};

/// The longest name of a function that is called.
const CALLBACK_BYTES: usize = 32;

/// Why a request is answered with 500, in the words of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    /// A callback has to be named.
    #[error("\"callback\" parameter required")]
    NoCallback,
    /// It is no name.
    #[error("invalid \"callback\" parameter")]
    Callback,
    /// There is nothing to send.
    #[error("Payload expected.")]
    Empty,
    /// It is no array of strings.
    #[error("Broken JSON encoding.")]
    Broken,
    /// It says that it is something else.
    #[error("Unsupported content type.")]
    ContentType,
}

/// The function that is called with each frame.
///
/// # Errors
/// If there is none, or it might be more than a name.
pub(super) fn callback(query: Option<&str>) -> Result<String, Wrong> {
    let found = parameter(query, "c").or_else(|| parameter(query, "callback")).unwrap_or_default();
    let name = decoded(found);
    if name.is_empty() {
        return Err(Wrong::NoCallback);
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.len() > CALLBACK_BYTES || !name.bytes().all(is_name) {
        return Err(Wrong::Callback);
    }
    Ok(name)
}

/// The messages in the body of `xhr_send`.
///
/// # Errors
/// If it is none.
pub(super) fn xhr_messages(headers: &HeaderMap, body: &Bytes) -> Result<Vec<Bytes>, Wrong> {
    if matches!(kind(headers).as_str(), "application/x-www-form-urlencoded" | "multipart/form-data") {
        return Err(Wrong::ContentType);
    }
    messages(body)
}

/// The messages in the body of `jsonp_send`.
///
/// # Errors
/// If it is none.
pub(super) fn jsonp_messages(headers: &HeaderMap, body: &Bytes) -> Result<Vec<Bytes>, Wrong> {
    match kind(headers).as_str() {
        "application/x-www-form-urlencoded" => {
            let form = std::str::from_utf8(body).map_err(|_| Wrong::Broken)?;
            let data = parameter(Some(form), "d").ok_or(Wrong::Empty)?.replace('+', " ");
            let data: Vec<u8> = percent_encoding::percent_decode_str(&data).collect();
            messages(&data)
        }
        "multipart/form-data" => Err(Wrong::ContentType),
        _ => messages(body),
    }
}

fn messages(text: &[u8]) -> Result<Vec<Bytes>, Wrong> {
    if text.is_empty() {
        return Err(Wrong::Empty);
    }
    let messages = array(text).map_err(|_| Wrong::Broken)?;
    Ok(messages.into_iter().map(Bytes::from).collect())
}

fn kind(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_a_name_and_nothing_else() {
        assert_eq!(callback(Some("c=cb")), Ok("cb".to_owned()));
        assert_eq!(callback(Some("t=1&callback=_jp.a%2Db_1")), Ok("_jp.a-b_1".to_owned()));
        assert_eq!(callback(Some("c=")), Err(Wrong::NoCallback));
        assert_eq!(callback(None), Err(Wrong::NoCallback));
        for bad in ["%20", "%3Cscript%3E", "a(b", "a;b", "%C3%A9", "a%00", &"x".repeat(33)] {
            assert_eq!(callback(Some(&format!("c={bad}"))), Err(Wrong::Callback), "{bad}");
        }
    }

    fn sent(
        of: fn(&HeaderMap, &Bytes) -> Result<Vec<Bytes>, Wrong>,
        kind: &str,
        body: &str,
    ) -> Result<Vec<Bytes>, Wrong> {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        }
        of(&headers, &Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn what_xhr_sends() {
        for kind in ["", "text/plain", "T", "application/json", "application/xml", "text/xml; charset=utf-8"] {
            assert_eq!(sent(xhr_messages, kind, r#"["a","é"]"#).unwrap(), ["a", "é"], "{kind}");
        }
        assert_eq!(sent(xhr_messages, "text/plain", ""), Err(Wrong::Empty));
        assert_eq!(sent(xhr_messages, "text/plain", "[\"x"), Err(Wrong::Broken));
        assert_eq!(sent(xhr_messages, "text/plain", "\"x\""), Err(Wrong::Broken));
        assert!(sent(xhr_messages, "text/plain", "[]").unwrap().is_empty());
        assert_eq!(sent(xhr_messages, "application/x-www-form-urlencoded", "[\"x\"]"), Err(Wrong::ContentType));
    }

    #[test]
    fn what_a_form_sends() {
        let form = "application/x-www-form-urlencoded; charset=UTF-8";
        assert_eq!(sent(jsonp_messages, form, "d=%5B%22a+b%2B%22%5D").unwrap(), ["a b+"]);
        assert_eq!(sent(jsonp_messages, form, "p=1&d=%5B%5D").unwrap(), [""; 0]);
        for empty in ["", "d=", "p=p"] {
            assert_eq!(sent(jsonp_messages, form, empty), Err(Wrong::Empty), "{empty}");
        }
        assert_eq!(sent(jsonp_messages, form, "d=%5B%22a"), Err(Wrong::Broken));
        assert_eq!(sent(jsonp_messages, "text/plain", "[\"a\"]").unwrap(), ["a"]);
        assert_eq!(sent(jsonp_messages, "", "[\"a\"]").unwrap(), ["a"]);
    }
}

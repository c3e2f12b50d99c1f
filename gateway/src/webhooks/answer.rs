//! What the back end answers, in JSON. The one place where the answers are written down.
//!
//! 200 to 299 with one of these; an empty body is `{}`. Fields that are not named here are passed over, one of a wrong
//! type makes the answer a failure.
//!
//! | hook | answer |
//! |---|---|
//! | all | `{"error": {"code", "message"?, "after_ms"?}}`: refused; the code is one of the table of errors |
//! | `connect` | `user`?, `info`?: object, `subscribe`?, `publish`?: lists of patterns, `channels`?: list, `expires_in_ms`? |
//! | `subscribe` | `{}` |
//! | `publish` | `{}`, or `data` or `data_base64` instead of what the client sent |
//! | `rpc` | `data` or `data_base64`; neither is `null` |

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use skywave_proto::{ChannelName, ErrorCode, Payload};

/// A longer `info` is a failure: it is kept and sent to every member. As for clients.
const INFO_BYTES: usize = 4096;
/// A longer user is a failure, as everywhere.
const USER_BYTES: usize = 255;
/// What a client is told is cut after so many bytes.
const MESSAGE_BYTES: usize = 1024;
/// Patterns, or channels, in one list.
const LIST: usize = 1000;
/// A client is not told to wait longer.
const LONGEST_AFTER_MS: u64 = 60 * 60 * 1000;

/// What was decided. A failure has become one of the two already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<T> {
    /// It may.
    Allow(T),
    /// It may not, and is told so.
    Refuse(HookRefusal),
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookRefusal {
    /// What the back end said; `unavailable` if it said nothing.
    pub code: ErrorCode,
    /// In words, at most 1,024 bytes.
    pub message: String,
    /// How long to wait before the next try in milliseconds; 0: it says nothing about that.
    pub after_ms: u64,
}

/// What the back end said about a client that may connect; what it left out stays as the node has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Welcome {
    /// Whether the back end said anything at all. If not, because it is not asked or has failed and that is a yes, nobody has
    /// vouched for the client: what it may is what the node itself knows, and a token that only the back end could check
    /// is not checked.
    pub answered: bool,
    /// Who it is: 1 to 255 bytes, no control characters.
    pub user: Option<String>,
    /// About it: a JSON object of at most 4,096 bytes.
    pub info: Option<Bytes>,
    /// Patterns of channels that it may subscribe to, at most 1,000, not yet parsed.
    pub subscribe: Vec<String>,
    /// Patterns of channels that it may publish to, at most 1,000, not yet parsed.
    pub publish: Vec<String>,
    /// Channels that it is subscribed to at once, at most 1,000.
    pub channels: Vec<ChannelName>,
    /// How long all of that holds, in milliseconds.
    pub expires_in_ms: Option<u64>,
}

/// What the back end said, refusals apart.
pub(super) trait Answer: Sized {
    /// The fields.
    type Body: DeserializeOwned;
    /// # Errors
    /// What is wrong with it, without repeating it.
    fn from_body(body: Self::Body) -> Result<Self, &'static str>;
}

/// Reads a whole answer.
///
/// # Errors
/// What is wrong with it, without repeating it: an answer may be somebody's data.
pub(super) fn read<A: Answer>(body: &[u8]) -> Result<Decision<A>, &'static str> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body.trim_ascii() };
    // Serde would also take a list of the fields.
    if !body.starts_with(b"{") {
        return Err("not a JSON object");
    }
    let refused: Refused = serde_json::from_slice(body).map_err(|_| "not JSON, or `error` is not as it should be")?;
    if let Some(error) = refused.error {
        let code = ErrorCode::ALL.into_iter().find(|code| code.as_str() == error.code);
        let code = code.ok_or("`error.code` is not one of the table")?;
        let mut message = error.message.unwrap_or_else(|| "the back end refused it".to_owned());
        let end = (0..=MESSAGE_BYTES.min(message.len())).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or_default());
        let after_ms = error.after_ms.unwrap_or_default().min(LONGEST_AFTER_MS);
        return Ok(Decision::Refuse(HookRefusal { code, message, after_ms }));
    }
    let answer = serde_json::from_slice(body).map_err(|_| "a field of a wrong type")?;
    A::from_body(answer).map(Decision::Allow)
}

#[derive(Deserialize)]
struct Refused {
    error: Option<Error>,
}

#[derive(Deserialize)]
struct Error {
    code: String,
    message: Option<String>,
    after_ms: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct WelcomeBody {
    user: Option<String>,
    info: Option<Box<RawValue>>,
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    publish: Vec<String>,
    #[serde(default)]
    channels: Vec<String>,
    expires_in_ms: Option<u64>,
}

impl Answer for Welcome {
    type Body = WelcomeBody;

    fn from_body(body: WelcomeBody) -> Result<Self, &'static str> {
        let is_user = |user: &String| (1..=USER_BYTES).contains(&user.len()) && !user.chars().any(char::is_control);
        if body.user.as_ref().is_some_and(|user| !is_user(user)) {
            return Err("`user` has 1 to 255 bytes, no control characters");
        }
        let info = body.info.map(|info| Payload::json(info.get().to_owned().into()).data().clone());
        if info.as_ref().is_some_and(|info| !info.starts_with(b"{") || info.len() > INFO_BYTES) {
            return Err("`info` is an object of at most 4096 bytes");
        }
        if [&body.subscribe, &body.publish, &body.channels].iter().any(|list| list.len() > LIST) {
            return Err("a list has at most 1000 entries");
        }
        let channels: Result<Vec<_>, _> = body.channels.iter().map(|name| ChannelName::parse(name)).collect();
        let channels = channels.map_err(|_| "one of `channels` is not the name of a channel")?;
        Ok(Self {
            answered: true,
            user: body.user,
            info,
            subscribe: body.subscribe,
            publish: body.publish,
            channels,
            expires_in_ms: body.expires_in_ms,
        })
    }
}

/// `{}`; whatever else stands there is passed over.
#[derive(Deserialize)]
pub(super) struct Nothing {}

impl Answer for () {
    type Body = Nothing;

    fn from_body(Nothing {}: Nothing) -> Result<Self, &'static str> {
        Ok(())
    }
}

#[derive(Deserialize)]
pub(super) struct Data {
    /// Present and `null` is a payload, too.
    #[serde(default, deserialize_with = "present")]
    data: Option<Box<RawValue>>,
    data_base64: Option<String>,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl Answer for Option<Payload> {
    type Body = Data;

    fn from_body(body: Data) -> Result<Self, &'static str> {
        match (body.data, body.data_base64) {
            (Some(_), Some(_)) => Err("`data` and `data_base64` are both there"),
            (Some(data), None) => Ok(Some(Payload::json(String::from(Box::<str>::from(data)).into()))),
            (None, Some(data)) => {
                let data = STANDARD.decode(data).map_err(|_| "`data_base64` is not base64 with padding")?;
                Ok(Some(Payload::binary(data.into())))
            }
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> HookRefusal {
        match read::<()>(body.as_bytes()) {
            Ok(Decision::Refuse(refusal)) => refusal,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn an_empty_answer_allows() {
        for body in ["", " \n", "{}", r#"{"unknown": [1]}"#, r#"{"error": null}"#] {
            assert_eq!(read(body.as_bytes()), Ok(Decision::Allow(())), "{body}");
            let welcome = Welcome { answered: true, ..Welcome::default() };
            assert_eq!(read(body.as_bytes()), Ok(Decision::Allow(welcome)), "{body}");
            assert_eq!(read::<Option<Payload>>(body.as_bytes()), Ok(Decision::Allow(None)), "{body}");
        }
    }

    #[test]
    fn a_refusal_has_a_code_of_the_table() {
        let refusal =
            refused(r#"{"error": {"code": "permission_denied", "message": "no", "after_ms": 5, "x": 1}, "user": 1}"#);
        let code = ErrorCode::PermissionDenied;
        assert_eq!(refusal, HookRefusal { code, message: "no".into(), after_ms: 5 });
        assert_eq!(refused(r#"{"error": {"code": "limit"}}"#).message, "the back end refused it");
        let long =
            format!(r#"{{"error": {{"code": "limit", "message": "{}", "after_ms": 99999999999}}}}"#, "ü".repeat(600));
        assert_eq!(refused(&long).message, "ü".repeat(512));
        assert_eq!(refused(&long).after_ms, 3_600_000);
    }

    #[test]
    fn what_cannot_be_understood_is_no_decision() {
        for body in [
            "yes",
            "[]",
            "[null]",
            "null",
            "true",
            "{",
            r#"{"error": "no"}"#,
            r#"{"error": {}}"#,
            r#"{"error": {"code": "teapot"}}"#,
            r#"{"error": {"code": "limit", "message": 5}}"#,
        ] {
            assert!(read::<()>(body.as_bytes()).is_err(), "{body}");
        }
        for body in [
            r#"{"user": 5}"#,
            r#"{"user": ""}"#,
            r#"{"user": "a\n"}"#,
            r#"{"info": []}"#,
            r#"{"subscribe": "a"}"#,
            r#"{"subscribe": null}"#,
            r#"{"channels": [" a"]}"#,
            r#"{"expires_in_ms": -1}"#,
        ] {
            assert!(read::<Welcome>(body.as_bytes()).is_err(), "{body}");
        }
        for body in [r#"{"data_base64": "?"}"#, r#"{"data_base64": 5}"#, r#"{"data": 1, "data_base64": "/w=="}"#] {
            assert!(read::<Option<Payload>>(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_welcome_says_who_it_is_and_what_it_may() {
        let body = r#"{"user": "u", "info": {"a":
            1}, "subscribe": ["a:*"], "publish": ["b:**"], "channels": ["a:1"], "expires_in_ms": 60000, "x": 0}"#;
        let Ok(Decision::Allow(welcome)) = read::<Welcome>(body.as_bytes()) else { panic!("refused") };
        assert_eq!(welcome.user.as_deref(), Some("u"));
        assert!(!welcome.info.unwrap().contains(&b'\n'), "a frame's line");
        assert_eq!((welcome.subscribe, welcome.publish), (vec!["a:*".to_owned()], vec!["b:**".to_owned()]));
        assert_eq!(welcome.channels, [ChannelName::parse("a:1").unwrap()]);
        assert_eq!(welcome.expires_in_ms, Some(60_000));
    }

    #[test]
    fn a_payload_keeps_its_kind() {
        let payload = |body: &str| match read::<Option<Payload>>(body.as_bytes()) {
            Ok(Decision::Allow(payload)) => payload,
            other => panic!("{body}: {other:?}"),
        };
        assert_eq!(payload(r#"{"data": [1]}"#), Some(Payload::json(Bytes::from_static(b"[1]"))));
        assert_eq!(payload(r#"{"data": null}"#), Some(Payload::json(Bytes::from_static(b"null"))));
        assert_eq!(payload(r#"{"data_base64": "/w=="}"#), Some(Payload::binary(Bytes::from_static(b"\xff"))));
    }
}

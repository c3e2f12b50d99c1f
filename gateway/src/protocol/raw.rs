//! `/raw/{channel}`: each message in is published, each publication out is the payload itself.

use std::borrow::Cow;

use skywave_proto::{CloseCode, ErrorCode, Payload, PayloadKind, StreamPosition};

use super::{Body, Codec, Incoming};
use crate::{
    push::{Encoded, Format, Frame, Goodbye, Push},
    session::{Command, Envelope, Refusal, Reply, Voice},
};

/// Bytes of a close frame's reason.
const REASON_BYTES: usize = 123;

/// See the module. It has no words of its own: what cannot be said by a payload is said by closing.
pub struct Raw;

impl Format for Raw {
    fn slot(&self) -> usize {
        1
    }

    fn encode(&self, push: &Push) -> Encoded {
        match push {
            Push::Publication(_, publication) => {
                let is_text = publication.payload.kind() != PayloadKind::Binary;
                Encoded::Frame(Frame::new(is_text, publication.payload.data().clone(), publication.position))
            }
            Push::Gap(_, _, detail) => Encoded::Close(gap(detail.position)),
            Push::Unsubscribed(_, "api") => Encoded::Close(CloseCode::DisconnectedByApi.into()),
            Push::Unsubscribed(..) => Encoded::Close(CloseCode::PermissionDenied.into()),
            Push::Presence(..) | Push::Roll(..) | Push::Backplane(_) | Push::Disconnect(_) => Encoded::Nothing,
        }
    }
}

/// Something is missing: the client comes back and goes on at `now`.
fn gap(now: Option<StreamPosition>) -> Goodbye {
    Goodbye {
        code: CloseCode::SlowConsumer,
        reason: now.map_or(Cow::Borrowed("gap"), |now| now.to_string().into()),
        after_ms: 0,
    }
}

impl Voice for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn reply(&self, _id: Option<u64>, reply: &Reply) -> Encoded {
        match reply {
            Reply::Subscribed(subscribed) if subscribed.recovered == Some(false) => {
                Encoded::Close(gap(subscribed.position))
            }
            Reply::Error(refusal) => Encoded::Close(refused(refusal)),
            _ => Encoded::Nothing,
        }
    }

    fn carries_publications(&self) -> bool {
        false
    }

    fn names_channels(&self) -> bool {
        false
    }
}

fn refused(refusal: &Refusal) -> Goodbye {
    let code = match refusal.code {
        ErrorCode::Unauthenticated => CloseCode::BadToken,
        ErrorCode::PermissionDenied | ErrorCode::UnknownNamespace => CloseCode::PermissionDenied,
        ErrorCode::TooLarge => CloseCode::MessageTooBig,
        ErrorCode::Limit if refusal.after_ms > 0 => CloseCode::RateLimit, // it passes
        ErrorCode::Limit => CloseCode::LimitExceeded,
        ErrorCode::Unavailable | ErrorCode::UnknownOutcome | ErrorCode::NotReplicated => CloseCode::TryAgainLater,
        _ => CloseCode::InternalError,
    };
    let reason = match code {
        CloseCode::RateLimit => refusal.message.clone().into(),
        _ => Cow::Borrowed(refusal.code.as_str()),
    };
    Goodbye { code, reason, after_ms: refusal.after_ms }
}

/// As much of a text as a close frame holds (RFC 6455 §5.5).
fn shortened(mut text: String) -> String {
    let end = (0..=REASON_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    text.truncate(end);
    text
}

impl Codec for Raw {
    fn decode(&self, message: Incoming<'_>, each: &mut dyn FnMut(Envelope)) {
        let Some(channel) = message.channel else { return };
        let payload = match message.body {
            Body::Text(text) => Payload::text(text.clone()),
            Body::Binary(bytes) => Payload::binary(bytes.clone()),
        };
        each(Envelope { id: None, command: Ok(Command::Publish { channel: channel.clone(), payload, key: None }) });
    }

    /// A node that sends somebody elsewhere says 1012, which generic clients know; and wherever the client may come back, the reason is
    /// the position to come back with. Who is over a limit is told which one behind it: what follows a space is no part of
    /// `since`.
    fn farewell(&self, goodbye: &Goodbye, position: Option<StreamPosition>) -> (CloseCode, Cow<'static, str>) {
        let code = match goodbye.code {
            CloseCode::Draining | CloseCode::Rebalanced | CloseCode::ConnectionTooOld => CloseCode::ServiceRestart,
            code => code,
        };
        let known = goodbye.reason.parse::<StreamPosition>().is_ok();
        match position {
            _ if code == CloseCode::RateLimit => {
                let position = position.map(|position| format!("{position} ")).unwrap_or_default();
                (code, shortened(position + &goodbye.reason).into())
            }
            Some(position) if code.may_reconnect() && !known => (code, position.to_string().into()),
            _ => (code, goodbye.reason.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_passes_does_not_keep_anybody_away() {
        let jam = Refusal::from(skywave_backplane::PublishError::Overloaded);
        assert!(refused(&jam).code.may_reconnect());
        assert!(!refused(&Refusal::new(ErrorCode::Limit, "")).code.may_reconnect());
    }

    #[test]
    fn whoever_may_come_back_is_told_from_where() {
        let at = StreamPosition { epoch: "k3x9k3x9".parse().unwrap(), offset: 7 };
        let farewell = |code: CloseCode| Raw.farewell(&code.into(), Some(at));
        assert_eq!(farewell(CloseCode::Draining), (CloseCode::ServiceRestart, "k3x9k3x9:7".into()));
        assert_eq!(farewell(CloseCode::SlowConsumer), (CloseCode::SlowConsumer, "k3x9k3x9:7".into()));
        assert_eq!(farewell(CloseCode::PermissionDenied), (CloseCode::PermissionDenied, "permission_denied".into()));
        let limited = Refusal { after_ms: 10, ..Refusal::new(ErrorCode::Limit, "limits.x is 5: wait 10 ms") };
        let (code, reason) = Raw.farewell(&refused(&limited), Some(at));
        assert_eq!((code, &*reason), (CloseCode::RateLimit, "k3x9k3x9:7 limits.x is 5: wait 10 ms"));
        let long = Goodbye { reason: "ä".repeat(200).into(), ..refused(&limited) };
        assert_eq!(Raw.farewell(&long, Some(at)).1.len(), 123);
        assert_eq!(Raw.farewell(&refused(&limited), None).1, "limits.x is 5: wait 10 ms");
        let gap = gap(Some(StreamPosition { offset: 9, ..at }));
        assert_eq!(Raw.farewell(&gap, Some(at)).1, "k3x9k3x9:9", "a gap says where live goes on");
    }
}

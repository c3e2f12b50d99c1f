//! `/raw/{channel}`: each message in is published, each publication out is the payload itself.

use std::borrow::Cow;

use skywave_proto::{CloseCode, ErrorCode, Payload, PayloadKind, StreamPosition};

use super::{Body, Codec, Incoming};
use crate::{
    push::{Encoded, Format, Frame, Goodbye, Push},
    session::{Command, Envelope, Refusal, Reply, Voice},
};

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
    Goodbye { code, reason: refusal.code.as_str().into(), after_ms: refusal.after_ms }
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

    /// A node that drains says 1012, which generic clients know; and wherever the client may come back, the reason is
    /// the position to come back with.
    fn farewell(&self, goodbye: &Goodbye, position: Option<StreamPosition>) -> (CloseCode, Cow<'static, str>) {
        let code = if goodbye.code == CloseCode::Draining { CloseCode::ServiceRestart } else { goodbye.code };
        let known = goodbye.reason.parse::<StreamPosition>().is_ok();
        match position {
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
        let gap = gap(Some(StreamPosition { offset: 9, ..at }));
        assert_eq!(Raw.farewell(&gap, Some(at)).1, "k3x9k3x9:9", "a gap says where live goes on");
    }
}

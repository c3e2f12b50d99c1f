//! `/sse`: what is pushed, as events of an `EventSource`, or as lines of JSON.
//!
//! Nothing comes in: its client has said in the address what it wants. A publication is an unnamed event; whatever else there is
//! has a name, which a page that does not listen for it never sees. `id` carries the position; a browser sends it back as
//! `Last-Event-ID`.
//!
//! With one channel ([`OneChannel`]) the data of a publication is its payload, and the events are whole: all who listen share the
//! bytes. With several ([`ManyChannels`]) the data is the push object of the JSON protocol, and an event's `id` names its channel
//! only: [`Positions`] makes it that of all the client's channels, as each event goes out. [`Lines`] is the JSON protocol's
//! pushes, and whatever else that has a position in it.

use std::fmt::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use skywave_backplane::PresenceEvent;
use skywave_proto::{ChannelName, CloseCode, ErrorCode, PayloadKind, Publication, StreamPosition};

use super::{Codec, Incoming, Json};
use crate::{
    push::{Encoded, Format, Frame, GapDetail, GapReason, Goodbye, Push},
    session::{Connected, Envelope, Refusal, Reply, Subscribed, Voice},
};

/// What a channel's name is written with in an id: `=` and `,` have a meaning there.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':').remove(b'#');

/// Events of one channel.
pub struct OneChannel;

/// Events of several channels. What its frames hold goes through [`Positions`].
pub struct ManyChannels;

/// The same as lines of JSON.
pub struct Lines;

impl Format for OneChannel {
    fn slot(&self) -> usize {
        3
    }

    fn encode(&self, push: &Push) -> Encoded {
        match push {
            // It is what the client came for.
            Push::Unsubscribed(_, "api") => Encoded::Close(CloseCode::DisconnectedByApi.into()),
            Push::Unsubscribed(..) => Encoded::Close(CloseCode::PermissionDenied.into()),
            push => whole(push, true),
        }
    }
}

impl Format for ManyChannels {
    fn slot(&self) -> usize {
        4
    }

    fn encode(&self, push: &Push) -> Encoded {
        whole(push, false)
    }
}

impl Format for Lines {
    fn slot(&self) -> usize {
        Json.slot()
    }

    fn encode(&self, push: &Push) -> Encoded {
        Json.encode(push)
    }
}

/// One push as one event.
fn whole(push: &Push, is_one: bool) -> Encoded {
    let mut out = String::new();
    let position = match push {
        Push::Publication(channel, publication) => {
            write_publication(&mut out, channel, publication, is_one);
            publication.position
        }
        push => {
            write_named(&mut out, push, is_one);
            None
        }
    };
    if out.is_empty() { Encoded::Nothing } else { Encoded::Frame(Frame::new(true, out.into(), position)) }
}

/// An unnamed event.
fn write_publication(out: &mut String, channel: &ChannelName, publication: &Publication, is_one: bool) {
    write_id(out, channel, publication.position, is_one);
    let payload = &publication.payload;
    match std::str::from_utf8(payload.data()) {
        Ok(text) if is_one && payload.kind() != PayloadKind::Binary => write_data(out, text),
        _ => write_data(out, &object(&Push::Publication(channel.clone(), publication.clone()))),
    }
    out.push('\n');
}

/// An event with a name; nothing for what has none.
fn write_named(out: &mut String, push: &Push, is_one: bool) {
    let (name, place) = match push {
        Push::Publication(..) => return,
        Push::Presence(_, PresenceEvent::Join(_)) => ("join", None),
        Push::Presence(_, PresenceEvent::Leave(_)) => ("leave", None),
        Push::Roll(..) => ("members", None),
        // What is missing is not missed again.
        Push::Gap(channel, _, detail) => ("gap", Some((channel, detail.position))),
        Push::Unsubscribed(..) => ("unsubscribed", None),
        Push::Backplane(_) => ("backplane", None),
        Push::Disconnect(goodbye) => {
            if goodbye.after_ms > 0 {
                let _ = writeln!(out, "retry: {}", goodbye.after_ms); // a string takes everything
            }
            ("disconnect", None)
        }
    };
    if let Some((channel, position)) = place {
        write_id(out, channel, position, is_one);
    }
    let _ = writeln!(out, "event: {name}"); // a string takes everything
    let object = object(push);
    // The name stands in the event.
    let inner = object.split_once(':').and_then(|(_, rest)| rest.strip_suffix('}')).unwrap_or(&object);
    write_data(out, inner);
    out.push('\n');
}

/// The push object of the JSON protocol.
fn object(push: &Push) -> String {
    match Json.encode(push) {
        Encoded::Frame(frame) => String::from_utf8_lossy(frame.payload()).into_owned(),
        Encoded::Nothing | Encoded::Close(_) => String::new(),
    }
}

/// Where the client stands from this event on. With several channels: on this one.
fn write_id(out: &mut String, channel: &ChannelName, position: Option<StreamPosition>, is_one: bool) {
    let Some(position) = position else { return };
    let _ = if is_one { writeln!(out, "id: {position}") } else { writeln!(out, "id: {}={position}", encoded(channel)) };
}

/// A line of the event for each of the text, however it ends: no reader could tell them apart.
fn write_data(out: &mut String, text: &str) {
    let mut rest = text;
    loop {
        let end = rest.find(['\n', '\r']).unwrap_or(rest.len());
        out.push_str("data: ");
        out.push_str(&rest[..end]);
        out.push('\n');
        if end == rest.len() {
            return;
        }
        rest = rest[end..].strip_prefix("\r\n").unwrap_or(&rest[end + 1..]);
    }
}

/// What stands first in the stream: where the client is, what it has missed, and who is there.
fn write_connected(out: &mut String, subscribed: &[&Subscribed], is_one: bool) {
    for subscribed in subscribed {
        let Subscribed { channel, position, recovered, publications, members } = subscribed;
        if *recovered == Some(false) {
            let detail = GapDetail { missed: None, position: *position };
            write_named(out, &Push::Gap(channel.clone(), GapReason::Reset, detail), is_one);
        }
        for publication in publications {
            write_publication(out, channel, publication, is_one);
        }
        // Without data it is no event, and where the client is all the same.
        if publications.is_empty() && position.is_some() && *recovered != Some(false) {
            write_id(out, channel, *position, is_one);
            out.push('\n');
        }
        if let Some(page) = members {
            write_named(out, &Push::Roll(channel.clone(), None, page.clone()), is_one);
        }
    }
}

fn events(reply: &Reply, is_one: bool) -> Encoded {
    said(reply, |subscribed| {
        let mut out = String::new();
        write_connected(&mut out, subscribed, is_one);
        out
    })
}

/// What an answer is to a client that asked for streams and nothing else: all of them, or none.
fn said(reply: &Reply, connected: impl FnOnce(&[&Subscribed]) -> String) -> Encoded {
    match reply {
        Reply::Connected(Connected { subscribed, .. }) => {
            let all: Result<Vec<_>, _> = subscribed.iter().map(Result::as_ref).collect();
            match all {
                Ok(all) => Encoded::Frame(Frame::text(connected(&all))),
                Err((channel, refusal)) => {
                    let message = format!("{channel}: {}", refusal.message);
                    Encoded::Close(refused(&Refusal { message, ..refusal.clone() }))
                }
            }
        }
        Reply::Error(refusal) => Encoded::Close(refused(refusal)),
        _ => Encoded::Nothing,
    }
}

/// A refusal as the end of the connection: the transport makes an answer of it ([`refusal_of`]).
fn refused(refusal: &Refusal) -> Goodbye {
    let code = match refusal.code {
        ErrorCode::Unauthenticated => CloseCode::BadToken,
        code if code.retry() => CloseCode::TryAgainLater,
        _ => CloseCode::PermissionDenied,
    };
    Goodbye { code, reason: format!("{}: {}", refusal.code, refusal.message).into(), after_ms: refusal.after_ms }
}

/// The refusal that a connection of these formats has ended with, if it was one.
pub fn refusal_of(goodbye: &Goodbye) -> Option<Refusal> {
    let (code, message) = goodbye.reason.split_once(": ")?;
    let code = ErrorCode::ALL.into_iter().find(|known| known.as_str() == code)?;
    Some(Refusal { after_ms: goodbye.after_ms, ..Refusal::new(code, message) })
}

impl Voice for OneChannel {
    fn name(&self) -> &'static str {
        "events"
    }

    fn reply(&self, _: Option<u64>, reply: &Reply) -> Encoded {
        events(reply, true)
    }

    fn names_channels(&self) -> bool {
        false
    }
}

impl Voice for ManyChannels {
    fn name(&self) -> &'static str {
        "events_many"
    }

    fn reply(&self, _: Option<u64>, reply: &Reply) -> Encoded {
        events(reply, false)
    }

    fn names_channels(&self) -> bool {
        false
    }
}

impl Voice for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn reply(&self, _: Option<u64>, reply: &Reply) -> Encoded {
        let Reply::Connected(Connected { subscribed, .. }) = reply else { return said(reply, |_| String::new()) };
        said(reply, |_| {
            let lines = subscribed.iter().flatten().map(|subscribed| {
                let subscribed = Subscribed {
                    channel: subscribed.channel.clone(),
                    publications: subscribed.publications.clone(),
                    members: subscribed.members.clone(),
                    ..*subscribed
                };
                match Json.reply(None, &Reply::Subscribed(subscribed)) {
                    Encoded::Frame(frame) => String::from_utf8_lossy(frame.payload()).into_owned(),
                    Encoded::Nothing | Encoded::Close(_) => String::new(),
                }
            });
            lines.collect::<Vec<_>>().join("\n")
        })
    }

    fn names_channels(&self) -> bool {
        false
    }
}

/// Nobody says anything on these streams.
macro_rules! says_nothing {
    ($($codec:ty),*) => {
        $(impl Codec for $codec {
            fn decode(&self, _: Incoming<'_>, _: &mut dyn FnMut(Envelope)) {}
        })*
    };
}

says_nothing!(OneChannel, ManyChannels, Lines);

/// A channel's name as it stands in an id.
pub fn encoded(channel: &ChannelName) -> String {
    utf8_percent_encode(channel.as_str(), NAME).to_string()
}

/// Where one client stands on its channels: what the `id` of its events says.
///
/// Bound: the channels that it has asked for.
#[derive(Debug)]
pub struct Positions {
    /// Names as they stand in the id.
    all: Vec<(Box<str>, Option<Box<str>>)>,
    line: Bytes,
}

impl Positions {
    /// Of these channels, as far as it is known where the client stands.
    pub fn new<'a>(channels: impl IntoIterator<Item = (&'a ChannelName, Option<StreamPosition>)>) -> Self {
        let all = channels
            .into_iter()
            .map(|(channel, position)| (encoded(channel).into(), position.map(|position| position.to_string().into())));
        let mut positions = Self { all: all.collect(), line: Bytes::new() };
        positions.write();
        positions
    }

    fn write(&mut self) {
        let mut line = BytesMut::new();
        for (channel, position) in &self.all {
            let Some(position) = position else { continue };
            line.put_slice(if line.is_empty() { b"id: " } else { b"," });
            line.put_slice(channel.as_bytes());
            line.put_u8(b'=');
            line.put_slice(position.as_bytes());
        }
        if !line.is_empty() {
            line.put_u8(b'\n');
        }
        self.line = line.freeze();
    }

    /// One of them has gone on.
    fn go_on(&mut self, said: &str) {
        let Some((channel, position)) = said.split_once('=') else { return };
        if let Some((_, known)) = self.all.iter_mut().find(|(known, _)| **known == *channel) {
            *known = Some(position.into());
            self.write();
        }
    }

    /// The events of a frame of [`ManyChannels`], each with an id that says where the client stands on all of them.
    pub fn complete(&mut self, events: &Bytes) -> Bytes {
        let mut out = BytesMut::with_capacity(events.len() + self.line.len());
        let mut rest = std::str::from_utf8(events).unwrap_or_default();
        while !rest.is_empty() {
            let end = rest.find("\n\n").map_or(rest.len(), |end| end + 2);
            let (event, behind) = rest.split_at(end);
            rest = behind;
            let own = event.strip_prefix("id: ").and_then(|event| event.split_once('\n'));
            match own {
                Some((said, event)) => {
                    self.go_on(said);
                    out.put_slice(&self.line);
                    out.put_slice(event.as_bytes());
                }
                None => out.put_slice(event.as_bytes()),
            }
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use skywave_proto::Payload;

    use super::*;

    fn at(offset: u64) -> Option<StreamPosition> {
        Some(StreamPosition { epoch: "k3x9k3x9".parse().unwrap(), offset })
    }

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn publication(name: &str, offset: u64, payload: Payload) -> Push {
        let publication = Publication { position: at(offset), payload, client: None, user: None, published_at_ms: 1 };
        Push::Publication(channel(name), publication)
    }

    fn text(encoded: Encoded) -> String {
        let Encoded::Frame(frame) = encoded else { panic!("{encoded:?}") };
        String::from_utf8(frame.payload().to_vec()).unwrap()
    }

    #[test]
    fn a_publication_of_one_channel_is_its_payload() {
        let event = |payload| text(OneChannel.encode(&publication("a", 7, payload)));
        assert_eq!(event(Payload::json("{\"x\":1}".into())), "id: k3x9k3x9:7\ndata: {\"x\":1}\n\n");
        assert_eq!(event(Payload::json("\"x\"".into())), "id: k3x9k3x9:7\ndata: \"x\"\n\n");
        assert_eq!(
            event(Payload::text("a\nb\r\nc\rd\n".into())),
            "id: k3x9k3x9:7\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"
        );
        assert_eq!(event(Payload::text("".into())), "id: k3x9k3x9:7\ndata: \n\n");
        let binary = event(Payload::binary(vec![0, 255].into()));
        assert!(binary.starts_with("id: k3x9k3x9:7\ndata: {\"publication\":{\"channel\":\"a\""), "{binary}");
        assert!(binary.contains("\"data_base64\":\"AP8=\""), "{binary}");
    }

    #[test]
    fn all_else_has_a_name_and_a_gap_says_where_it_ends() {
        let detail = GapDetail { missed: Some(3), position: at(9) };
        let gap = text(OneChannel.encode(&Push::Gap(channel("a"), GapReason::SlowConsumer, detail)));
        let (head, data) = gap.split_once("data: ").unwrap();
        assert_eq!(head, "id: k3x9k3x9:9\nevent: gap\n");
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!((&data["reason"], &data["missed"]), (&"slow_consumer".into(), &3.into()));
        let goodbye = Goodbye { after_ms: 350, ..CloseCode::Draining.into() };
        let gone = text(OneChannel.encode(&Push::Disconnect(goodbye)));
        assert!(gone.starts_with("retry: 350\nevent: disconnect\ndata: {\"code\":4001,"), "{gone}");
    }

    #[test]
    fn an_id_says_where_the_client_stands_on_all_channels() {
        let (a, b, c) = (channel("a"), channel("b=,"), channel("c"));
        let mut positions = Positions::new([(&a, at(1)), (&b, None), (&c, at(3))]);
        let frame = |push: &Push| {
            let Encoded::Frame(frame) = ManyChannels.encode(push) else { panic!("{push:?}") };
            frame.payload().clone()
        };
        let event = positions.complete(&frame(&publication("b=,", 2, Payload::json("1".into()))));
        let event = str::from_utf8(&event).unwrap();
        assert!(
            event.starts_with("id: a=k3x9k3x9:1,b%3D%2C=k3x9k3x9:2,c=k3x9k3x9:3\ndata: {\"publication\""),
            "{event}"
        );
        assert!(event.ends_with("}}\n\n"), "{event}");
        let event = positions.complete(&frame(&Push::Backplane(true)));
        assert_eq!(event, "event: backplane\ndata: {\"state\":\"ok\"}\n\n");
    }

    #[test]
    fn one_refused_channel_is_a_refusal_with_all_its_words() {
        let refusal = Refusal::new(ErrorCode::UnknownNamespace, "namespace \"x\": none");
        let connected = Connected {
            client: "c".into(),
            session: String::new(),
            node: "n".into(),
            ping_interval_ms: 1,
            expires_in_ms: None,
            subscribed: vec![Err(("x:1".into(), refusal))],
        };
        let Encoded::Close(goodbye) = Lines.reply(Some(0), &Reply::Connected(connected)) else { panic!() };
        let refusal = refusal_of(&goodbye).unwrap();
        assert_eq!((refusal.code, &*refusal.message), (ErrorCode::UnknownNamespace, "x:1: namespace \"x\": none"));
        assert!(refusal_of(&CloseCode::Draining.into()).is_none());
    }
}

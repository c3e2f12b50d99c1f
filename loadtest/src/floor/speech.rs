//! What clients say to a floor and hear from it: as much of `skywave.v1.json` as lets a generator in. Pure.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// Channels whose name begins so have no positions: the benchmark's node has a live-only namespace of this name.
const LIVE: &str = "\"live:";
/// In each publication, as long as a node's id of a client is.
const CLIENT: &str = "00000000000000000000000000";

/// A command, as far as a floor understands it.
#[derive(Debug, Deserialize)]
pub(super) struct Command<'a> {
    /// Without it no answer is wanted.
    pub(super) id: Option<u64>,
    connect: Option<IgnoredAny>,
    #[serde(borrow)]
    pub(super) subscribe: Option<Subscribe<'a>>,
    #[serde(borrow)]
    pub(super) publish: Option<Publish<'a>>,
}

/// The name of a channel stays JSON: it is compared and written back.
#[derive(Debug, Deserialize)]
pub(super) struct Subscribe<'a> {
    #[serde(borrow)]
    channel: &'a RawValue,
}

/// Nothing in it is looked into.
#[derive(Debug, Deserialize)]
pub(super) struct Publish<'a> {
    #[serde(borrow)]
    channel: &'a RawValue,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Subscribe<'_> {
    pub(super) fn channel(&self) -> &str {
        self.channel.get()
    }
}

impl Publish<'_> {
    pub(super) fn channel(&self) -> &str {
        self.channel.get()
    }

    /// The push to the channel's subscribers, byte for byte as long as a node's.
    pub(super) fn push(&self, offset: u64) -> String {
        let (channel, data) = (self.channel.get(), self.data.get());
        let position =
            if is_live(channel) { String::new() } else { format!(r#""offset":{offset},"epoch":"floor0_0","#) };
        format!(r#"{{"publication":{{"channel":{channel},{position}"data":{data},"client":"{CLIENT}"}}}}"#)
    }
}

/// The commands in a frame, which stand on lines of their own. What is none is left out.
pub(super) fn commands(frame: &[u8]) -> impl Iterator<Item = Command<'_>> {
    frame.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// The answer to a command that has an id; `offset` is the last one given on its channel.
pub(super) fn answer(command: &Command<'_>, offset: u64) -> Option<String> {
    let id = command.id?;
    let position = |channel: &str| {
        if is_live(channel) { String::new() } else { format!(r#""position":{{"epoch":"floor0_0","offset":{offset}}}"#) }
    };
    Some(match command {
        Command { connect: Some(_), .. } => format!(r#"{{"id":{id},"connected":{{"client":"{CLIENT}"}}}}"#),
        Command { subscribe: Some(subscribe), .. } => {
            let channel = subscribe.channel();
            let comma = if is_live(channel) { "" } else { "," };
            format!(r#"{{"id":{id},"subscribed":{{"channel":{channel}{comma}{}}}}}"#, position(channel))
        }
        Command { publish: Some(publish), .. } => {
            let channel = publish.channel();
            let comma = if is_live(channel) { "" } else { "," };
            format!(r#"{{"id":{id},"published":{{{}{comma}"duplicate":false}}}}"#, position(channel))
        }
        _ => format!(r#"{{"id":{id},"pong":{{}}}}"#),
    })
}

fn is_live(channel: &str) -> bool {
    channel.starts_with(LIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(frame: &str) -> Vec<Option<String>> {
        commands(frame.as_bytes()).map(|command| answer(&command, 7)).collect()
    }

    #[test]
    fn every_command_with_an_id_is_answered_as_a_node_would() {
        let frame = [
            r#"{"id":1,"connect":{}}"#,
            r#"{"id":2,"subscribe":{"channel":"a"}}"#,
            r#"{"publish":{"channel":"a","data":1}}"#,
        ];
        let said_to_all = said(&frame.join("\n"));
        let [Some(connected), Some(subscribed), None] = &said_to_all[..] else { panic!("{said_to_all:?}") };
        assert_eq!(connected, r#"{"id":1,"connected":{"client":"00000000000000000000000000"}}"#);
        assert_eq!(subscribed, r#"{"id":2,"subscribed":{"channel":"a","position":{"epoch":"floor0_0","offset":7}}}"#);
        let live = said(r#"{"id":3,"subscribe":{"channel":"live:a"}}"#);
        assert_eq!(live, [Some(r#"{"id":3,"subscribed":{"channel":"live:a"}}"#.to_owned())]);
        for (channel, published) in [
            ("live:a", r#"{"id":4,"published":{"duplicate":false}}"#),
            ("a", r#"{"id":4,"published":{"position":{"epoch":"floor0_0","offset":7},"duplicate":false}}"#),
        ] {
            let frame = format!(r#"{{"id":4,"publish":{{"channel":"{channel}","data":1}}}}"#);
            assert_eq!(said(&frame), [Some(published.to_owned())]);
        }
    }

    #[test]
    fn a_push_has_a_position_unless_its_channel_is_live() {
        for (channel, has) in [("a", true), ("live:a", false)] {
            let frame = format!(r#"{{"publish":{{"channel":"{channel}","data":{{"x": 1}}}}}}"#);
            let command = commands(frame.as_bytes()).next().unwrap();
            let push = command.publish.unwrap().push(8);
            let value: serde_json::Value = serde_json::from_str(&push).unwrap();
            assert_eq!(value["publication"]["data"]["x"], 1);
            assert_eq!(value["publication"]["offset"] == 8, has, "{push}");
        }
    }
}

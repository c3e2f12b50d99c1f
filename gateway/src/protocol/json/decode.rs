//! Text -> commands. A message holds one JSON object a line; each is one command.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;
use skywave_proto::Payload;

use super::plain::Publish;
use crate::{
    protocol::{
        COMMANDS_PER_MESSAGE, SUBSCRIPTIONS_PER_MESSAGE,
        parts::{self, bad_request},
    },
    session::{Command, Connect, Credential, Envelope, Refusal, Since, Subscribe},
};

/// A line up to this long, in bytes, cannot hold so many subscriptions that they matter.
const SHORT: usize = 16 * 1024;

/// Hands over the commands of one message in order: at most [`COMMANDS_PER_MESSAGE`].
pub(super) fn commands(text: &Bytes, each: &mut dyn FnMut(Envelope)) {
    if !text.contains(&b'\n')
        && let Some(publish) = Publish::find(text)
    {
        return each(publish.parse(text));
    }
    lines(text, each, |text_line, room| match Publish::find(text_line) {
        Some(publish) => Ok(publish.parse(text)),
        None => line(text_line, room),
    });
}

/// Hands over what `line` makes of each line, as long as it has room for subscriptions.
fn lines(text: &Bytes, each: &mut dyn FnMut(Envelope), line: impl Fn(&[u8], &mut usize) -> Result<Envelope, Envelope>) {
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).peekable();
    let Some(first) = lines.next() else {
        return each(Envelope { id: None, command: Err(parts::empty_message()) });
    };
    // Most messages are one line. A single command written over several lines is as good.
    let mut room = SUBSCRIPTIONS_PER_MESSAGE;
    let mut command = line(first, &mut room);
    if command.is_err()
        && lines.peek().is_some()
        && let Ok(command) = line(text, &mut room)
    {
        return each(command);
    }
    for _ in 0..COMMANDS_PER_MESSAGE {
        each(command.unwrap_or_else(|refused| refused));
        let Some(next) = lines.next() else { return };
        command = line(next, &mut room);
    }
    each(Envelope { id: None, command: Err(parts::too_many_commands()) });
}

/// One command. What is none comes back under its id, if that much can be read.
fn line(text: &[u8], room: &mut usize) -> Result<Envelope, Envelope> {
    #[derive(Deserialize)]
    struct Id {
        id: Option<u64>,
    }
    #[derive(Deserialize)]
    struct Outline {
        id: Option<u64>,
        connect: Option<Subscriptions>,
    }
    #[derive(Deserialize)]
    struct Subscriptions {
        #[serde(default)]
        subscribe: Vec<IgnoredAny>, // takes no memory
    }
    // A derived struct would take an array for an object.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(Envelope { id: None, command: Err(bad_request("not a command: a command is a JSON object")) });
    }
    if text.len() > SHORT
        && let Ok(Outline { id, connect: Some(connect) }) = serde_json::from_slice(text)
        && connect.subscribe.len() > *room
    {
        return Ok(Envelope { id, command: Err(parts::too_many_subscriptions()) });
    }
    let mut envelope = serde_json::from_slice::<Line<'_>>(text).map(Line::parse).map_err(|error| {
        let id = serde_json::from_slice::<Id>(text).ok().and_then(|line| line.id);
        Envelope { id, command: Err(bad_request(format!("not a command: {error}"))) }
    })?;
    if let Ok(Command::Connect(connect)) = &envelope.command {
        match room.checked_sub(connect.subscribe.len()) {
            Some(left) => *room = left,
            None => envelope.command = Err(parts::too_many_subscriptions()),
        }
    }
    Ok(envelope)
}

#[derive(Deserialize)]
struct Line<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    connect: Option<ConnectWords<'a>>,
    #[serde(borrow)]
    subscribe: Option<SubscribeWords<'a>>,
    #[serde(borrow)]
    unsubscribe: Option<ChannelWords<'a>>,
    #[serde(borrow)]
    publish: Option<PublishWords<'a>>,
    #[serde(borrow)]
    presence: Option<PresenceWords<'a>>,
    #[serde(borrow)]
    history: Option<HistoryWords<'a>>,
    refresh: Option<RefreshWords>,
    #[serde(borrow)]
    rpc: Option<RpcWords<'a>>,
    ping: Option<PingWords>,
}

#[derive(Deserialize)]
struct ConnectWords<'a> {
    token: Option<String>,
    session: Option<String>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    #[serde(borrow, default)]
    subscribe: Vec<SubscribeWords<'a>>,
}

#[derive(Deserialize)]
struct SubscribeWords<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    since: Option<SinceWords>,
    #[serde(default)]
    presence: bool,
    #[serde(default = "yes")]
    echo: bool,
    token: Option<String>,
}

fn yes() -> bool {
    true
}

/// A value that is there, `null` too: that is JSON as well.
///
/// # Errors
/// As the deserializer's.
pub fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct SinceWords {
    epoch: String,
    offset: u64,
}

#[derive(Deserialize)]
struct ChannelWords<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
}

#[derive(Deserialize)]
struct PublishWords<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    key: Option<String>,
}

#[derive(Deserialize)]
struct PresenceWords<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    after: Option<String>,
}

#[derive(Deserialize)]
struct HistoryWords<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    since: Option<SinceWords>,
    limit: Option<u32>,
}

#[derive(Deserialize)]
struct RefreshWords {
    token: String,
}

#[derive(Deserialize)]
struct RpcWords<'a> {
    method: String,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

#[derive(Deserialize)]
struct PingWords {}

impl Line<'_> {
    fn parse(self) -> Envelope {
        let id = self.id;
        Envelope { id, command: self.command() }
    }

    fn command(self) -> Result<Command, Refusal> {
        let mut found = [
            self.connect.map(ConnectWords::parse),
            self.subscribe.map(|words| words.parse().map(Command::Subscribe).map_err(|(_, refusal)| refusal)),
            self.unsubscribe.map(|words| Ok(Command::Unsubscribe(parts::channel(&words.channel)?))),
            self.publish.map(PublishWords::parse),
            self.presence.map(PresenceWords::parse),
            self.history.map(HistoryWords::parse),
            self.refresh.map(|words| Ok(Command::Refresh(Credential::new(words.token)))),
            self.rpc.map(RpcWords::parse),
            self.ping.map(|PingWords {}| Ok(Command::Ping)),
        ]
        .into_iter()
        .flatten();
        match (found.next(), found.next()) {
            (Some(command), None) => command,
            (Some(_), Some(_)) => Err(bad_request("one object holds one command; send two, a line each")),
            (None, _) => Err(parts::unknown_command()),
        }
    }
}

impl ConnectWords<'_> {
    fn parse(self) -> Result<Command, Refusal> {
        Ok(Command::Connect(Connect {
            token: self.token.map(Credential::new),
            session: self.session,
            info: self.info.map(parts::info).transpose()?,
            subscribe: self.subscribe.into_iter().map(SubscribeWords::parse).collect(),
        }))
    }
}

impl SubscribeWords<'_> {
    fn parse(self) -> Result<Subscribe, (String, Refusal)> {
        let since = self.since.map(SinceWords::parse);
        parts::subscribe(&self.channel, since, self.presence, self.echo, self.token)
    }
}

impl SinceWords {
    fn parse(self) -> Since {
        parts::since(&self.epoch, self.offset)
    }
}

impl PublishWords<'_> {
    fn parse(self) -> Result<Command, Refusal> {
        let payload = payload(self.data, self.data_base64.as_deref()).map_err(bad_request);
        parts::publish(&self.channel, payload, self.key)
    }
}

impl RpcWords<'_> {
    fn parse(self) -> Result<Command, Refusal> {
        let data = match (self.data, &self.data_base64) {
            (None, None) => None,
            (data, base64) => Some(payload(data, base64.as_deref()).map_err(bad_request)?),
        };
        parts::rpc(self.method, data)
    }
}

impl PresenceWords<'_> {
    fn parse(self) -> Result<Command, Refusal> {
        Ok(Command::Presence { channel: parts::channel(&self.channel)?, after: self.after })
    }
}

impl HistoryWords<'_> {
    fn parse(self) -> Result<Command, Refusal> {
        let since = self.since.map(SinceWords::parse);
        Ok(Command::History { channel: parts::channel(&self.channel)?, since, limit: self.limit })
    }
}

/// A publication as a body of its own: what stands in `publish`.
///
/// # Errors
/// `bad_request`, with what is wrong with it.
pub fn publication(body: &[u8]) -> Result<Command, Refusal> {
    // A derived struct would take an array for an object.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(bad_request("the body is a JSON object with channel and data"));
    }
    let words: PublishWords<'_> =
        serde_json::from_slice(body).map_err(|error| bad_request(format!("not a publication: {error}")))?;
    words.parse()
}

/// A payload from `data`, any JSON value, or `data_base64`, any bytes.
///
/// # Errors
/// Says which of the two is missing, doubled or no base64.
pub fn payload(data: Option<&RawValue>, base64: Option<&str>) -> Result<Payload, &'static str> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    match (data, base64) {
        (Some(data), None) => Ok(Payload::json(Bytes::copy_from_slice(data.get().as_bytes()))),
        (None, Some(base64)) => {
            let bytes = STANDARD.decode(base64).map_err(|_| "data_base64 is not base64")?;
            Ok(Payload::binary(bytes.into()))
        }
        (None, None) => Err("a publication has data, any JSON value, or data_base64"),
        (Some(_), Some(_)) => Err("a publication has data or data_base64, not both"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, strategy::ValueTree as _};
    use skywave_proto::ErrorCode;

    use super::*;

    fn decode(text: &str) -> Vec<Envelope> {
        let mut all = Vec::new();
        commands(&Bytes::copy_from_slice(text.as_bytes()), &mut |envelope| all.push(envelope));
        all
    }

    fn refusal(text: &str) -> (Option<u64>, Refusal) {
        let mut all = decode(text);
        assert_eq!(all.len(), 1, "{text}");
        let envelope = all.remove(0);
        (envelope.id, envelope.command.expect_err(text))
    }

    #[test]
    fn several_commands_stand_in_one_message_a_line_each() {
        let all = decode("{\"id\":1,\"ping\":{}}\n\n{\"unsubscribe\":{\"channel\":\"a\"}}\n");
        assert!(matches!(all[0], Envelope { id: Some(1), command: Ok(Command::Ping) }));
        assert!(matches!(&all[1], Envelope { id: None, command: Ok(Command::Unsubscribe(c)) } if c.as_str() == "a"));
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn a_message_of_nothing_but_lines_becomes_no_more_than_so_many_commands() {
        for message in ["{}\n".repeat(349_525), "1\n".repeat(524_288), "{\"ping\":{}}\n".repeat(257)] {
            let mut all = decode(&message);
            assert_eq!(all.len(), COMMANDS_PER_MESSAGE + 1);
            let refusal = all.pop().unwrap().command.expect_err("one refusal for all the rest");
            assert_eq!(refusal.code, ErrorCode::TooLarge);
        }
        assert_eq!(decode(&"{\"ping\":{}}\n".repeat(256)).len(), 256);
    }

    #[test]
    fn the_subscriptions_of_one_message_are_bounded() {
        let connect = |count| {
            let subscribe = vec!["{\"channel\":\"a\"}"; count].join(",");
            format!("{{\"id\":3,\"connect\":{{\"subscribe\":[{subscribe}]}}}}\n")
        };
        assert!(decode(&connect(SUBSCRIPTIONS_PER_MESSAGE))[0].command.is_ok());
        let (id, over) = refusal(&connect(SUBSCRIPTIONS_PER_MESSAGE + 1));
        assert_eq!((id, over.code), (Some(3), ErrorCode::TooLarge));
        let many = decode(&connect(500).repeat(50));
        let refused = many.iter().filter(|envelope| envelope.command.is_err()).count();
        assert_eq!(refused, 50 - SUBSCRIPTIONS_PER_MESSAGE / 500);
    }

    #[test]
    fn one_command_may_be_written_over_several_lines() {
        let all = decode("{\n  \"id\": 4,\n  \"publish\": {\"channel\": \"a\", \"data\": {\n\"x\": 1}}\n}");
        let [Envelope { id: Some(4), command: Ok(Command::Publish { payload, .. }) }] = &all[..] else {
            panic!("{all:?}")
        };
        assert!(!payload.data().contains(&b'\n'), "a newline would end the frame's line on the way out");
    }

    #[test]
    fn a_refusal_stands_under_its_id_where_that_can_be_read() {
        for (text, id, word) in [
            ("{\"id\":3,\"dance\":{}}", Some(3), "unknown command"),
            ("{\"id\":3,\"subscribe\":{\"channel\":7}}", Some(3), "invalid type"),
            ("{\"id\":3,\"subscribe\":{}}", Some(3), "channel"),
            ("{\"id\":3,\"subscribe\":{\"channel\":\"\"}}", Some(3), "empty"),
            ("{\"id\":3,\"ping\":{},\"unsubscribe\":{\"channel\":\"a\"}}", Some(3), "one command"),
            ("{\"id\":3,\"publish\":{\"channel\":\"a\"}}", Some(3), "data"),
            ("{\"id\":\"3\",\"ping\":{}}", None, "invalid type"),
            ("nonsense", None, "not a command"),
            ("[1]", None, "not a command"),
            ("  ", None, "empty"),
        ] {
            let (found, refusal) = refusal(text);
            assert_eq!((found, refusal.code), (id, ErrorCode::BadRequest), "{text}");
            assert!(refusal.message.contains(word), "{text}: {}", refusal.message);
        }
    }

    #[test]
    fn a_null_payload_is_a_payload() {
        let all = decode("{\"publish\":{\"channel\":\"a\",\"data\":null}}");
        assert!(matches!(&all[0].command, Ok(Command::Publish { payload, .. }) if payload.data() == "null"), "{all:?}");
    }

    #[test]
    fn a_position_that_cannot_be_ours_is_foreign() {
        let all = decode("{\"subscribe\":{\"channel\":\"a\",\"since\":{\"epoch\":\"?\",\"offset\":1}}}");
        assert!(matches!(&all[0].command, Ok(Command::Subscribe(Subscribe { since: Some(Since::Foreign), .. }))));
    }

    /// Publishes that are nearly, or just, written as [`Publish::find`] expects it.
    fn nearly_plain() -> impl Strategy<Value = String> {
        let id = prop_oneof![
            4 => Just(String::new()),
            4 => any::<u64>().prop_map(|id| format!("\"id\":{id},")),
            1 => "\"id\":(|00?|0[1-9]|-1|1.0|1e2|null|\"1\"|[1-9][0-9]{17,21}) ?, ?",
        ];
        let channel = prop_oneof![4 => "[a-z:*#]{1,9}", 1 => "\\PC{0,6}", 1 => "[ \\\\\"\t\u{0}\u{7f}nu0-9a]{0,6}"];
        let value = prop_oneof![
            3 => "[0-9]{1,3}|null|true|\"[a-z}]{0,4}\"|\\{\\}|\\[\\]",
            3 => "\\{\"[a-z]{1,3}\":(-?[0-9.eE]{1,5}|\"\\PC{0,3}\"|\\[[0-9,]{0,4}\\])\\}",
            2 => "[{}\\[\\]\":, 0-9a\\\\\n\r\t]{0,9}",
        ];
        let end = prop_oneof![6 => Just("}}".to_owned()), 1 => "(,\"key\":\"k\"|,\"data\":1|,\"x\":\\{\\}| )?\\}[ \n]?\\}[ \r\n]?"];
        (id, channel, value, end).prop_map(|(id, channel, value, end)| {
            format!("{{{id}\"publish\":{{\"channel\":\"{channel}\",\"data\":{value}{end}")
        })
    }

    /// What two readers must agree on: all of it, the payload too, which does not show itself.
    fn shown(envelopes: &[Envelope]) -> Vec<(String, Option<Bytes>)> {
        let payload = |envelope: &Envelope| match &envelope.command {
            Ok(Command::Publish { payload, .. }) => Some(payload.data().clone()),
            _ => None,
        };
        envelopes.iter().map(|envelope| (format!("{envelope:?}"), payload(envelope))).collect()
    }

    #[test]
    fn nearly_plain_publishes_are_often_plain_and_often_not() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let mut draw = || nearly_plain().new_tree(&mut runner).unwrap().current();
        let plain = (0..1000).filter(|_| Publish::find(draw().as_bytes()).is_some()).count();
        assert!((200..800).contains(&plain), "{plain} of 1000");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn plain_or_not_all_is_as_the_general_reader_has_it(texts in prop::collection::vec(nearly_plain(), 1..4)) {
            let text = texts.join("\n");
            let mut general = Vec::new();
            lines(&Bytes::copy_from_slice(text.as_bytes()), &mut |envelope| general.push(envelope), line);
            prop_assert_eq!(shown(&decode(&text)), shown(&general));
        }

        #[test]
        fn no_text_makes_the_decoder_panic(text in "\\PC*|[\\{\\}\\[\\]\":,a-z0-9\n ]*") {
            decode(&text);
        }
    }
}

//! What the back end is asked, in JSON. The one place where the bodies are written down.
//!
//! Every body has `hook` (the hook's name), `id` (the same for each try of one call) and `node`.
//!
//! | hook | and besides |
//! |---|---|
//! | `connect` | `client`, `user`?, `token`?, `info`?, `address`, `protocol`, `headers`: {name: value} |
//! | `subscribe` | `client`, `user`?, `channel` |
//! | `publish` | `client`, `user`?, `channel`, `data` or `data_base64` |
//! | `rpc` | `client`, `user`?, `method`, `data` or `data_base64`, or neither |
//!
//! What comes back stands in the file of answers.

use std::{net::IpAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use skywave_proto::{ChannelName, Payload, PayloadKind};

/// A client wants to connect. No `Debug`: it holds a token.
pub struct ConnectAsk {
    /// Its id.
    pub client: Arc<str>,
    /// Who it is, if the node knows already.
    pub user: Option<Arc<str>>,
    /// What it showed, where the node has no keys of its own to check it with.
    pub token: Option<Box<str>>,
    /// What it says of itself: a JSON object.
    pub info: Option<Bytes>,
    /// Where it comes from, as far as the node knows.
    pub address: IpAddr,
    /// The client protocol, such as `json`.
    pub protocol: &'static str,
    /// Of the handshake, those that the caller wants to pass on; names in lower case.
    pub headers: Vec<(&'static str, Box<str>)>,
}

/// A client wants to subscribe.
#[derive(Debug)]
pub struct SubscribeAsk {
    /// Its id.
    pub client: Arc<str>,
    /// Who it is.
    pub user: Option<Arc<str>>,
    /// To what.
    pub channel: ChannelName,
}

/// A client wants to publish.
#[derive(Debug)]
pub struct PublishAsk {
    /// Its id.
    pub client: Arc<str>,
    /// Who it is.
    pub user: Option<Arc<str>>,
    /// Where.
    pub channel: ChannelName,
    /// What.
    pub payload: Payload,
}

/// A client calls a method of the back end.
#[derive(Debug)]
pub struct RpcAsk {
    /// Its id.
    pub client: Arc<str>,
    /// Who it is.
    pub user: Option<Arc<str>>,
    /// Which one.
    pub method: Box<str>,
    /// With what.
    pub payload: Option<Payload>,
}

/// The part of a body that differs from hook to hook.
pub(super) trait Ask {
    fn write(&self, body: &mut Object);
}

impl Ask for ConnectAsk {
    fn write(&self, body: &mut Object) {
        body.text("client", &self.client);
        body.maybe("user", self.user.as_deref());
        body.maybe("token", self.token.as_deref());
        if let Some(info) = &self.info {
            body.raw("info", info);
        }
        body.text("address", &self.address.to_string());
        body.text("protocol", self.protocol);
        let mut headers = Object::new();
        for (name, value) in &self.headers {
            headers.text(name, value);
        }
        body.raw("headers", &headers.end());
    }
}

impl Ask for SubscribeAsk {
    fn write(&self, body: &mut Object) {
        body.text("client", &self.client);
        body.maybe("user", self.user.as_deref());
        body.text("channel", self.channel.as_str());
    }
}

impl Ask for PublishAsk {
    fn write(&self, body: &mut Object) {
        body.text("client", &self.client);
        body.maybe("user", self.user.as_deref());
        body.text("channel", self.channel.as_str());
        body.payload(&self.payload);
    }
}

impl Ask for RpcAsk {
    fn write(&self, body: &mut Object) {
        body.text("client", &self.client);
        body.maybe("user", self.user.as_deref());
        body.text("method", &self.method);
        if let Some(payload) = &self.payload {
            body.payload(payload);
        }
    }
}

/// A JSON object on its way. What is JSON already goes in as it is, without being parsed again.
pub(super) struct Object(Vec<u8>);

impl Object {
    fn new() -> Self {
        Self(vec![b'{'])
    }

    /// With what stands in every body.
    pub(super) fn body(hook: &str, id: &str, node: &str) -> Self {
        let mut body = Self::new();
        body.text("hook", hook);
        body.text("id", id);
        body.text("node", node);
        body
    }

    pub(super) fn text(&mut self, name: &str, text: &str) {
        let text = serde_json::to_vec(text).unwrap_or_default(); // a text always can
        self.raw(name, &text);
    }

    fn maybe(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn payload(&mut self, payload: &Payload) {
        match (payload.kind(), std::str::from_utf8(payload.data())) {
            (PayloadKind::Json, _) => self.raw("data", payload.data()),
            (PayloadKind::Text, Ok(text)) => self.text("data", text),
            (PayloadKind::Text | PayloadKind::Binary, _) => self.text("data_base64", &STANDARD.encode(payload.data())),
        }
    }

    /// `json` has been checked by whoever gives it; `name` needs no escapes.
    pub(super) fn raw(&mut self, name: &str, json: &[u8]) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self.0.extend_from_slice(json);
    }

    pub(super) fn end(mut self) -> Bytes {
        self.0.push(b'}');
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn body(ask: &impl Ask) -> Value {
        let mut body = Object::body("hook", "id", "node");
        ask.write(&mut body);
        let mut body: Value = serde_json::from_slice(&body.end()).unwrap();
        for around in ["hook", "id", "node"] {
            assert_eq!(body.as_object_mut().unwrap().remove(around), Some(json!(around)));
        }
        body
    }

    fn channel() -> ChannelName {
        ChannelName::parse("chat:\u{201c}a\"b\\").unwrap()
    }

    #[test]
    fn bodies_are_as_documented() {
        let mut ask = ConnectAsk {
            client: "c".into(),
            user: None,
            token: None,
            info: None,
            address: [127, 0, 0, 1].into(),
            protocol: "json",
            headers: Vec::new(),
        };
        assert_eq!(
            body(&ask),
            json!({"client": "c", "address": "127.0.0.1", "protocol": "json", "headers": {}}),
            "nothing is null"
        );
        ask.user = Some("u\n".into());
        ask.token = Some("t".into());
        ask.info = Some(Bytes::from_static(b"{\"a\":1}"));
        ask.headers = vec![("origin", "https://a".into()), ("cookie", "a=\"b\"".into())];
        let headers = json!({"origin": "https://a", "cookie": "a=\"b\""});
        assert_eq!(
            body(&ask),
            json!({"client": "c", "user": "u\n", "token": "t", "info": {"a": 1}, "address": "127.0.0.1",
                "protocol": "json", "headers": headers})
        );
        let ask = SubscribeAsk { client: "c".into(), user: Some("u".into()), channel: channel() };
        assert_eq!(body(&ask), json!({"client": "c", "user": "u", "channel": channel().as_str()}));
        let ask = RpcAsk { client: "c".into(), user: None, method: "m".into(), payload: None };
        assert_eq!(body(&ask), json!({"client": "c", "method": "m"}));
    }

    #[test]
    fn a_payload_keeps_its_kind() {
        for (payload, data) in [
            (Payload::json(Bytes::from_static(b"[1, 2]")), json!({"data": [1, 2]})),
            (Payload::text(Bytes::from_static(b"[1, 2]")), json!({"data": "[1, 2]"})),
            (Payload::binary(Bytes::from_static(b"\xff")), json!({"data_base64": "/w=="})),
        ] {
            let mut expected = json!({"client": "c", "channel": channel().as_str()});
            expected.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
            let ask = PublishAsk { client: "c".into(), user: None, channel: channel(), payload };
            assert_eq!(body(&ask), expected);
        }
    }
}

//! Members and events as bytes. `scripts/members.lua` puts entries and events together.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use skywave_proto::{Member, v1};

use crate::PresenceEvent;

/// A member as it stands in an entry.
pub(super) fn member(member: &Member) -> Vec<u8> {
    let member = v1::Member {
        client: member.client.to_string(),
        user: member.user.as_deref().map(str::to_owned),
        info: member.info.clone(),
    };
    member.encode_to_vec()
}

/// The member in an entry; `None` for what is not one.
pub(super) fn read(entry: &[u8]) -> Option<Member> {
    let after_client = entry.iter().position(|byte| *byte == 0)?;
    let line = after_client + entry[after_client..].iter().position(|byte| *byte == b'\n')?;
    read_member(&entry[line + 1..])
}

/// Whose entry it is; `None` for what is not one.
pub(super) fn client(entry: &[u8]) -> Option<&str> {
    let end = entry.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&entry[..end]).ok()
}

/// What [`member`] wrote.
pub(super) fn read_member(bytes: &[u8]) -> Option<Member> {
    v1::Member::decode(bytes).ok().map(into_member)
}

/// The event in a payload of a stream; `None` for what is none.
pub(in crate::redis) fn read_event(payload: Bytes) -> Option<PresenceEvent> {
    Some(match v1::PresenceEvent::decode(payload).ok()?.event? {
        v1::presence_event::Event::Join(member) => PresenceEvent::Join(into_member(member)),
        v1::presence_event::Event::Leave(member) => PresenceEvent::Leave(into_member(member)),
    })
}

fn into_member(member: v1::Member) -> Member {
    Member { client: Arc::from(member.client), user: member.user.map(Arc::from), info: member.info }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_scripts_put_together() {
        let ada =
            Member { client: "c\n1".into(), user: Some("ada".into()), info: Some(Bytes::from_static(b"{\"a\":1}")) };
        let entry = [b"c\n1\0", &b"17 0123abcd\n"[..], &member(&ada)].concat();
        assert_eq!(read(&entry), Some(ada.clone()));
        for bad in [&b""[..], b"c1", b"c1\0", b"c1\x0017 ab", b"c1\x0017 ab\n\xff"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!((client(b"c1\x0017 ab\n\xff"), client(b"c1"), client(b"\xff\0")), (Some("c1"), None, None));
        let field = |tag: u8, bytes: &[u8]| [&[tag, u8::try_from(bytes.len()).unwrap()], bytes].concat();
        assert_eq!(read_event(field(10, &member(&ada)).into()), Some(PresenceEvent::Join(ada.clone())));
        assert_eq!(read_event(field(18, &member(&ada)).into()), Some(PresenceEvent::Leave(ada)));
        assert_eq!(read_event(Bytes::new()), None);
    }
}

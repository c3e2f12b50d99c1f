//! What everything is called in Redis.
//!
//! | key | type | content | lives |
//! |---|---|---|---|
//! | `{prefix}:{tag}:c:CHANNEL` | pub/sub channel | frames | - |
//! | `{prefix}:{tag}:m:CHANNEL` | hash | `n` generation, `e` epoch, `o` offset, `b` boundaries | `meta_ttl` |
//! | `{prefix}:{tag}:l:CHANNEL` | list | the same frames | `ttl` |
//! | `{prefix}:{tag}:i:…` | string | the position that an idempotency key got | 300 s |
//! | `{prefix}:{tag}:gen` | hash | `r` replication id, `n` generation | for ever |
//! | `{prefix}:{tag}:p:CHANNEL` | sorted set | the channel's members, see `scripts/members.lua` | 1 h, made longer by their nodes |
//! | `{prefix}:{tag}:pu:CHANNEL` | hash | how many clients each user has among them, see there | likewise |
//! | `{prefix}:{tag}:pt:INCARNATION` | set | transitions of the partition that nobody was told yet | 1 h |
//! | `{prefix}:{tag}:pn:INCARNATION` | set | the channels of the partition where it has members | likewise |
//! | `{prefix}:{tag}:n` | sorted set | incarnation -> last beat in ms; in the partition of `#control`, as all of these | 1 day |
//! | `{prefix}:{tag}:n:INCARNATION` | string | what the node tells of itself | 30 s |
//! | `{prefix}:{tag}:nt:INCARNATION` | string | it was taken for dead | 1 h |
//! | `{prefix}:{tag}:nr` | set | incarnations that have resigned | 1 day |
//! | `{prefix}:{tag}:nl:INCARNATION` | string | who carries out that it is dead | 15 s |
//! | `{prefix}:{tag}:r` | sorted set | revoked tokens, see `scripts/revoke.lua`; in the partition of `#control` too | until the last of them ends |
//! | `{prefix}:{tag}:re` | sorted set | revoked subject -> when that ends, in ms | likewise |
//! | `{prefix}:{tag}:s:SESSION` | string | the incarnation that has a session without a connection; the name is a digest | 60 s, made longer by it |
//! | `{prefix}:format` | string | the number of the format of all of this, see `format.rs` | for ever |
//! | `{prefix}:secret` | string | the secret that all nodes share | for ever |
//!
//! `{tag}` stands there with its braces: it is the hash tag of one of [`PARTITIONS`] partitions, so that all keys of a
//! channel share a slot and a data set can move to a cluster as it is.

use std::sync::{Arc, LazyLock};

use skywave_proto::ChannelName;

use crate::IdempotencyKey;

/// How many partitions there are. Never changes: every key's name depends on it.
pub(super) const PARTITIONS: usize = 1024;

/// Partition `i` has a tag of slot `16 * i + 8`: the middle of its sixteenth of a 1,024th, so that any even division of
/// the 16,384 slots divides the partitions evenly too.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(find_tags);

/// How many slots a cluster has.
pub(super) const SLOTS: usize = 16384;

/// The slot of a partition's tag.
pub(super) fn slot(partition: usize) -> usize {
    16 * partition + 8
}

/// What all nodes listen to. The registry of nodes is in its partition.
pub(super) const CONTROL: &str = "#control";
/// The same for what is of no use late.
pub(super) const CONTROL_LIVE: &str = "#live";
/// What a channel's stream of joins and leaves is called by: it shares the channel's partition.
pub(super) const PRESENCE: &str = "presence";

/// The partition of a channel's key that came back from Redis.
pub(super) fn partition_of(channel: &str) -> usize {
    let channel = channel.strip_prefix("#presence:").unwrap_or(channel);
    jump(fnv1a(channel.as_bytes()), PARTITIONS)
}

/// The partition of what a digest names.
pub(super) fn partition_of_digest(digest: &[u8; 32]) -> usize {
    jump(fnv1a(digest), PARTITIONS)
}

/// The slot of a key without a tag.
pub(super) fn slot_of(key: &str) -> usize {
    usize::from(crc16(key.as_bytes())) % SLOTS
}

/// Which of `masters` independent masters has a partition. Another one moves as few as can be.
pub(super) fn share(partition: usize, masters: usize) -> usize {
    jump(fnv1a(&partition.to_be_bytes()), masters)
}

/// Names keys under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys(Arc<str>);

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self(prefix.into())
    }

    /// Meta, list and pub/sub channel of a channel whose partition is known.
    pub(super) fn all_of(&self, partition: usize, channel: &ChannelName) -> [String; 3] {
        ["m", "l", "c"].map(|kind| self.name(partition, kind, channel))
    }

    /// The pub/sub channel.
    pub(super) fn channel(&self, channel: &ChannelName) -> String {
        self.of("c", channel)
    }

    /// The hash that says where the channel stands.
    pub(super) fn meta(&self, channel: &ChannelName) -> String {
        self.of("m", channel)
    }

    /// The list of its recent frames.
    pub(super) fn list(&self, channel: &ChannelName) -> String {
        self.of("l", channel)
    }

    /// Where an idempotency key is remembered. The lengths keep `a:b` of `c` apart from `a` of `b:c`.
    pub(super) fn idempotency(&self, channel: &ChannelName, key: &IdempotencyKey) -> String {
        let (prefix, tag) = (&self.0, &TAGS[partition(channel)]);
        let (channel, publisher) = (channel.as_str(), &key.publisher);
        format!("{prefix}:{{{tag}}}:i:{}.{}:{channel}:{publisher}:{}", channel.len(), publisher.len(), key.key)
    }

    /// Who is on a channel.
    pub(super) fn members(&self, channel: &ChannelName) -> String {
        self.of("p", channel)
    }

    /// Where an incarnation has members.
    pub(super) fn membered(&self, partition: usize, incarnation: &str) -> String {
        format!("{}:{{{}}}:pn:{incarnation}", self.0, TAGS[partition])
    }

    /// How many clients each user has on a channel.
    pub(super) fn users(&self, channel: &ChannelName) -> String {
        self.of("pu", channel)
    }

    /// What an incarnation still has to tell.
    pub(super) fn transitions(&self, partition: usize, incarnation: &str) -> String {
        format!("{}:{{{}}}:pt:{incarnation}", self.0, TAGS[partition])
    }

    /// A key of the registry of nodes.
    pub(super) fn registry(&self, what: &str) -> String {
        format!("{}:{{{}}}:{what}", self.0, TAGS[partition_of(CONTROL)])
    }

    /// Who has a session.
    pub(super) fn session(&self, digest: &[u8; 32]) -> String {
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}:{{{}}}:s:{name}", self.0, TAGS[partition_of_digest(digest)])
    }

    /// Which generation of the master a partition has seen.
    pub(super) fn generation(&self, partition: usize) -> String {
        format!("{}:{{{}}}:gen", self.0, TAGS[partition])
    }

    /// How all of this is written.
    pub(super) fn format(&self) -> String {
        format!("{}:format", self.0)
    }

    /// The secret that all nodes share.
    pub(super) fn secret(&self) -> String {
        format!("{}:secret", self.0)
    }

    /// The channel's name out of [`Keys::channel`]; `None` for what is not ours.
    pub(super) fn read_channel<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let rest = key.strip_prefix(self.0.as_bytes())?.strip_prefix(b":{")?;
        let end = rest.iter().position(|byte| *byte == b'}')?;
        std::str::from_utf8(rest[end..].strip_prefix(b"}:c:")?).ok()
    }

    fn of(&self, kind: &str, channel: &ChannelName) -> String {
        self.name(partition(channel), kind, channel)
    }

    fn name(&self, partition: usize, kind: &str, channel: &ChannelName) -> String {
        // On the way of every publication: without the machinery of format!.
        [&self.0, ":{", &TAGS[partition], "}:", kind, ":", channel.as_str()].concat()
    }
}

/// The partition of a channel: the same on every node, in every version.
pub(super) fn partition(channel: &ChannelName) -> usize {
    partition_of(channel.as_str())
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm".
fn jump(mut key: u64, buckets: usize) -> usize {
    let (mut bucket, mut next) = (0u64, 0u64);
    while next < buckets as u64 {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        // Exact: 2^31 / (1..=2^31) times a bucket below 1,024 stays far below 2^53.
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let jumped = ((bucket + 1) as f64 * (f64::from(1u32 << 31) / (((key >> 33) + 1) as f64))) as u64;
        next = jumped;
    }
    usize::try_from(bucket).expect("below the number of buckets")
}

/// The first text of `[0-9a-z]{1,4}`, shortest first, for every partition's slot.
fn find_tags() -> Vec<String> {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut tags = vec![String::new(); PARTITIONS];
    let mut missing = PARTITIONS;
    for length in 1..=4u32 {
        for number in 0..36usize.pow(length) {
            let tag: String =
                (0..length).rev().map(|place| char::from(DIGITS[number / 36usize.pow(place) % 36])).collect();
            let slot = usize::from(crc16(tag.as_bytes())) % SLOTS;
            if slot % 16 == 8 && tags[slot / 16].is_empty() {
                tags[slot / 16] = tag;
                missing -= 1;
                if missing == 0 {
                    return tags;
                }
            }
        }
    }
    unreachable!("the tags are constants; a test sees that all are found")
}

/// CRC-16/XMODEM, as Redis Cluster uses it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc: u16, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_a_tag_in_the_middle_of_its_slots() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the check value of the algorithm");
        assert_eq!(TAGS.len(), PARTITIONS);
        for (partition, tag) in TAGS.iter().enumerate() {
            assert_eq!(usize::from(crc16(tag.as_bytes())) % 16384, 16 * partition + 8, "{tag}");
        }
    }

    #[test]
    fn names_never_change() {
        // Frozen: another name means that nodes of two versions do not hear each other.
        let keys = Keys::new("skywave");
        let channel = ChannelName::parse("chat:lobby").unwrap();
        let tag = &TAGS[partition(&channel)];
        assert_eq!((partition(&channel), tag.as_str()), (994, "58g"));
        assert_eq!(keys.channel(&channel), format!("skywave:{{{tag}}}:c:chat:lobby"));
        assert_eq!(keys.meta(&channel), format!("skywave:{{{tag}}}:m:chat:lobby"));
        let stream = ChannelName::reserved(PRESENCE, &channel);
        assert_eq!(keys.channel(&stream), format!("skywave:{{{tag}}}:c:#presence:chat:lobby"));
        assert_eq!(keys.members(&channel), format!("skywave:{{{tag}}}:p:chat:lobby"));
        let name = keys.session(&[7; 32]);
        assert_eq!(name, format!("skywave:{{{}}}:s:{}", TAGS[734], "07".repeat(32)));
        let key = IdempotencyKey { publisher: "u:ada".into(), key: "7".into() };
        assert_eq!(keys.idempotency(&channel, &key), format!("skywave:{{{tag}}}:i:10.5:chat:lobby:u:ada:7"));
    }

    #[test]
    fn channels_spread_evenly() {
        let mut load = vec![0u32; PARTITIONS];
        for number in 0..100_000 {
            load[partition(&ChannelName::parse(&format!("user:{number}")).unwrap())] += 1;
        }
        let (least, most) = (load.iter().min().unwrap(), load.iter().max().unwrap());
        assert!(*least > 50 && *most < 160, "mean 98, least {least}, most {most}");
    }

    #[test]
    fn a_channel_reads_back() {
        let keys = Keys::new("a:b");
        for name in ["chat:lobby", "}:c:{x}", "ü", "#user:7"] {
            let channel = ChannelName::parse(name).unwrap();
            assert_eq!(keys.read_channel(keys.channel(&channel).as_bytes()), Some(name));
        }
        for foreign in ["", "a:b", "a:b:{x}:l:chat", "z:{x}:c:chat", "a:b:{x"] {
            assert_eq!(keys.read_channel(foreign.as_bytes()), None);
        }
    }

    #[test]
    fn no_publisher_can_name_anothers_key() {
        let keys = Keys::new("skywave");
        let name = |channel: &str, publisher: &str, key: &str| {
            let key = IdempotencyKey { publisher: publisher.into(), key: key.into() };
            let name = keys.idempotency(&ChannelName::parse(channel).unwrap(), &key);
            name.split_once("}:").unwrap().1.to_owned()
        };
        assert_ne!(name("a:b", "c", "d"), name("a", "b:c", "d"));
        assert_ne!(name("a", "b:c", "d"), name("a", "b", "c:d"));
    }
}

//! How many connections each address has.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::{NonZeroU32, NonZeroU64},
};

use parking_lot::Mutex;

/// What one client has to himself, as far as an address can say: an IPv4 address, or an IPv6 network of 64 bits, in which every
/// device gives itself as many addresses as it likes. Two that differ in more than that are never the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Block(NonZeroU64);

impl Block {
    pub(super) fn of(address: IpAddr) -> Self {
        let bits = match address.to_canonical() {
            // No client has an address of multicast, so here is room for those of IPv4.
            IpAddr::V4(address) => u64::MAX << 32 | u64::from(address.to_bits()),
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or(u64::MAX),
        };
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN)) // `::/64` is loopback's
    }
}

/// The connections of each address. Bound: one entry for each connection. The lock is held for one look-up.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<HashMap<Block, u32, ahash::RandomState>>);

impl Addresses {
    /// Counts one more, unless there are as many as there may be. Whoever is counted [leaves](Self::leave).
    pub(super) fn enter(&self, block: Block, limit: NonZeroU32) -> bool {
        let mut open = self.0.lock();
        let connections = open.entry(block).or_default();
        let fits = *connections < limit.get();
        *connections += u32::from(fits);
        fits
    }

    /// One that was counted has ended.
    pub(super) fn leave(&self, block: Block) {
        let mut open = self.0.lock();
        if let Some(connections) = open.get_mut(&block) {
            *connections -= 1;
            if *connections == 0 {
                open.remove(&block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(address: &str) -> Block {
        Block::of(address.parse().unwrap())
    }

    #[test]
    fn a_network_of_64_bits_is_one_client() {
        assert_eq!(block("2001:db8:1:2::1"), block("2001:db8:1:2:ffff::9"));
        assert_ne!(block("2001:db8:1:2::1"), block("2001:db8:1:3::1"));
        assert_eq!(block("::ffff:192.0.2.1"), block("192.0.2.1"));
        assert_ne!(block("192.0.2.2"), block("192.0.2.1"));
        assert_ne!(block("0.0.0.1"), block("::1"));
    }

    #[test]
    fn as_many_as_there_may_be_and_nothing_is_left_of_them() {
        let (addresses, one) = (Addresses::default(), block("192.0.2.1"));
        let two = NonZeroU32::new(2).unwrap();
        assert!(addresses.enter(one, two) && addresses.enter(one, two));
        assert!(!addresses.enter(one, two) && addresses.enter(block("192.0.2.2"), two));
        addresses.leave(one);
        assert!(addresses.enter(one, two) && !addresses.enter(one, two));
        [one, one, block("192.0.2.2")].into_iter().for_each(|block| addresses.leave(block));
        assert!(addresses.0.lock().is_empty());
    }
}

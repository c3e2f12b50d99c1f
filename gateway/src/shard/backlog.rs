//! What waits for the clients of a node that do not read, and who gives it up when it is too much for the node.
//!
//! Each outbox has its own bound; this is the bound of all together. A connection that takes what it is given never comes
//! here.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::HashMap,
    num::NonZeroUsize,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::link::Link;

/// What waits in all outboxes of a node, in bytes, and the most that may (`limits.node_outbox_bytes`).
#[derive(Debug)]
pub struct Backlog {
    bound: Option<NonZeroUsize>,
    total: AtomicUsize,
    /// The largest outbox of each shard, or more: that it has become smaller is seen when it is looked for, once all of them
    /// are beyond the bound.
    largest: Box<[AtomicUsize]>,
}

impl Backlog {
    /// For a node with so many shards.
    pub fn new(shards: usize, bound: Option<NonZeroUsize>) -> Arc<Self> {
        Arc::new(Self {
            bound,
            total: AtomicUsize::new(0),
            largest: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
        })
    }

    /// What waits now.
    pub fn bytes(&self) -> usize {
        self.total.load(Relaxed)
    }

    fn is_too_large(&self) -> bool {
        self.bound.is_some_and(|bound| self.bytes() > bound.get())
    }

    /// Whether it would soon be too large again.
    fn is_large(&self) -> bool {
        self.bound.is_some_and(|bound| self.bytes() > bound.get() / 8 * 7)
    }
}

/// One shard's part of it.
pub(super) struct Waiting {
    shard: usize,
    node: Arc<Backlog>,
    /// The connections with something in their outbox that their socket did not take at once, and how much.
    links: RefCell<HashMap<u64, (Weak<Link>, usize), ahash::RandomState>>,
}

impl Waiting {
    pub(super) fn new(shard: usize, node: Arc<Backlog>) -> Rc<Self> {
        Rc::new(Self { shard, node, links: RefCell::default() })
    }

    /// So much waits for a connection now, where it was so much.
    pub(super) fn changed(&self, key: u64, link: &Weak<Link>, before: usize, now: usize) {
        if now >= before {
            self.node.total.fetch_add(now - before, Relaxed);
            self.node.largest[self.shard].fetch_max(now, Relaxed);
        } else {
            self.node.total.fetch_sub(before - now, Relaxed);
        }
        let mut links = self.links.borrow_mut();
        if now == 0 {
            links.remove(&key);
            if links.is_empty() {
                *links = HashMap::default();
            }
        } else {
            links.entry(key).or_insert_with(|| (link.clone(), 0)).1 = now;
        }
    }

    /// Makes the largest outboxes smaller until all together are well within the bound. While another shard has a larger
    /// one, it is for that shard to do so.
    pub(super) fn relieve(&self) {
        if !self.node.is_too_large() {
            return;
        }
        // A copy: whoever is shed counts itself anew.
        let mut links: Vec<_> = self.links.borrow().values().map(|(link, bytes)| (*bytes, link.clone())).collect();
        links.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
        let own = links.first().map_or(0, |(bytes, _)| *bytes);
        self.node.largest[self.shard].store(own, Relaxed);
        if self.node.largest.iter().any(|other| other.load(Relaxed) > own) {
            return;
        }
        for (bytes, link) in links {
            if !self.node.is_large() {
                return;
            }
            if let Some(link) = link.upgrade() {
                link.shed(bytes / 2);
            }
        }
    }

    /// What waits in all of the node.
    pub(super) fn node(&self) -> &Backlog {
        &self.node
    }
}

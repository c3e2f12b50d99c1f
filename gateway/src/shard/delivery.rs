//! A push on its way to the connections of one shard, and what waits in their outboxes of it.

use std::{cell::OnceCell, rc::Rc, sync::Arc};

use skywave_proto::ChannelName;

use crate::{
    config::SlowConsumer,
    push::{Encoded, Format, Frame, Goodbye, Prepared, Push, SLOTS},
};

/// What a frame costs in an outbox beside its payload, in bytes.
pub(super) const OVERHEAD: usize = Frame::OVERHEAD + size_of::<Parcel>() + 3 * size_of::<usize>();

/// Which channel a publication is of, and what becomes of it where it cannot be taken in time. One for each channel of
/// a shard: two are the same if they are the same piece of memory.
#[derive(Debug)]
pub struct Label {
    /// The channel.
    pub channel: ChannelName,
    /// What slow consumers of it get.
    pub policy: SlowConsumer,
}

/// A frame in an outbox. All outboxes of a shard share it: to queue it counts up a number that no other thread touches.
#[derive(Debug)]
pub struct Parcel {
    frame: Frame,
    label: Option<Rc<Label>>,
}

impl Parcel {
    /// A frame that must not be left out.
    pub fn of(frame: Frame) -> Rc<Self> {
        Self::new(frame, None)
    }

    /// `label`: it is a publication of this channel.
    pub fn new(frame: Frame, label: Option<Rc<Label>>) -> Rc<Self> {
        Rc::new(Self { frame, label })
    }

    /// What goes out.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The channel whose publication it is.
    pub fn label(&self) -> Option<&Rc<Label>> {
        self.label.as_ref()
    }

    /// What it counts in an outbox, in bytes.
    pub fn cost(&self) -> usize {
        self.frame.payload().len() + OVERHEAD
    }
}

/// A push in one wire format, as a shard's connections get it.
pub(super) enum Ready {
    Parcel(Rc<Parcel>),
    Nothing,
    Close(Goodbye),
}

/// See the module. Each wire format is looked up once, for however many connections.
pub(super) struct Delivery {
    push: Arc<Prepared>,
    label: Option<Rc<Label>>,
    ready: [OnceCell<Ready>; SLOTS],
}

impl Delivery {
    /// `label`: it is a publication of this channel.
    pub(super) fn new(push: Arc<Prepared>, label: Option<Rc<Label>>) -> Self {
        Self { push, label, ready: [const { OnceCell::new() }; SLOTS] }
    }

    /// What it is.
    pub(super) fn push(&self) -> &Arc<Prepared> {
        &self.push
    }

    /// What a connection with this format gets.
    pub(super) fn ready(&self, format: &dyn Format) -> &Ready {
        self.ready[format.slot()].get_or_init(|| match self.push.encoding(format) {
            Encoded::Frame(frame) => Ready::Parcel(Parcel::new(frame.clone(), self.label.clone())),
            Encoded::Nothing => Ready::Nothing,
            Encoded::Close(goodbye) => Ready::Close(goodbye.clone()),
        })
    }

    /// The frame, where there is one for every connection with this format.
    fn frame(&self, format: &dyn Format) -> Option<&Frame> {
        match (self.push.push(), self.ready(format)) {
            (Push::Publication(..), Ready::Parcel(parcel)) => Some(parcel.frame()),
            _ => None,
        }
    }
}

/// Publications in a row, as the connections of each format get them that get all of them.
pub(super) struct Row<'a> {
    deliveries: Range<'a>,
    frames: [OnceCell<Option<Vec<&'a Frame>>>; SLOTS],
    /// The offset of the first; 0 where they have none.
    offset: u64,
}

type Range<'a> = std::collections::vec_deque::Iter<'a, Delivery>;

impl<'a> Row<'a> {
    pub(super) fn new(deliveries: Range<'a>) -> Self {
        let first = deliveries.clone().next().and_then(|delivery| delivery.push().position());
        let offset = first.map_or(0, |position| position.offset);
        Self { deliveries, frames: [const { OnceCell::new() }; SLOTS], offset }
    }

    /// The frames; `None` if there is something between them that depends on who gets it.
    pub(super) fn frames(&self, format: &dyn Format) -> Option<&[&'a Frame]> {
        let frames = || self.deliveries.clone().map(|delivery| delivery.frame(format)).collect();
        self.frames[format.slot()].get_or_init(frames).as_deref()
    }

    /// The offset of the first; 0 where they have none.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

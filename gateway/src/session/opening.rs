//! A subscription before it is answered: what is still on its way, and the answer once all of it is there; pure.

use skywave_backplane::{HistoryPage, MemberPage};
use skywave_proto::{Publication, StreamPosition};

use super::{Since, Subscribe, Subscribed};

/// Who gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// The command `subscribe`, with its id.
    Command(Option<u64>),
    /// The command `connect`, at this place in its list.
    Connect(usize),
    /// Nobody asked: the server API ordered it, and the client is told.
    Api,
}

/// A part of the answer.
#[derive(Debug)]
pub(super) enum Part<T> {
    /// Nobody asked for it.
    Unwanted,
    /// It is on its way.
    Awaited,
    /// It is here.
    Here(T),
}

impl<T> Part<T> {
    fn is_settled(&self) -> bool {
        !matches!(self, Self::Awaited)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Opening {
    /// Who gets the answer.
    pub asker: Asker,
    /// Where live begins, once the channel is joined.
    pub live_from: Part<Option<StreamPosition>>,
    /// What was missed.
    pub missed: Part<Missed>,
    /// Who is there.
    pub members: Part<Option<MemberPage>>,
}

/// What a client missed, as far as it has been read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missed {
    /// Whether it gets everything after its position.
    pub recovered: bool,
    /// The first of it.
    pub publications: Vec<Publication>,
    /// The position of the last of them; without any, where live begins.
    pub position: Option<StreamPosition>,
    /// Whether more follows before live.
    pub more: bool,
}

/// What has to be read before a client with this `since` can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Nothing: there was no `since`, or it is known already what becomes of it.
    Known(Option<Missed>),
    /// The history after this position.
    Read(StreamPosition),
}

/// Compares where a client stood with where live begins.
pub(super) fn recovery(since: Option<Since>, live_from: Option<StreamPosition>) -> Recovery {
    let nothing = |recovered| Missed { recovered, publications: Vec::new(), position: live_from, more: false };
    match (since, live_from) {
        (None, _) => Recovery::Known(None),
        (Some(Since::Position(since)), Some(live)) if since == live => Recovery::Known(Some(nothing(true))),
        (Some(Since::Position(since)), Some(_)) => Recovery::Read(since),
        (Some(_), _) => Recovery::Known(Some(nothing(false))),
    }
}

/// What a page of history after `since` means to the client.
pub(super) fn missed(page: HistoryPage) -> Missed {
    if !page.complete {
        return Missed { recovered: false, publications: Vec::new(), position: page.top, more: false };
    }
    let position = page.publications.last().map_or(page.top, |last| last.position);
    Missed { recovered: true, position, more: page.more, publications: page.publications }
}

impl Opening {
    /// Nothing is here yet.
    pub(super) fn new(asker: Asker) -> Self {
        Self { asker, live_from: Part::Awaited, missed: Part::Unwanted, members: Part::Unwanted }
    }

    /// Whether the answer can be given.
    pub(super) fn is_settled(&self) -> bool {
        self.live_from.is_settled() && self.missed.is_settled() && self.members.is_settled()
    }

    /// The answer, and whether more follows before live.
    pub(super) fn answer(self, request: &Subscribe) -> (Subscribed, bool) {
        let live_from = if let Part::Here(position) = self.live_from { position } else { None };
        let mut answer = Subscribed {
            channel: request.channel.clone(),
            position: live_from,
            recovered: None,
            publications: Vec::new(),
            members: if let Part::Here(members) = self.members { members } else { None },
        };
        let mut more = false;
        if let Part::Here(missed) = self.missed {
            more = missed.more;
            answer.position = missed.position;
            answer.recovered = Some(missed.recovered);
            answer.publications = missed.publications;
        }
        (answer, more)
    }
}

/// Whether a client that does not want its own publications wants this one.
pub(super) fn wants(request: &Subscribe, client: &str, publication: &Publication) -> bool {
    request.echo || publication.client.as_deref() != Some(client)
}

#[cfg(test)]
mod tests {
    use skywave_proto::Epoch;

    use super::*;

    #[test]
    fn a_position_is_recovered_read_or_refused() {
        let live = StreamPosition { epoch: Epoch::random(), offset: 5 };
        let since = |position| Some(Since::Position(position));
        let known = |recovered, position| {
            Recovery::Known(Some(Missed { recovered, publications: vec![], position, more: false }))
        };
        assert_eq!(recovery(None, Some(live)), Recovery::Known(None));
        assert_eq!(recovery(since(live), Some(live)), known(true, Some(live)));
        assert_eq!(recovery(Some(Since::Foreign), Some(live)), known(false, Some(live)));
        assert_eq!(recovery(since(live), None), known(false, None), "a live-only channel recovers nothing");
        let before = StreamPosition { offset: 3, ..live };
        assert_eq!(recovery(since(before), Some(live)), Recovery::Read(before));
    }

    #[test]
    fn an_incomplete_history_is_never_called_recovered() {
        let top = Some(StreamPosition { epoch: Epoch::random(), offset: 9 });
        let page = HistoryPage { top, publications: vec![], complete: false, more: true };
        assert_eq!(missed(page), Missed { recovered: false, publications: vec![], position: top, more: false });
    }
}

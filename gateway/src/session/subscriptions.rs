//! How a subscription is opened, and how it is ended.

use std::task::Poll;

use skywave_backplane::{HistoryError, HistoryPage, HistoryQuery, Interest, MemberPage, PresenceError, SubscribeError};
use skywave_proto::{ChannelName, ErrorCode, StreamPosition};

use super::{
    Asked, Asking, Opened, PAGE_PUBLICATIONS, REPLY_BYTES, Refusal, Reply, Session, Since, Subscribe, Subscribed,
    admission::{Admission, Basis},
    opening::{self, Asker, Opening, Part, Recovery},
    rights::{may_subscribe, named_namespace, namespace},
};
use crate::{
    config::Namespace,
    push::{GapDetail, GapReason, Push},
    shard::{Attach, Attached},
};

/// One client's place on one channel.
pub(super) struct Subscription {
    /// Tells it from an earlier or later one of the same channel.
    number: u64,
    /// Its place among the channel's members on the shard.
    pub(super) place: usize,
    pub(super) request: Subscribe,
    /// Why the client has it.
    pub(super) basis: Basis,
    /// Whether the client was ordered to be a member, and so leaves when the subscription ends.
    pub(super) is_member: bool,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    /// Not answered yet.
    Opening(Box<Opening>),
    /// Answered; what was missed after this position still goes out, a piece whenever the socket has drained.
    Replaying { after: Option<StreamPosition>, turn: Turn },
    /// Everything comes as it is published.
    Live,
}

/// Where the next piece of what was missed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It can be read.
    Ready,
    /// It is being read.
    Reading,
    /// It could not be had at this tick of the shard: not before the next one is it asked for again. The shard wakes the
    /// connection then.
    Resting(u64),
}

/// Whether a namespace knows who is on its channels.
///
/// # Errors
/// `bad_request`, with the setting that says so.
pub fn require_presence(namespace: &Namespace, channel: &ChannelName) -> Result<(), Refusal> {
    if namespace.presence {
        return Ok(());
    }
    let message = format!("presence is off: namespaces.{}.presence is false", channel.namespace());
    Err(Refusal::new(ErrorCode::BadRequest, message))
}

impl Session {
    /// Opens a subscription that may be.
    pub(super) fn attach(&self, Admission { asker, request, basis }: Admission) -> Result<(), Refusal> {
        let settings = self.ground.settings();
        let channel = request.channel.clone();
        let (name, namespace) = named_namespace(&settings, &channel)?;
        let attach = Attach {
            interest: Interest { channel: channel.clone(), history: namespace.history, presence: namespace.presence },
            namespace: name,
            slow_consumer: namespace.slow_consumer,
            flush_interval: namespace.flush_interval,
            echo: request.echo,
            presence: request.presence,
        };
        let (place, attached) = self.shard.hub().attach(&self.link, attach)?;
        let mut state = self.state.borrow_mut();
        let stage = Stage::Opening(Box::new(Opening::new(asker)));
        state.subscribed += 1;
        let number = state.subscribed;
        let has_end = matches!(&basis, Basis::ChannelToken(Some(lease)) if lease.ends_at_ms.is_some());
        let subscription = Box::new(Subscription { number, place, request, basis, is_member: false, stage });
        state.subscriptions.insert(channel.clone(), subscription);
        drop(state);
        if let Attached::At(position) = attached {
            self.attached(&channel, Ok(position));
        }
        if has_end {
            self.remind();
        }
        Ok(())
    }

    /// Returns when the subscription has been answered, or the connection is ending. For a connection that nobody serves
    /// yet: it takes the place of the one that is woken.
    ///
    /// # Cancel safety
    /// Cancel-safe: only looks.
    pub fn subscribed(&self, channel: &ChannelName) -> impl Future<Output = ()> {
        std::future::poll_fn(|cx| {
            self.link.register(cx);
            if self.is_opening(channel) && !self.link.is_closing() { Poll::Pending } else { Poll::Ready(()) }
        })
    }

    /// Returns when it has been found out who the client is, or the connection is ending. For a connection that nobody
    /// serves yet, as [`Session::subscribed`].
    ///
    /// # Cancel safety
    /// Cancel-safe: only looks.
    pub fn known(&self) -> impl Future<Output = ()> {
        std::future::poll_fn(|cx| {
            self.link.register(cx);
            let is_entering = self.state.borrow().entering.is_some();
            if is_entering && !self.link.is_closing() { Poll::Pending } else { Poll::Ready(()) }
        })
    }

    /// The channel is live on this shard, or could not be joined.
    pub fn attached(&self, channel: &ChannelName, outcome: Result<Option<StreamPosition>, SubscribeError>) {
        let position = match outcome {
            Ok(position) => position,
            Err(error) => return self.give_up(channel, error.into()),
        };
        let Some((since, presence)) = self.opening(channel, |opening, request| {
            opening.live_from = Part::Here(position);
            (request.since, request.presence)
        }) else {
            return;
        };
        let has_members = !self.is_passing.get()
            && namespace(&self.ground.settings(), channel).is_ok_and(|namespace| namespace.presence);
        if has_members && !self.link.is_closing() && !self.enter(channel, presence) {
            return;
        }
        match opening::recovery(since, position) {
            Recovery::Known(None) => {}
            Recovery::Known(Some(missed)) => {
                self.opening(channel, |opening, _| opening.missed = Part::Here(missed));
            }
            Recovery::Read(since) => {
                self.opening(channel, |opening, _| opening.missed = Part::Awaited);
                self.read_missed(channel, since);
            }
        }
        self.settle(channel);
    }

    /// Whether a subscription is not answered yet.
    pub(super) fn is_opening(&self, channel: &ChannelName) -> bool {
        let state = self.state.borrow();
        match state.subscriptions.get(channel) {
            Some(known) => matches!(known.stage, Stage::Opening(_)),
            None => state.asking.iter().any(|asking| asking.is_for(channel)),
        }
    }

    /// Changes a subscription that is not answered yet.
    fn opening<T>(&self, channel: &ChannelName, change: impl FnOnce(&mut Opening, &Subscribe) -> T) -> Option<T> {
        let mut state = self.state.borrow_mut();
        let Subscription { request, stage, .. } = state.subscriptions.get_mut(channel)?.as_mut();
        let Stage::Opening(opening) = stage else { return None };
        Some(change(opening, request))
    }

    /// Whether this is the subscription to the channel that the client has now.
    pub(super) fn is_subscription(&self, channel: &ChannelName, number: u64) -> bool {
        self.number_of(channel) == Some(number)
    }

    pub(super) fn number_of(&self, channel: &ChannelName) -> Option<u64> {
        self.state.borrow().subscriptions.get(channel).map(|subscription| subscription.number)
    }

    /// Makes the client a member. False if the subscription had to be given up.
    fn enter(&self, channel: &ChannelName, list: bool) -> bool {
        let Some(number) = self.number_of(channel) else { return false };
        let client = self.client();
        if list {
            self.opening(channel, |opening, _| opening.members = Part::Awaited);
        }
        let receipt = self.ask(Asked::Roll(number));
        let ordered = self.shard.relay().enter(channel.clone(), client.member(), client.serial, list, receipt);
        if let Err(overloaded) = ordered {
            self.forget(receipt);
            self.give_up(channel, overloaded.into());
            return false;
        }
        if let Some(subscription) = self.state.borrow_mut().subscriptions.get_mut(channel) {
            subscription.is_member = true;
        }
        true
    }

    /// Presence has answered.
    pub(super) fn entered(&self, channel: &ChannelName, outcome: Result<Option<MemberPage>, PresenceError>) {
        let asked_for_list =
            self.opening(channel, |opening, request| request.presence && matches!(opening.members, Part::Awaited));
        if asked_for_list != Some(true) {
            return;
        }
        let Some(place) = self.state.borrow().subscriptions.get(channel).map(|known| known.place) else { return };
        let members = match outcome {
            Ok(Some(page)) => {
                // The hub is borrowed for one call at a time.
                let page = self.shard.hub().follow_roll(channel, place, self.link.key(), page);
                if page.is_none() {
                    // Overtaken. One list is read again for all who wait for theirs, and follows unasked.
                    self.shard.hub().owe_roll(channel, place, self.link.key());
                }
                page
            }
            Ok(None) => None,
            // The backplane is away: subscribed all the same, without members. They follow, unasked.
            Err(PresenceError::Unavailable(_)) => {
                self.shard.hub().owe_roll(channel, place, self.link.key());
                None
            }
        };
        self.opening(channel, |opening, _| opening.members = Part::Here(members));
        self.settle(channel);
    }

    fn read_missed(&self, channel: &ChannelName, since: StreamPosition) {
        let Some(number) = self.number_of(channel) else { return };
        let query =
            HistoryQuery { since: Some(since), limit: PAGE_PUBLICATIONS, bytes: self.page_bytes(), followed: true };
        let receipt = self.ask(Asked::Missed(number));
        if let Err(overloaded) = self.shard.relay().history(channel.clone(), query, receipt) {
            self.forget(receipt);
            self.give_up(channel, overloaded.into());
        }
    }

    /// A page of what this client missed has come.
    pub(super) fn missed(&self, channel: &ChannelName, page: Result<HistoryPage, HistoryError>) {
        let replaying = match self.state.borrow().subscriptions.get(channel).map(|subscription| &subscription.stage) {
            Some(Stage::Opening(_)) => false,
            Some(Stage::Replaying { .. }) => true,
            Some(Stage::Live) | None => return,
        };
        match page {
            // It does not count as the client's backlog: when the socket has taken that, it is read again.
            Ok(_) if replaying && self.link.is_blocked() => self.take_turn(channel, Turn::Ready),
            Ok(page) if replaying => self.replay(channel, page),
            Ok(page) => {
                self.opening(channel, |opening, _| opening.missed = Part::Here(opening::missed(page)));
                self.settle(channel);
            }
            Err(_) if replaying => self.rest(channel),
            Err(error) => self.give_up(channel, error.into()),
        }
    }

    /// Answers the subscription if all of the answer is there.
    fn settle(&self, channel: &ChannelName) {
        let mut state = self.state.borrow_mut();
        let Some(subscription) = state.subscriptions.get_mut(channel).map(Box::as_mut) else { return };
        let Stage::Opening(opening) = &subscription.stage else { return };
        if !opening.is_settled() {
            return;
        }
        let asker = opening.asker;
        let Stage::Opening(opening) = std::mem::replace(&mut subscription.stage, Stage::Live) else { return };
        let request = subscription.request.clone();
        let (mut answer, more) = opening.answer(&request);
        if let Some(recovered) = answer.recovered {
            self.shard.figures().recovery(recovered);
        }
        subscription.stage = Stage::Replaying { after: answer.position, turn: Turn::Ready };
        drop(state);
        self.replaying.set(self.replaying.get() + 1);

        // Until the first of what was missed is out, the client stands where it said.
        let stood = match request.since {
            Some(Since::Position(since)) if answer.recovered == Some(true) => Some(since),
            _ => answer.position,
        };
        self.link.set_position(stood);
        match asker {
            // Without an id there is no reply, so what it would say is pushed.
            Asker::Command(id) if id.is_none() || !self.voice.carries_publications() => {
                let follow = std::mem::take(&mut answer.publications);
                if answer.recovered == Some(false) && id.is_none() {
                    let detail = GapDetail { missed: None, position: answer.position };
                    self.link.tell(&Push::Gap(channel.clone(), GapReason::Reset, detail));
                }
                self.reply(id, &Reply::Subscribed(answer));
                self.push_all(channel, follow);
                self.go_live(channel, more);
            }
            Asker::Command(id) => {
                self.leave_out_own(&request, &mut answer);
                self.reply(id, &Reply::Subscribed(answer));
                self.go_live(channel, more);
            }
            Asker::Api => {
                self.link.send(self.voice.reply(None, &Reply::Subscribed(answer)));
                self.go_live(channel, more);
            }
            Asker::Connect(place) => {
                self.leave_out_own(&request, &mut answer);
                if let Some(connecting) = &mut self.state.borrow_mut().connecting {
                    connecting.opened.push(Opened { place, channel: channel.clone(), stood, more });
                }
                self.settle_connect(place, Ok(answer));
                self.finish_connect();
            }
        }
    }

    fn leave_out_own(&self, request: &Subscribe, answer: &mut Subscribed) {
        let own = self.client().id;
        answer.publications.retain(|publication| opening::wants(request, &own, publication));
    }

    /// What is read of a history at once: it has to fit into the outbox.
    pub(super) fn page_bytes(&self) -> usize {
        REPLY_BYTES.min(self.ground.settings().limits.outbox_bytes / 2)
    }

    /// The subscription cannot be opened.
    fn give_up(&self, channel: &ChannelName, refusal: Refusal) {
        let Some(subscription) = self.drop_subscription(channel) else { return };
        if let Stage::Opening(opening) = subscription.stage {
            self.not_opened(opening.asker, channel, refusal);
        }
    }

    pub(super) fn not_opened(&self, asker: Asker, channel: &ChannelName, refusal: Refusal) {
        match asker {
            Asker::Command(id) => self.refuse(id, refusal),
            Asker::Api => tracing::debug!(%channel, code = %refusal.code, "an ordered subscription was not opened"),
            Asker::Connect(place) => {
                self.settle_connect(place, Err((channel.as_str().to_owned(), refusal)));
                self.finish_connect();
            }
        }
        // What was said behind it has waited for this.
        self.link.wake();
    }

    pub(super) fn unsubscribe(&self, id: Option<u64>, channel: &ChannelName) -> Result<(), Refusal> {
        let early = match self.drop_subscription(channel) {
            Some(Subscription { stage: Stage::Opening(opening), .. }) => Some(opening.asker),
            Some(_) => None,
            None => Some(
                self.withdraw(channel)
                    .ok_or_else(|| Refusal::new(ErrorCode::NotSubscribed, format!("not subscribed to {channel}")))?,
            ),
        };
        if let Some(asker) = early {
            let message = format!("unsubscribed from {channel} before the subscription was there");
            self.not_opened(asker, channel, Refusal::new(ErrorCode::NotSubscribed, message));
        }
        self.reply(id, &Reply::Unsubscribed(channel.clone()));
        Ok(())
    }

    /// Ends a subscription that the client would keep.
    pub fn end_subscription(&self, channel: &ChannelName, reason: &'static str) {
        let early = match self.drop_subscription(channel) {
            Some(Subscription { stage: Stage::Opening(opening), .. }) => Some(opening.asker),
            Some(_) => None,
            None => match self.withdraw(channel) {
                None => return,
                early => early,
            },
        };
        match early {
            Some(asker) => {
                let message = format!("the subscription to {channel} was ended before it was there ({reason})");
                self.not_opened(asker, channel, Refusal::new(ErrorCode::PermissionDenied, message));
            }
            None => self.link.tell(&Push::Unsubscribed(channel.clone(), reason)),
        }
    }

    /// Looks at the rights behind every subscription again. Those to publish are looked at with each publication.
    pub fn refresh(&self) {
        let settings = self.ground.settings();
        let may_stay = |channel: &ChannelName, basis: &Basis| {
            named_namespace(&settings, channel).is_ok_and(|(_, namespace)| {
                *basis != Basis::Right || self.with_standing(|who| may_subscribe(namespace, channel, who)).is_ok()
            })
        };
        let subscribed: Vec<_> = {
            let state = self.state.borrow();
            let mut all: Vec<_> =
                state.subscriptions.iter().map(|(name, known)| (name.clone(), known.basis.clone())).collect();
            all.extend(state.asking.iter().map(Asking::basis));
            all
        };
        for (channel, _) in subscribed.iter().filter(|(channel, basis)| !may_stay(channel, basis)) {
            self.end_subscription(channel, "permission");
        }
    }

    fn drop_subscription(&self, channel: &ChannelName) -> Option<Subscription> {
        let subscription = self.state.borrow_mut().subscriptions.remove(channel)?;
        self.shard.hub().detach(channel, subscription.place, self.link.key());
        if matches!(subscription.stage, Stage::Replaying { .. }) {
            self.replaying.set(self.replaying.get() - 1);
        }
        if subscription.is_member {
            let (client, grace) = (self.client(), std::time::Duration::ZERO);
            self.shard.relay().exit(channel.clone(), client.id, client.serial, grace);
        }
        Some(*subscription)
    }
}

//! The user's back end: asked before something happens (`connect`, `subscribe`, `publish`, `rpc`), told after it has.
//!
//! Imports `config`, `metrics`, `outbound` and the words of `proto`; knows no session and no shard. Calls run on the runtime
//! on which [`Webhooks::start`] was called, whoever waits for them. Who asks gets a decision within the hook's timeout in any
//! case; who tells never waits. Bodies are written down in `ask.rs` and `event.rs`, answers in `answer.rs`, how a back end knows
//! them for ours in `sign.rs`. Never logs what is in a body.

mod answer;
mod ask;
mod breaker;
mod complaints;
mod decide;
mod delivery;
mod event;
mod queue;
mod retry;
mod sign;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use skywave_proto::{ErrorCode, Payload};
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tracing::error;
use ulid::Ulid;

use self::{
    answer::Answer,
    ask::{Ask, Object},
    decide::{Desk, Failure},
    delivery::{Post, Route},
    sign::Letter,
};
pub use self::{
    answer::{Decision, HookRefusal, Welcome},
    ask::{ConnectAsk, PublishAsk, RpcAsk, SubscribeAsk},
    event::Event,
    sign::{SIGNATURE, WEBHOOK, WEBHOOK_ID},
};
use crate::{
    config::{DecideHook, WebhookSettings},
    metrics,
    outbound::{Outbound, OutboundUnavailable},
};

/// A hook that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Whether a client may connect.
    Connect,
    /// Whether it may subscribe.
    Subscribe,
    /// Whether it may publish.
    Publish,
    /// What its call is answered with.
    Rpc,
}

impl Hook {
    const ALL: [Self; 4] = [Self::Connect, Self::Subscribe, Self::Publish, Self::Rpc];
    /// The name of the hook that decides nothing.
    const EVENTS: &'static str = "events";

    /// Its name, in the settings and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Rpc => "rpc",
        }
    }

    fn settings(self, settings: &WebhookSettings) -> Option<&DecideHook> {
        match self {
            Self::Connect => settings.connect.as_ref(),
            Self::Subscribe => settings.subscribe.as_ref(),
            Self::Publish => settings.publish.as_ref(),
            Self::Rpc => settings.rpc.as_ref(),
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The bit of the events among those of the hooks.
const EVENTS_BIT: u8 = 1 << 4;
/// The same of those events that only the backplane knows of.
const MEMBERS_BIT: u8 = 1 << 5;

/// All hooks of a node. Cloning shares them.
#[derive(Clone)]
pub struct Webhooks(Arc<Office>);

struct Office {
    node: Arc<str>,
    runtime: Handle,
    /// Carries everything while no `webhooks.ca` is configured.
    outbound: Outbound,
    /// Which are configured: the one look that a node without webhooks pays for.
    configured: AtomicU8,
    desks: ArcSwap<Desks>,
    post: Arc<Post>,
    /// The task that delivers events, until somebody has waited for its end.
    delivering: Mutex<Option<JoinHandle<()>>>,
}

/// Hooks that can be put in force.
pub struct PreparedHooks {
    desks: Arc<Desks>,
    is_rerouted: bool,
}

/// The hooks that decide, as they are configured now.
struct Desks {
    settings: WebhookSettings,
    outbound: Outbound,
    /// In the order of [`Hook::ALL`].
    desks: [Option<Arc<Desk>>; Hook::ALL.len()],
}

impl Webhooks {
    /// Starts what brings events on their way, on the current runtime; there calls run, too. `outbound` carries all of it,
    /// unless `webhooks.ca` asks for one of their own. `node` is this node's name.
    pub fn start(settings: &WebhookSettings, outbound: Outbound, node: Arc<str>) -> Self {
        metrics::describe_webhooks(&Hook::ALL.map(Hook::as_str), Hook::EVENTS);
        let own = own_outbound(settings).unwrap_or_else(|error| {
            error!(%error, "webhooks.ca cannot be used: only the machine's authorities are trusted");
            None
        });
        let own = own.unwrap_or_else(|| outbound.clone());
        let post = Arc::new(Post::new(node.clone(), route(settings, &own)));
        let delivering = tokio::spawn(post.clone().deliver());
        Self(Arc::new(Office {
            node,
            runtime: Handle::current(),
            configured: AtomicU8::new(configured(settings)),
            outbound,
            desks: ArcSwap::from_pointee(Desks::new(settings, own, None)),
            post,
            delivering: Mutex::new(Some(delivering)),
        }))
    }

    /// Puts other settings in force, at once for what is asked from now on; what is under way ends as it began. Queued
    /// events go to the new address; if there is none, they are dead. A hook that stays the same keeps what it knows of its
    /// receiver.
    ///
    /// # Errors
    /// [`OutboundUnavailable`]: `webhooks.ca` is of no use, and nothing has changed.
    pub fn replace(&self, settings: &WebhookSettings) -> Result<(), OutboundUnavailable> {
        self.put_in_force(self.prepare(settings)?);
        Ok(())
    }

    /// What of [`Webhooks::replace`] takes time, or may fail. One at a time.
    ///
    /// # Errors
    /// As there.
    pub fn prepare(&self, settings: &WebhookSettings) -> Result<PreparedHooks, OutboundUnavailable> {
        let old = self.0.desks.load_full();
        if old.settings == *settings {
            return Ok(PreparedHooks { desks: old, is_rerouted: false });
        }
        let same_ca = old.settings.ca == settings.ca;
        let outbound = if same_ca {
            old.outbound.clone()
        } else {
            own_outbound(settings)?.unwrap_or_else(|| self.0.outbound.clone())
        };
        let is_rerouted = !same_ca || old.settings.events != settings.events;
        let desks = Arc::new(Desks::new(settings, outbound, same_ca.then_some(&*old)));
        Ok(PreparedHooks { desks, is_rerouted })
    }

    /// The rest: takes no time.
    pub fn put_in_force(&self, PreparedHooks { desks, is_rerouted }: PreparedHooks) {
        let configured = configured(&desks.settings);
        let route = is_rerouted.then(|| route(&desks.settings, &desks.outbound));
        self.0.desks.store(desks);
        self.0.configured.store(configured, Ordering::Release);
        if let Some(route) = route {
            self.0.post.replace(route);
        }
    }

    /// Whether a hook is configured, for channels of this namespace (its name in the settings) where there is one. Cheap:
    /// one atomic load where it is not.
    pub fn wants(&self, hook: Hook, namespace: Option<&str>) -> bool {
        if !self.is_configured(hook.bit()) {
            return false;
        }
        let desks = self.0.desks.load();
        let Some(desk) = desks.of(hook) else { return false };
        covers(&desk.settings().namespaces, namespace)
    }

    /// Whether anybody is told of events at all. Cheap: one atomic load.
    pub fn wants_events(&self) -> bool {
        self.is_configured(EVENTS_BIT)
    }

    /// Whether anybody is told who comes to channels and goes, or that one is occupied or vacated. Cheap: one atomic load.
    pub fn wants_members(&self) -> bool {
        self.is_configured(MEMBERS_BIT)
    }

    fn is_configured(&self, bit: u8) -> bool {
        self.0.configured.load(Ordering::Acquire) & bit != 0
    }

    /// Asks whether a client may connect. Without such a hook, and after a failure that counts as a yes: the empty
    /// [`Welcome`], whose `answered` is false.
    ///
    /// # Cancel safety
    /// As for all of these: dropping the future gives the answer up, not the call, which ends by its timeout.
    pub fn connect(&self, ask: ConnectAsk) -> impl Future<Output = Decision<Welcome>> + Send + use<> {
        self.decide(Hook::Connect, &ask, Welcome::default)
    }

    /// Asks whether a client may subscribe. Without such a hook: yes.
    pub fn subscribe(&self, ask: SubscribeAsk) -> impl Future<Output = Decision<()>> + Send + use<> {
        self.decide(Hook::Subscribe, &ask, || ())
    }

    /// Asks whether a client may publish; with a payload, it is that one. Without such a hook: yes. The caller checks the
    /// payload's size.
    pub fn publish(&self, ask: PublishAsk) -> impl Future<Output = Decision<Option<Payload>>> + Send + use<> {
        self.decide(Hook::Publish, &ask, || None)
    }

    /// Calls a method of the back end. Without such a hook: `not_found`. The caller checks the payload's size.
    ///
    /// # Errors
    /// What the client is told.
    pub fn rpc(&self, ask: RpcAsk) -> impl Future<Output = Result<Payload, HookRefusal>> + Send + use<> {
        let wanted = self.wants(Hook::Rpc, None);
        let decision = self.decide::<Option<Payload>, _>(Hook::Rpc, &ask, || None);
        async move {
            if !wanted {
                let message = "no back end answers calls here: set webhooks.rpc".to_owned();
                return Err(HookRefusal { code: ErrorCode::NotFound, message, after_ms: 0 });
            }
            match decision.await {
                Decision::Allow(payload) => {
                    Ok(payload.unwrap_or_else(|| Payload::json(bytes::Bytes::from_static(b"null"))))
                }
                Decision::Refuse(refusal) => Err(refusal),
            }
        }
    }

    /// The call is on its way when this returns.
    fn decide<A: Answer + Send + 'static, Q: Ask>(
        &self,
        hook: Hook,
        ask: &Q,
        otherwise: fn() -> A,
    ) -> impl Future<Output = Decision<A>> + Send + use<A, Q> {
        let call = self.0.desks.load().of(hook).cloned().map(|desk| {
            let start = Instant::now();
            let call = desk.enter().map(|place| {
                let id = Ulid::generate().to_string();
                let mut body = Object::body(hook.as_str(), &id, &self.0.node);
                ask.write(&mut body);
                let letter = Letter { hook: hook.as_str(), id, body: body.end() };
                let desk = desk.clone();
                self.0.runtime.spawn(async move {
                    let decision = desk.conclude(start, desk.ask(&letter, start).await, otherwise);
                    drop(place);
                    decision
                })
            });
            (desk, start, call)
        });
        async move {
            let Some((desk, start, call)) = call else { return Decision::Allow(otherwise()) };
            let failure = match call {
                Some(call) => match call.await {
                    Ok(decision) => return decision,
                    Err(_) => Failure::new("the call has ended with its runtime"),
                },
                None => Failure::new("too many calls are under way and waiting"),
            };
            desk.conclude(start, Err(failure), otherwise)
        }
    }

    /// Tells the back end what has happened, if it wants to know; `namespace` is that of the event's channel, as it is named
    /// in the settings. Never waits: the event is queued, or taken away by its opposite, or lost and counted.
    pub fn event(&self, event: Event, namespace: Option<&str>) {
        if self.wants_events() {
            self.0.post.put(event, namespace);
        }
    }

    /// At the node's end: takes no more events in and delivers what is queued, as far as `within` allows; the rest is counted
    /// as dead. Decisions are still made.
    ///
    /// # Cancel safety
    /// Not cancel-safe: what is queued then is delivered or not, and not counted.
    pub async fn close(&self, within: Duration) {
        self.0.post.leave();
        let Some(mut delivering) = self.0.delivering.lock().take() else { return };
        if timeout(within, &mut delivering).await.is_err() {
            delivering.abort();
            let _ = delivering.await; // it was cancelled
        }
        self.0.post.bury_rest();
    }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Webhooks").field(&self.0.desks.load().settings).finish()
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        if let Some(delivering) = self.delivering.lock().take() {
            delivering.abort();
        }
    }
}

impl Desks {
    /// `known`: an earlier state whose hooks are kept where their settings are the same.
    fn new(settings: &WebhookSettings, outbound: Outbound, known: Option<&Self>) -> Self {
        let desks = Hook::ALL.map(|hook| {
            let configured = hook.settings(settings)?;
            let same = known.and_then(|known| known.of(hook)).filter(|desk| desk.settings() == configured);
            Some(same.cloned().unwrap_or_else(|| Arc::new(Desk::new(hook, configured, outbound.clone()))))
        });
        Self { settings: settings.clone(), outbound, desks }
    }

    fn of(&self, hook: Hook) -> Option<&Arc<Desk>> {
        self.desks[hook as usize].as_ref()
    }
}

fn configured(settings: &WebhookSettings) -> u8 {
    let decide = Hook::ALL.into_iter().filter(|hook| hook.settings(settings).is_some());
    let events = settings.events.as_ref().map_or(0, |hook| {
        if hook.types.iter().any(|kind| kind.is_of_members()) { EVENTS_BIT | MEMBERS_BIT } else { EVENTS_BIT }
    });
    decide.fold(events, |bits, hook| bits | hook.bit())
}

fn route(settings: &WebhookSettings, outbound: &Outbound) -> Option<Route> {
    settings.events.clone().map(|settings| Route { settings, outbound: outbound.clone() })
}

/// Whether a hook that is limited to these namespaces concerns this one.
fn covers(namespaces: &[String], namespace: Option<&str>) -> bool {
    namespaces.is_empty() || namespace.is_none_or(|namespace| namespaces.iter().any(|name| name == namespace))
}

/// Where `webhooks.ca` asks for one.
fn own_outbound(settings: &WebhookSettings) -> Result<Option<Outbound>, OutboundUnavailable> {
    settings.ca.as_ref().map(|ca| Outbound::new(Some(ca.pem()))).transpose()
}

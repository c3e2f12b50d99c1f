//! The task that drives a client: makes its connections, carries out orders, hands over what comes.
//!
//! It waits for nobody who reads: what does not fit into a subscription's queue is left to the channel's history.

mod desk;
mod place;

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use skywave_proto::v1;
use tokio::{
    select,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use self::desk::{Desk, Heard};
use crate::{
    builder::{Builder, TokenError},
    connection::{self, NoConnection, Socket},
    error::{ClientError, Refusal},
    event::Connection,
    order::Order,
    pacing::rest,
    speech,
};

/// How long the answer to `connect`, a token, or a write may take, and the answer to a ping.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a close may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// When of a token's time another is asked for.
const RENEW_AT: f64 = 0.8;

/// See the module.
pub(crate) struct Driver {
    builder: Arc<Builder>,
    orders: mpsc::Receiver<Order>,
    desk: Desk,
    connection: watch::Sender<Connection>,
    /// Told once the client is in for the first time, or never will be.
    ready: Option<oneshot::Sender<Result<(), ClientError>>>,
}

/// How a connection, or the wait for one, ended.
enum End {
    /// The client was closed here, or nobody holds it any more.
    Left(Option<oneshot::Sender<()>>),
    /// The node wants it not to come back.
    Final(ClientError),
    /// The connection is gone, or there was none.
    Lost(NoConnection),
    /// It was given up, to make another at once.
    Again,
}

impl From<NoConnection> for End {
    fn from(lost: NoConnection) -> Self {
        Self::Lost(lost)
    }
}

fn why(end: &End) -> String {
    match end {
        End::Left(_) => "it was closed".to_owned(),
        End::Final(error) => error.to_string(),
        End::Lost(lost) => lost.words.clone(),
        End::Again => "it was given up".to_owned(),
    }
}

fn left() -> ClientError {
    ClientError::Ended("it was closed".into())
}

fn lost(words: impl Into<String>) -> End {
    End::Lost(NoConnection::new(words))
}

impl Driver {
    pub(crate) fn new(
        builder: Builder,
        orders: mpsc::Receiver<Order>,
        ready: oneshot::Sender<Result<(), ClientError>>,
        connection: watch::Sender<Connection>,
    ) -> Self {
        Self { builder: Arc::new(builder), orders, desk: Desk::default(), connection, ready: Some(ready) }
    }

    /// Until the client ends.
    pub(crate) async fn run(mut self) {
        let first_until = Instant::now() + self.builder.within;
        let (mut attempt, mut number) = (0, rand::random_range(0..self.builder.addresses.len()));
        loop {
            let Err(end) = self.connection(number).await;
            if self.desk.leave() {
                attempt = 0;
                self.connection.send_replace(Connection::Down { why: why(&end).into() });
            } else {
                number += 1;
            }
            let pause = match end {
                End::Again => Duration::ZERO,
                End::Lost(lost) => {
                    tracing::debug!(why = %lost.words, attempt, "no connection to the node");
                    let is_first_round = self.ready.is_some() && (attempt as usize + 1) < self.builder.addresses.len();
                    if is_first_round {
                        attempt += 1;
                        continue;
                    }
                    if self.ready.is_some() && (lost.is_hopeless || Instant::now() >= first_until) {
                        return self.end(ClientError::Unreachable(lost.words.into()), None);
                    }
                    rest(attempt, lost.after, rand::random())
                }
                End::Left(done) => return self.end(left(), done),
                End::Final(error) => return self.end(error, None),
            };
            attempt += 1;
            match self.while_taking_orders(sleep(pause)).await {
                Ok(()) | Err(End::Again | End::Lost(_)) => {}
                Err(End::Left(done)) => return self.end(left(), done),
                Err(End::Final(error)) => return self.end(error, None),
            }
        }
    }

    /// Tells whoever waits why it is over.
    fn end(mut self, error: ClientError, done: Option<oneshot::Sender<()>>) {
        self.desk.fail_all(&error);
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(error)); // who no longer waits need not know
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    /// Does something while orders are taken in, and waits with those that need a connection.
    async fn while_taking_orders<T>(&mut self, what: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(what);
        loop {
            select! {
                done = &mut what => return Ok(done),
                order = self.orders.recv(), if self.desk.has_room() => self.take(order)?,
            }
        }
    }

    fn take(&mut self, order: Option<Order>) -> Result<(), End> {
        match order {
            None => return Err(End::Left(None)),
            Some(Order::Close(done)) => return Err(End::Left(Some(done))),
            Some(Order::Reconnect) => return Err(End::Again),
            Some(Order::Subscribe(opening)) => self.desk.subscribe(*opening),
            Some(Order::Unsubscribe { channel, number }) => self.desk.unsubscribe(&channel, number),
            Some(Order::CatchUp { channel, number }) => self.desk.catch_up(&channel, number),
            Some(Order::Ask(ask)) => self.desk.ask(ask),
        }
        Ok(())
    }

    /// One connection, from its opening to its end.
    async fn connection(&mut self, number: usize) -> Result<std::convert::Infallible, End> {
        let builder = self.builder.clone();
        let opening = async move {
            let token = fetch(&builder).await?;
            Ok::<_, NoConnection>((connection::open(&builder, number).await?, token))
        };
        let (mut socket, token) = self.while_taking_orders(opening).await??;
        let connect = self.desk.connect(&self.builder, token);
        write(&mut socket, &[connect]).await?;
        let Err(end) = self.serve(&mut socket).await;
        if let End::Left(_) | End::Again = &end {
            // 1000 is a leave at once; who comes back at once has not left.
            let code = if matches!(end, End::Left(_)) { CloseCode::Normal } else { CloseCode::Library(4000) };
            let close = socket.close(Some(CloseFrame { code, reason: "".into() }));
            let _ = timeout(CLOSE_WITHIN, close).await; // nobody waits for who does not answer
            if matches!(end, End::Left(_)) {
                let _ = timeout(CLOSE_WITHIN, async { while let Some(Ok(_)) = socket.next().await {} }).await;
            }
        }
        Err(end)
    }

    async fn serve(&mut self, socket: &mut Socket) -> Result<std::convert::Infallible, End> {
        let mut heard_at = Instant::now();
        let mut ping_interval = PATIENCE;
        let mut has_asked = false; // whether it is still there
        let mut renew_at: Option<Instant> = None;
        let mut renewal: Option<oneshot::Receiver<Result<String, NoConnection>>> = None;
        let mut refusal: Option<Refusal> = None;
        let mut farewell: Option<v1::Disconnect> = None;
        loop {
            if !self.desk.out.is_empty() {
                let out = std::mem::take(&mut self.desk.out);
                write(socket, &out).await?;
            }
            let silent_at = heard_at + if has_asked { ping_interval + PATIENCE } else { ping_interval };
            let alarm = [Some(silent_at), renew_at, self.desk.due()].into_iter().flatten().min().unwrap_or(silent_at);
            let message = select! {
                message = socket.next() => message,
                order = self.orders.recv(), if self.desk.has_room() => {
                    self.take(order)?;
                    continue;
                }
                token = async { renewal.as_mut()?.await.ok() }, if renewal.is_some() => {
                    renewal = None;
                    match token {
                        Some(Ok(token)) => self.desk.refresh(token),
                        _ => renew_at = Some(Instant::now() + PATIENCE), // and if it never comes, the connection ends
                    }
                    continue;
                }
                () = sleep_until(alarm) => {
                    let now = Instant::now();
                    self.desk.retry(now);
                    if renew_at.is_some_and(|at| at <= now) {
                        renew_at = None;
                        renewal = Some(self.renew());
                    }
                    if silent_at <= now {
                        if has_asked || !self.desk.is_in() {
                            return Err(lost("the node is silent"));
                        }
                        has_asked = true;
                        self.desk.ping();
                    }
                    continue;
                }
            };
            (heard_at, has_asked) = (Instant::now(), false);
            let replies = match message {
                Some(Ok(Message::Binary(bytes))) => speech::decode(bytes),
                Some(Ok(Message::Close(frame))) => return Err(ended(frame, farewell, refusal)),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(lost(error.to_string())),
                None => return Err(ended(None, farewell, refusal)),
            };
            for reply in replies {
                match self.desk.hear(reply) {
                    Heard::Nothing => {}
                    Heard::In { client, node, ping, ends } => {
                        self.connection.send_replace(Connection::Up { client, node });
                        ping_interval = ping;
                        renew_at =
                            ends.filter(|_| self.builder.renews()).map(|ends| Instant::now() + ends.mul_f64(RENEW_AT));
                        if let Some(ready) = self.ready.take() {
                            let _ = ready.send(Ok(())); // who no longer waits has dropped the client too
                        }
                    }
                    Heard::Renewed { ends } => {
                        renew_at = ends.map(|ends| Instant::now() + ends.mul_f64(RENEW_AT));
                    }
                    Heard::Refused(error) => refusal = Some(error),
                    Heard::Disconnect(told) => farewell = Some(told),
                }
            }
        }
    }

    fn renew(&self) -> oneshot::Receiver<Result<String, NoConnection>> {
        let (done, renewal) = oneshot::channel();
        let builder = self.builder.clone();
        tokio::spawn(async move {
            let token = fetch(&builder).await.and_then(|token| token.ok_or_else(|| NoConnection::new("no token")));
            let _ = done.send(token); // the connection may be gone meanwhile
        });
        renewal
    }
}

async fn fetch(builder: &Builder) -> Result<Option<String>, NoConnection> {
    let failed = |error: TokenError| NoConnection::new(format!("no token: {error}"));
    match timeout(PATIENCE, builder.next_token()).await {
        Ok(token) => token.map_err(failed),
        Err(_) => Err(NoConnection::new(format!("no token within {} s", PATIENCE.as_secs()))),
    }
}

async fn write(socket: &mut Socket, commands: &[v1::Command]) -> Result<(), End> {
    // A message holds at most so many commands.
    for commands in commands.chunks(256) {
        let sent = timeout(PATIENCE, socket.send(Message::Binary(speech::encode(commands)))).await;
        sent.map_err(|_| lost("the node takes nothing"))?.map_err(|error| lost(error.to_string()))?;
    }
    Ok(())
}

/// What a close means: 4500 to 4999 do not come back, nor does whoever was told so.
fn ended(frame: Option<CloseFrame>, farewell: Option<v1::Disconnect>, refusal: Option<Refusal>) -> End {
    let code = frame.as_ref().map(|frame| u16::from(frame.code));
    let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
    if code.is_some_and(|code| (4500..5000).contains(&code)) || farewell.as_ref().is_some_and(|told| !told.reconnect) {
        return End::Final(refusal.map_or_else(|| ClientError::Ended(reason.into()), ClientError::Refused));
    }
    let after = farewell.map(|told| Duration::from_millis(told.after_ms)).or(refusal.map(|refusal| refusal.after));
    let after = after.filter(|after| !after.is_zero()); // it has not said when
    End::Lost(NoConnection { words: format!("closed with {code:?} {reason}"), after, is_hopeless: false })
}

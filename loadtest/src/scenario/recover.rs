//! The client library over connections that are given up all the time: what is counted is what code that uses it sees.
//!
//! Every publication of each channel is held against what each subscription handed over, as in [`roll`](super::roll), which
//! speaks the protocols itself and judges the nodes. Here a gap is a failure, too: the history holds everything.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use indicatif::ProgressBar;
use skywave_client::{Client, ClientError, Connection, Event, Payload, SubscribeOptions, Subscription};
use tokio::{
    select,
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};

use super::{
    Access, SPARE_FILES, ScenarioError, check_files,
    crew::{LOOK, on_this_thread, spawn},
    heap,
    meter::{Meter, RECEIVING, Servers},
    stop,
};
use crate::{
    pace::Pace,
    report::{
        Generator,
        rolling::{Acknowledged, Party, Rolling, Thresholds, add},
    },
    spread::Spread,
    stamp::{Clock, Stamp, run_id},
    tally::{Arrival, Sent, Tally},
};

/// The window in which nobody should come back in heaps, in nanoseconds.
const HEAP: u64 = 100_000_000;
/// How the clients are called in the report.
const KIND: &str = "library";
/// The first connection may take so long.
const FIRST_WITHIN: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to get in.
    pub access: Access,
    /// Clients.
    pub clients: usize,
    /// Channels.
    pub channels: usize,
    /// How their names begin; the namespace must have a history that holds what is published while a client is away.
    pub channel: String,
    /// Channels of each client.
    pub subscriptions: usize,
    /// Publications a second, over all channels.
    pub rate: f64,
    /// For how long, unless a signal ends it.
    pub duration: Duration,
    /// How often a connection is given up, on the average.
    pub every: Duration,
    /// Bytes of JSON in each publication.
    pub size: usize,
    /// How long nothing may happen after the last publication until what is missing is given up.
    pub patience: Duration,
    /// What fails the run.
    pub thresholds: Thresholds,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            clients: 100,
            channels: 10,
            channel: "recover-".to_owned(),
            subscriptions: 2,
            rate: 50.0,
            duration: Duration::from_secs(10),
            every: Duration::from_secs(2),
            size: 128,
            patience: Duration::from_secs(10),
            thresholds: Thresholds::default(),
        }
    }
}

/// What everybody has to know.
struct Task {
    settings: Settings,
    run: String,
    clock: Clock,
    channels: Vec<String>,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// Clients that are in, and what they have got, each publication once for each subscription.
    present: AtomicU64,
    delivered: AtomicU64,
}

/// What the clients of a thread met.
#[derive(Default)]
struct Notes {
    connect: Spread,
    away: Spread,
    delivery: Spread,
    /// When each came back. Bound: the run's length by how often connections are given up.
    returns: Vec<u64>,
    wrong: BTreeMap<String, u64>,
    foreign: u64,
    /// By channel.
    books: Vec<(usize, Tally)>,
}

/// Runs the scenario. `bar` shows how far it is.
///
/// # Errors
/// [`ScenarioError`] if it could not be run at all, also if a client never got in.
pub fn run(settings: &Settings, bar: &ProgressBar) -> Result<Rolling, ScenarioError> {
    let pace = check(settings)?;
    let run = run_id();
    let task = Arc::new(Task {
        channels: (0..settings.channels).map(|n| format!("{}{run}-{n}", settings.channel)).collect(),
        run,
        clock: Clock::start(),
        tls: settings.access.trusted()?,
        settings: settings.clone(),
        present: AtomicU64::new(0),
        delivered: AtomicU64::new(0),
    });
    let is_stopped = stop::listen()?;
    let (over, is_over) = watch::channel(false);
    let threads = settings.access.threads;
    let mut receiving = Vec::new();
    for thread in 0..threads {
        let (task, is_over) = (task.clone(), is_over.clone());
        let members: Vec<usize> = (thread..settings.clients).step_by(threads).collect();
        receiving
            .push(spawn(format!("{RECEIVING}-{thread}"), move || on_this_thread(|| receive(task, members, is_over)))?);
    }
    bar.set_message("connecting");
    bar.set_length(settings.clients as u64);
    let is_broken = || receiving.iter().any(thread::JoinHandle::is_finished);
    while task.present.load(Relaxed) < settings.clients as u64 && !is_broken() {
        bar.set_position(task.present.load(Relaxed));
        thread::park_timeout(LOOK);
    }
    let nobody = Servers { pids: Vec::new() };
    let meter = Meter::start(&nobody, &[]);
    let mut published = Published::default();
    if !is_broken() {
        bar.set_message("publishing");
        bar.set_length(settings.duration.as_secs());
        let speaker = task.clone();
        let publishing =
            spawn("load-publish".to_owned(), move || on_this_thread(|| publish(speaker, pace, is_stopped)))?;
        while !publishing.is_finished() && !is_broken() {
            bar.set_position(meter.began().elapsed().as_secs());
            thread::park_timeout(LOOK);
        }
        published = publishing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        bar.set_message("waiting");
        await_all(&task, &published);
    }
    let missing = (settings.clients as u64).saturating_sub(task.present.load(Relaxed));
    let (wall, own) = (meter.began().elapsed(), meter.own());
    let _ = over.send(true);
    bar.finish_and_clear();
    let mut notes = Vec::new();
    for thread in receiving {
        notes.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
    }
    let generator = Generator::new(&own, RECEIVING, threads, wall);
    Ok(closed(settings, published, notes, missing, generator))
}

fn check(settings: &Settings) -> Result<Pace, ScenarioError> {
    let Settings { access, clients, channels, subscriptions, rate, duration, every, size, .. } = settings;
    access.check(*clients)?;
    check_files(*clients as u64 + SPARE_FILES)?;
    let usage = |what: &str| Err(ScenarioError::Usage(what.to_owned()));
    if *channels == 0 || *subscriptions == 0 || subscriptions > channels {
        return usage("--channels must be at least 1, and --subscriptions not more than that");
    }
    if access.deflate || access.processes > 1 || !access.server_pids.is_empty() {
        return usage("--deflate, --processes and --server-pid do not go with this load");
    }
    if every.is_zero() {
        return usage("--every must not be zero");
    }
    if *size < Stamp::MIN_SIZE {
        return usage(&format!("--size must be at least {}", Stamp::MIN_SIZE));
    }
    Pace::new(*rate, *duration)
        .ok_or_else(|| ScenarioError::Usage("--rate must be a positive number, --duration not zero".to_owned()))
}

impl Task {
    /// Client `n`, connected.
    async fn client(&self, n: usize) -> Result<Client, ScenarioError> {
        let urls = &self.settings.access.urls;
        let mut builder = Client::builder(&urls[n % urls.len()]).within(FIRST_WITHIN);
        for other in 1..urls.len() {
            builder = builder.or(&urls[(n + other) % urls.len()]);
        }
        if let Some(token) = &self.settings.access.token {
            builder = builder.token(token);
        }
        if let Some(tls) = &self.tls {
            builder = builder.tls(tls.clone());
        }
        builder.connect().await.map_err(|error| not_in(&error))
    }

    /// Until a connection is given up next: spread evenly around its time, so that nobody does it together.
    fn rest(&self) -> Duration {
        self.settings.every.mul_f64(rand::random_range(0.0..2.0))
    }

    fn now(&self) -> u64 {
        self.clock.now()
    }
}

fn not_in(error: &ClientError) -> ScenarioError {
    let advice = match error {
        ClientError::Unreachable(_) => "start a node with `skywave`, or correct --url",
        ClientError::Refused(_) => "give a --token that may do that, or another --channel",
        _ => "see the node's log",
    };
    ScenarioError::Elsewhere { words: error.to_string(), advice: Some(advice.to_owned()) }
}

/// One thread's clients, until the run is over; the first that never gets in ends it.
async fn receive(task: Arc<Task>, members: Vec<usize>, is_over: watch::Receiver<bool>) -> Result<Notes, ScenarioError> {
    let entering = Semaphore::new(task.settings.access.connecting_per_thread());
    let members = members.into_iter().map(|n| member(&task, n, &entering, is_over.clone()));
    let mut all = Notes::default();
    for notes in join_all(members).await {
        all.merge(notes?);
    }
    Ok(all)
}

async fn member(
    task: &Task,
    n: usize,
    entering: &Semaphore,
    is_over: watch::Receiver<bool>,
) -> Result<Notes, ScenarioError> {
    let mut notes = Notes::default();
    let place = entering.acquire().await;
    let began = task.now();
    let client = task.client(n).await?;
    let mut subscriptions = Vec::new();
    for channel in (n..n + task.settings.subscriptions).map(|channel| channel % task.channels.len()) {
        let name = &task.channels[channel];
        subscriptions.push((channel, client.subscribe(name).await.map_err(|error| not_in(&error))?));
    }
    drop(place);
    notes.connect.record(task.now() - began);
    task.present.fetch_add(1, Relaxed);
    let reading = join_all(subscriptions.into_iter().map(|(channel, from)| read(task, channel, from, is_over.clone())));
    let (read, unrest) = tokio::join!(reading, unrest(task, &client, is_over.clone()));
    client.close().await;
    read.into_iter().for_each(|some| notes.merge(some));
    notes.merge(unrest);
    Ok(notes)
}

/// Keeps the books of a subscription.
async fn read(task: &Task, channel: usize, mut from: Subscription, mut is_over: watch::Receiver<bool>) -> Notes {
    let (mut notes, mut tally) = (Notes::default(), Tally::new(1));
    loop {
        let event = select! {
            event = from.next() => event,
            _ = is_over.wait_for(|over| *over) => break,
        };
        let publication = match event {
            Some(Event::Publication(publication)) => publication,
            Some(Event::Gap(gap)) => {
                notes.wrong(format!("gap {}", gap.reason));
                continue;
            }
            Some(Event::Ended(refusal)) => {
                notes.wrong(format!("ended: {refusal}"));
                break;
            }
            Some(_) => continue,
            None => break,
        };
        if let Some(position) = publication.position {
            tally.stood_at(Some(position.epoch.as_str()), position.offset);
        }
        match serde_json::from_slice::<Stamp<'_>>(publication.payload.data()) {
            Ok(stamp) if stamp.run == task.run && stamp.from as usize == channel => {
                notes.delivery.record(task.now().saturating_sub(stamp.due));
                let is_double = tally.arrived(0, stamp.seq) == Some(Arrival::Doubled);
                task.delivered.fetch_add(u64::from(!is_double), Relaxed);
            }
            _ => notes.foreign += 1,
        }
    }
    notes.books.push((channel, tally));
    notes
}

/// Gives the connection up again and again, and sees the client come back.
async fn unrest(task: &Task, client: &Client, mut is_over: watch::Receiver<bool>) -> Notes {
    let (mut notes, mut left) = (Notes::default(), None);
    let mut connection = client.connection();
    let mut next = Instant::now() + task.rest();
    loop {
        select! {
            _ = is_over.wait_for(|over| *over) => break,
            changed = connection.changed() => {
                if changed.is_err() {
                    break; // the subscription says why
                }
                let is_up = matches!(*connection.borrow_and_update(), Connection::Up { .. });
                match (is_up, left) {
                    (false, None) => {
                        task.present.fetch_sub(1, Relaxed);
                        left = Some(task.now());
                    }
                    (true, Some(since)) => {
                        let now = task.now();
                        notes.away.record(now - since);
                        notes.returns.push(now);
                        task.present.fetch_add(1, Relaxed);
                        left = None;
                    }
                    _ => {}
                }
            }
            () = tokio::time::sleep_until(next) => {
                client.reconnect().await;
                next = Instant::now() + task.rest();
            }
        }
    }
    notes
}

/// What was published.
#[derive(Default)]
struct Published {
    sent: Vec<Sent>,
    acknowledged: u64,
    duplicates: u64,
    failures: BTreeMap<String, u64>,
    answer: Spread,
    lateness: Spread,
}

/// One client publishes to all channels, on schedule, and gives its connection up as the others do.
async fn publish(task: Arc<Task>, pace: Pace, is_stopped: watch::Receiver<bool>) -> Result<Published, ScenarioError> {
    let client = task.client(0).await?;
    // Who publishes may have to be subscribed. Nothing comes of it: all there is are its own.
    let mut seats = Vec::new();
    for channel in &task.channels {
        let seat = client.subscribe_with(channel, SubscribeOptions::default().without_echo()).await;
        seats.push(seat.map_err(|error| not_in(&error))?);
    }
    let began = task.now();
    let channels =
        (0..task.channels.len()).map(|channel| speak(&task, &client, channel, pace, began, is_stopped.clone()));
    let unrest = async {
        loop {
            sleep(task.rest()).await;
            client.reconnect().await;
        }
    };
    let spoken = select! {
        spoken = join_all(channels) => spoken,
        () = unrest => Vec::new(),
    };
    client.close().await;
    let mut all = Published::default();
    for Published { sent, acknowledged, duplicates, failures, answer, lateness } in spoken {
        all.sent.extend(sent);
        all.acknowledged += acknowledged;
        all.duplicates += duplicates;
        add(&mut all.failures, failures);
        all.answer.merge(&answer);
        all.lateness.merge(&lateness);
    }
    Ok(all)
}

async fn speak(
    task: &Task,
    client: &Client,
    channel: usize,
    pace: Pace,
    began: u64,
    mut is_stopped: watch::Receiver<bool>,
) -> Published {
    let mut published = Published::default();
    let mut sent = Sent::default();
    let mut payload = String::new();
    while let Some(due) = pace.due(channel as u64 + sent.count * task.channels.len() as u64) {
        let due = began + due;
        let wait = Duration::from_nanos(due.saturating_sub(task.now()));
        select! {
            () = sleep(wait) => {}
            _ = is_stopped.wait_for(|stopped| *stopped) => break,
        }
        let now = task.now();
        published.lateness.record(now.saturating_sub(due));
        payload.clear();
        let from = u32::try_from(channel).unwrap_or(u32::MAX);
        Stamp { run: &task.run, from, seq: sent.count, due, sent: now }.write(task.settings.size, &mut payload);
        let payload = Payload::json(bytes::Bytes::copy_from_slice(payload.as_bytes()));
        match client.publish(&task.channels[channel], payload).await {
            Ok(told) => {
                published.acknowledged += 1;
                published.duplicates += u64::from(told.is_duplicate);
                published.answer.record(task.now() - now);
            }
            Err(error) => {
                sent.refused.push(sent.count);
                *published.failures.entry(error.to_string()).or_default() += 1;
            }
        }
        sent.count += 1;
    }
    published.sent.push(sent);
    published
}

/// Waits until everything has arrived and everybody is in, or nothing has happened for a while.
fn await_all(task: &Task, published: &Published) {
    let Settings { clients, subscriptions, channels, patience, .. } = task.settings;
    let places = |channel: usize| {
        (0..clients)
            .filter(|n| (n % channels..n % channels + subscriptions).any(|seat| seat % channels == channel))
            .count()
    };
    let wanted = |(channel, sent): (usize, &Sent)| (sent.count - sent.refused.len() as u64) * places(channel) as u64;
    let expected: u64 = published.sent.iter().enumerate().map(wanted).sum();
    let pulse = || (task.present.load(Relaxed), task.delivered.load(Relaxed));
    let (mut before, mut changed) = (pulse(), std::time::Instant::now());
    while changed.elapsed() < patience {
        let now = pulse();
        if now.0 == clients as u64 && now.1 >= expected {
            return;
        }
        if now.1 != before.1 {
            (before, changed) = (now, std::time::Instant::now());
        }
        thread::park_timeout(LOOK);
    }
}

impl Notes {
    fn wrong(&mut self, what: String) {
        *self.wrong.entry(what).or_default() += 1;
    }

    fn merge(&mut self, other: Self) {
        self.connect.merge(&other.connect);
        self.away.merge(&other.away);
        self.delivery.merge(&other.delivery);
        self.returns.extend(other.returns);
        add(&mut self.wrong, other.wrong);
        self.foreign += other.foreign;
        self.books.extend(other.books);
    }
}

/// Closes the books of all, and judges.
fn closed(
    settings: &Settings,
    published: Published,
    threads: Vec<Notes>,
    missing: u64,
    generator: Generator,
) -> Rolling {
    let mut notes = Notes::default();
    threads.into_iter().for_each(|some| notes.merge(some));
    let mut party = Party { clients: settings.clients as u64, ..Party::default() };
    for (channel, tally) in &notes.books {
        let sent = published.sent.get(*channel).cloned().unwrap_or_default();
        party.deliveries += tally.close(&[sent]);
    }
    Rolling {
        scenario: "recover",
        urls: settings.access.urls.clone(),
        channel: settings.channel.clone(),
        channels: settings.channels,
        clients: settings.clients,
        rate: settings.rate,
        size: settings.size,
        publications: Acknowledged {
            sent: published.sent.iter().map(|sent| sent.count).sum(),
            acknowledged: published.acknowledged,
            duplicates: published.duplicates,
            failures: published.failures,
            answer: published.answer.percentiles(),
            lateness: published.lateness.percentiles(),
            ..Acknowledged::default()
        },
        connect: notes.connect.percentiles(),
        away: notes.away.percentiles(),
        delivery: notes.delivery.percentiles(),
        parties: BTreeMap::from([(KIND, party)]),
        reconnects: notes.returns.len() as u64,
        largest_heap: heap::largest(&mut notes.returns, HEAP),
        wrong: notes.wrong,
        foreign: notes.foreign,
        missing,
        thresholds: settings.thresholds.clone(),
        generator,
        ..Rolling::default()
    }
    .judged()
}

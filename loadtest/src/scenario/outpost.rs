//! Clients in another process, where one has not files enough for all of them.
//!
//! The other process is this program again. It gets its orders as lines of JSON on its standard input and tells what
//! happens as lines of JSON on its standard output; its clients only listen, so that everything is published from one
//! place and by one clock. It ends when its input does, so it never outlives us.

use std::{
    env,
    io::{self, BufRead as _, BufReader},
    ops::Range,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Orders, Progress, ScenarioError,
    crew::{Crew, spawn},
    ledger::{Gathered, Ledger},
};

/// The name of the subcommand that [`serve`]s. Nobody is meant to type it.
pub const SUBCOMMAND: &str = "outpost";
/// How often the counters are told, if they changed. A closed loop waits for them.
const TELL: Duration = Duration::from_millis(1);
/// Bound on the orders that wait. There are three in a run.
const ORDERS: usize = 8;

/// What an outpost is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// First, and once: these clients of this run.
    Begin(Box<Orders>, Range<usize>),
    /// Those who stall read again.
    Resume,
    /// Leave, and close the books with what was sent.
    Over(Ledger),
}

/// What an outpost tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum News {
    /// What its counters show.
    Counts(Counts),
    /// It could not do what it was told.
    Failed {
        /// Why.
        words: String,
        /// What to do next.
        advice: Option<String>,
    },
    /// All that it gathered; the last thing it says.
    Gathered(Box<Gathered>),
}

/// How many publications there are is known only where they are written; here so many are believed in. Bound on what is kept
/// of when each arrived: 8 bytes for each.
const BELIEVED: u64 = 1 << 24;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    connected: u64,
    delivered: u64,
    frames: u64,
    ended: u64,
}

impl Counts {
    fn of(progress: &Progress) -> Self {
        Self {
            connected: progress.connected.load(Relaxed),
            delivered: progress.delivered(),
            frames: progress.frames.load(Relaxed),
            ended: progress.ended.load(Relaxed),
        }
    }

    /// Adds what is new since `before` to counters of ours.
    fn add_since(&self, before: &Self, progress: &Progress) {
        let add = |counter: &AtomicU64, now: u64, before: u64| counter.fetch_add(now.saturating_sub(before), Relaxed);
        add(&progress.connected, self.connected, before.connected);
        add(&progress.frames, self.frames, before.frames);
        add(&progress.ended, self.ended, before.ended);
        progress.add_delivered(self.delivered.saturating_sub(before.delivered));
    }
}

/// One other process, seen from here.
#[derive(Debug)]
pub(super) struct Outpost {
    child: Child,
    orders: ChildStdin,
    hearing: JoinHandle<Result<Gathered, ScenarioError>>,
}

impl Outpost {
    /// Starts it; these clients connect at once, and count in `progress`.
    ///
    /// # Errors
    /// The process cannot be had.
    pub(super) fn start(
        orders: &Orders,
        members: Range<usize>,
        progress: Arc<Progress>,
    ) -> Result<Self, ScenarioError> {
        let program = env::current_exe().map_err(ScenarioError::Start)?;
        let mut child = Command::new(program)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(ScenarioError::Start)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(ScenarioError::Start(io::ErrorKind::BrokenPipe.into()));
        };
        let hearing = spawn("outpost".to_owned(), move || hear(BufReader::new(output), &progress))?;
        let mut outpost = Self { child, orders: input, hearing };
        outpost.tell(&Order::Begin(Box::new(orders.clone()), members));
        Ok(outpost)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It has said its last word; before the end of the run that is an error.
    pub(super) fn is_finished(&self) -> bool {
        self.hearing.is_finished()
    }

    /// Those who stall read again.
    pub(super) fn resume(&mut self) {
        self.tell(&Order::Resume);
    }

    /// Sends its clients home.
    pub(super) fn dismiss(&mut self, ledger: &Ledger) {
        self.tell(&Order::Over(ledger.clone()));
    }

    /// What it gathered, once it was dismissed.
    ///
    /// # Errors
    /// It failed, or died.
    pub(super) fn join(self) -> Result<Gathered, ScenarioError> {
        let Self { mut child, orders, hearing } = self;
        let gathered = hearing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // An outpost that was not heard out ends with its input.
        drop(orders);
        let _ = child.wait();
        gathered
    }

    /// One that is gone is noticed by who hears it.
    fn tell(&mut self, order: &Order) {
        let _ = write_line(&mut self.orders, order);
    }
}

/// Enters what it tells, until it has told everything.
fn hear(told: impl io::BufRead, progress: &Progress) -> Result<Gathered, ScenarioError> {
    let mut before = Counts::default();
    for line in told.lines() {
        let line = line.map_err(ScenarioError::Outpost)?;
        match serde_json::from_str(&line).map_err(|error| ScenarioError::Outpost(error.into()))? {
            News::Counts(counts) => {
                counts.add_since(&before, progress);
                before = counts;
            }
            News::Failed { words, advice } => return Err(ScenarioError::Elsewhere { words, advice }),
            News::Gathered(gathered) => return Ok(*gathered),
        }
    }
    Err(ScenarioError::Outpost(io::ErrorKind::UnexpectedEof.into()))
}

fn write_line(out: &mut impl io::Write, line: &impl Serialize) -> io::Result<()> {
    out.write_all((serde_json::to_string(line)? + "\n").as_bytes())?;
    out.flush()
}

/// Is an outpost: takes orders on standard input until it is dismissed, and tells on standard output. Whether it did as it
/// was told.
pub fn serve() -> bool {
    let (send, orders) = mpsc::sync_channel(ORDERS);
    let listening = move || {
        for line in BufReader::new(io::stdin()).lines().map_while(Result::ok) {
            let Ok(order) = serde_json::from_str::<Order>(&line) else { return };
            if send.send(order).is_err() {
                return;
            }
        }
        // Whoever gave the orders is gone: there is nobody to tell anything.
        std::process::exit(1);
    };
    if spawn("orders".to_owned(), listening).is_err() {
        return false;
    }
    let mut out = io::stdout();
    let Ok(Order::Begin(begin, members)) = orders.recv() else { return false };
    let news = match obey(&begin, members, &orders, &mut out) {
        Ok(gathered) => News::Gathered(Box::new(gathered)),
        Err(error) => News::Failed { words: error.in_full(), advice: error.advice().map(str::to_owned) },
    };
    write_line(&mut out, &news).is_ok() && matches!(news, News::Gathered(_))
}

fn obey(
    begin: &Orders,
    members: Range<usize>,
    orders: &mpsc::Receiver<Order>,
    out: &mut impl io::Write,
) -> Result<Gathered, ScenarioError> {
    let plan = Arc::new(begin.plan()?);
    let mut crew = Crew::of(members, plan, begin.access.threads)?;
    crew.progress.queued.store(BELIEVED, Relaxed);
    let mut told = Counts::default();
    loop {
        let counts = Counts::of(&crew.progress);
        if counts != told {
            write_line(out, &News::Counts(counts)).map_err(ScenarioError::Outpost)?;
            told = counts;
        }
        if crew.is_broken() {
            return crew.dismiss(&Ledger::default());
        }
        match orders.try_recv() {
            Ok(Order::Over(ledger)) => return crew.dismiss(&ledger),
            Ok(Order::Resume) => crew.resume(),
            Ok(Order::Begin(..)) | Err(mpsc::TryRecvError::Empty) => thread::park_timeout(TELL),
            Err(mpsc::TryRecvError::Disconnected) => {
                return Err(ScenarioError::Outpost(io::ErrorKind::BrokenPipe.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_elsewhere_are_added_once() {
        let progress = Progress::default();
        let counts = |connected, delivered| News::Counts(Counts { connected, delivered, ..Counts::default() });
        let mut told = Vec::new();
        for news in [counts(1, 0), counts(3, 10), counts(3, 12), News::Gathered(Box::default())] {
            write_line(&mut told, &news).unwrap();
        }
        hear(told.as_slice(), &progress).unwrap();
        assert_eq!((progress.connected.load(Relaxed), progress.delivered()), (3, 12));
    }

    #[test]
    fn one_that_dies_or_fails_is_an_error() {
        let progress = Progress::default();
        assert!(matches!(hear(&b""[..], &progress), Err(ScenarioError::Outpost(_))));
        assert!(matches!(hear(&b"what?\n"[..], &progress), Err(ScenarioError::Outpost(_))));
        let mut told = Vec::new();
        let news = News::Failed { words: "no".to_owned(), advice: Some("yes".to_owned()) };
        write_line(&mut told, &news).unwrap();
        let error = hear(told.as_slice(), &progress).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.advice()), ("no", Some("yes")));
    }
}

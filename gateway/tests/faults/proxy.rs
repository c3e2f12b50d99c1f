//! A TCP proxy that misbehaves on demand.
//!
//! It knows which process is at the other end of a connection (Linux tells), so that it can cut a network in two between
//! processes that all live on one loopback interface.

use std::{collections::HashMap, fs, io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What becomes of a connection's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Bytes wait where they are, and so does the end of a connection: as when a cable is cut.
    Hole,
    Closed,
}

/// Connections are numbered; those up to `until` have one way, later ones another.
#[derive(Debug, Clone)]
struct Rules {
    until: u64,
    old: Way,
    new: Way,
    delay: Duration,
    apart: Option<Arc<Apart>>,
}

/// A connection that was accepted.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    number: u64,
    /// The socket at its other end.
    inode: Option<u64>,
}

impl Rules {
    fn way(&self, accepted: Accepted) -> Way {
        match &self.apart {
            Some(apart) if apart.separates(accepted) => Way::Hole,
            _ if accepted.number <= self.until => self.old,
            _ => self.new,
        }
    }
}

/// Processes that are on the other side of a partition: these, or all but these.
#[derive(Debug)]
struct Apart {
    processes: Vec<u32>,
    all_but: bool,
    known: Mutex<HashMap<u64, bool>>,
}

impl Apart {
    fn separates(&self, accepted: Accepted) -> bool {
        let inode = accepted.inode.expect("a connection on this machine has two sockets");
        *self.known.lock().entry(inode).or_insert_with(|| {
            let is_one = self.processes.iter().any(|process| has_socket(*process, inode));
            is_one != self.all_but
        })
    }
}

/// The inode of the other end's socket, as the kernel lists it. Ports alone do not tell: the same one is used towards
/// different addresses.
fn inode_of(accepted: &TcpStream) -> Option<u64> {
    let written = |address: io::Result<SocketAddr>| match address.ok()? {
        SocketAddr::V4(address) => {
            Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()))
        }
        SocketAddr::V6(_) => None,
    };
    let (from, to) = (written(accepted.peer_addr())?, written(accepted.local_addr())?);
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = line.into_iter().find(|line| line.len() > 9 && line[1..3] == [&from, &to])?;
    line[9].parse().ok()
}

fn has_socket(process: u32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    open.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file.as_os_str() == &*wanted)
}

/// Listens on a port of its own and passes every connection on to one address. Ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    rules: watch::Sender<Rules>,
    numbers: watch::Receiver<u64>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Rules { until: 0, old: Way::Open, new: Way::Open, delay: Duration::ZERO, apart: None };
        let (rules, now) = watch::channel(open);
        let (number, numbers) = watch::channel(0);
        let target = Arc::new(Mutex::new(target));
        tokio::spawn(accept(listener, target.clone(), now, number));
        Self { address, target, rules, numbers }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// New connections are passed on to this address.
    pub fn retarget(&self, target: SocketAddr) {
        *self.target.lock() = target;
    }

    /// Nothing comes through on connections that are there; new ones are well.
    pub fn black_hole_old(&self) {
        let until = *self.numbers.borrow();
        self.rules.send_modify(|rules| (rules.until, rules.old, rules.new) = (until, Way::Hole, Way::Open));
    }

    /// Nothing comes through, on new connections neither.
    pub fn black_hole(&self) {
        self.rules.send_modify(|rules| (rules.old, rules.new) = (Way::Hole, Way::Hole));
    }

    /// Ends all connections, and new ones at once.
    pub fn cut(&self) {
        self.rules.send_modify(|rules| (rules.old, rules.new) = (Way::Closed, Way::Closed));
    }

    /// Nothing comes through between what it stands before and these processes; with `all_but`, between it and all others.
    pub fn part(&self, processes: &[u32], all_but: bool) {
        let apart = Apart { processes: processes.to_vec(), all_but, known: Mutex::default() };
        self.rules.send_modify(|rules| rules.apart = Some(Arc::new(apart)));
    }

    /// All is well again, and what waited comes through: late, as on a healed network.
    pub fn heal(&self) {
        self.rules.send_modify(|rules| (rules.old, rules.new, rules.apart) = (Way::Open, Way::Open, None));
    }

    /// Every piece takes this much longer.
    pub fn delay(&self, delay: Duration) {
        self.rules.send_modify(|rules| rules.delay = delay);
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<Mutex<SocketAddr>>,
    rules: watch::Receiver<Rules>,
    number: watch::Sender<u64>,
) {
    let mut gone = rules.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                number.send_modify(|number| *number += 1);
                let accepted = Accepted { number: *number.borrow(), inode: inode_of(&socket) };
                let target = *target.lock();
                tokio::spawn(pass_on(socket, target, accepted, rules.clone()));
            }
            changed = gone.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

async fn pass_on(client: TcpStream, target: SocketAddr, accepted: Accepted, mut rules: watch::Receiver<Rules>) {
    if !is_open(&mut rules, accepted).await {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let (there, back) = (rules.clone(), rules);
    // The end of either way is the end of both, and dropping the sockets tells both ends.
    let _ = tokio::select! {
        ended = pump(client_reads, server_writes, accepted, there) => ended,
        ended = pump(server_reads, client_writes, accepted, back) => ended,
    };
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    accepted: Accepted,
    mut rules: watch::Receiver<Rules>,
) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let length = tokio::select! {
            read = from.read(&mut piece) => read,
            () = closed(rules.clone(), accepted) => return Ok(()),
        };
        if !is_open(&mut rules, accepted).await {
            return Ok(());
        }
        let length = length?;
        if length == 0 {
            return Ok(());
        }
        let delay = rules.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        tokio::select! {
            written = to.write_all(&piece[..length]) => written?,
            () = closed(rules.clone(), accepted) => return Ok(()),
        }
    }
}

/// Waits out a hole. False: closed.
async fn is_open(rules: &mut watch::Receiver<Rules>, accepted: Accepted) -> bool {
    let way = rules.wait_for(|rules| rules.way(accepted) != Way::Hole).await.map(|rules| rules.way(accepted));
    way.is_ok_and(|way| way == Way::Open)
}

async fn closed(mut rules: watch::Receiver<Rules>, accepted: Accepted) {
    let _ = rules.wait_for(|rules| rules.way(accepted) == Way::Closed).await; // an error: the proxy is gone
}

mod tests {
    use super::*;
    use crate::wait::until;

    /// Answers every byte with itself.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = socket.split();
                    tokio::io::copy(&mut reads, &mut writes).await
                });
            }
        });
        address
    }

    async fn answers(socket: &mut TcpStream) -> bool {
        answers_within(crate::wait::DEADLINE, socket).await
    }

    /// For as long as one can wait for nothing.
    async fn is_silent(socket: &mut TcpStream) -> bool {
        !answers_within(Duration::from_millis(300), socket).await
    }

    async fn answers_within(patience: Duration, socket: &mut TcpStream) -> bool {
        let mut byte = [0];
        let asked = async {
            socket.write_all(b"x").await?;
            socket.read_exact(&mut byte).await
        };
        tokio::time::timeout(patience, asked).await.is_ok_and(|answer| answer.is_ok())
    }

    #[tokio::test]
    async fn a_hole_swallows_old_connections_and_gives_back_what_waited() {
        let proxy = Proxy::start(echo().await).await;
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(answers(&mut old).await);
        proxy.black_hole_old();
        assert!(is_silent(&mut old).await);
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(answers(&mut new).await);
        proxy.black_hole();
        assert!(is_silent(&mut new).await);
        proxy.heal();
        let mut waited = [0];
        old.read_exact(&mut waited).await.unwrap();
        assert!(answers(&mut old).await && waited == *b"x");
    }

    #[tokio::test]
    async fn it_knows_who_is_at_the_other_end() {
        let proxy = Proxy::start(echo().await).await;
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(answers(&mut old).await);
        proxy.part(&[std::process::id()], true);
        assert!(answers(&mut old).await && answers(&mut TcpStream::connect(proxy.address()).await.unwrap()).await);
        proxy.part(&[std::process::id()], false);
        assert!(is_silent(&mut old).await && is_silent(&mut TcpStream::connect(proxy.address()).await.unwrap()).await);
    }

    #[tokio::test]
    async fn a_cut_ends_all_connections_until_it_is_healed() {
        let proxy = Proxy::start(echo().await).await;
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(answers(&mut old).await);
        proxy.cut();
        assert_eq!(old.read(&mut [0]).await.unwrap_or(0), 0);
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(is_silent(&mut new).await);
        proxy.heal();
        until("new connections", async || answers(&mut TcpStream::connect(proxy.address()).await.unwrap()).await).await;
    }
}

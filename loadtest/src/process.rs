//! What /proc says about a process: CPU time, memory, open-file limit, and who listens on a port. Linux only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// The kernel shows user and system time in these, whatever its own tick is (`USER_HZ`, 100 on every Linux of ours).
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a process, thread by thread, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Cpu {
    threads: BTreeMap<u32, Thread>,
    ticks: u64,
}

/// One thread: what it ran, and what it could have run had a core been free.
#[derive(Debug, Clone, Default)]
struct Thread {
    name: String,
    ran: u64,
    waited: u64,
}

/// What a thread did between two moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadUse {
    /// Its name.
    pub name: String,
    /// On a core.
    pub ran: Duration,
    /// Ready to run, but no core was free.
    pub waited: Duration,
}

impl Cpu {
    /// Reads it now.
    ///
    /// # Errors
    /// The process is gone, or belongs to somebody else.
    pub fn read(pid: u32) -> io::Result<Self> {
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            // A thread that ended between the listing and here has no figures any more.
            let Ok(schedstat) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let mut figures = schedstat.split_whitespace().filter_map(|figure| figure.parse().ok());
            if let (Some(tid), Some(ran), Some(waited)) =
                (task.file_name().to_str().and_then(|tid| tid.parse().ok()), figures.next(), figures.next())
            {
                threads.insert(tid, Thread { name: name.trim_end().to_owned(), ran, waited });
            }
        }
        let ticks = ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?).unwrap_or_default();
        Ok(Self { threads, ticks })
    }

    /// CPU time that the whole process used since `before`.
    ///
    /// To the nanosecond, unless it is [in ticks](Self::is_in_ticks_since).
    pub fn since(&self, before: &Self) -> Duration {
        if self.is_in_ticks_since(before) {
            TICK * u32::try_from(self.ticks.saturating_sub(before.ticks)).unwrap_or(u32::MAX)
        } else {
            self.threads_since(before).iter().map(|thread| thread.ran).sum()
        }
    }

    /// Whether a thread ended since `before` and took its figures along: what is left is in ticks of 10 ms.
    pub fn is_in_ticks_since(&self, before: &Self) -> bool {
        self.threads.is_empty() || before.threads.keys().any(|tid| !self.threads.contains_key(tid))
    }

    /// What each thread did since `before`.
    pub fn threads_since(&self, before: &Self) -> Vec<ThreadUse> {
        let use_of = |(tid, now): (&u32, &Thread)| {
            let then = before.threads.get(tid).cloned().unwrap_or_default();
            ThreadUse {
                name: now.name.clone(),
                ran: Duration::from_nanos(now.ran.saturating_sub(then.ran)),
                waited: Duration::from_nanos(now.waited.saturating_sub(then.waited)),
            }
        };
        self.threads.iter().map(use_of).collect()
    }
}

/// User and system time of /proc/PID/stat. The name in it may hold anything, so fields count from its last bracket.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Resident memory in bytes.
///
/// # Errors
/// The process is gone.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no VmRSS in its status"))
}

/// How many files this process may open: now, and at most after `ulimit -n`. `None` where /proc does not say.
pub fn open_file_limits() -> Option<(u64, u64)> {
    file_limits(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn file_limits(limits: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut fields =
        line.split_whitespace().map(|field| if field == "unlimited" { Some(u64::MAX) } else { field.parse().ok() });
    Some((fields.next()??, fields.next()??))
}

/// The local processes that listen where `address` leads, if it is a loopback address; ours to see only.
pub fn listeners(address: SocketAddr) -> Vec<u32> {
    if !address.ip().is_loopback() {
        return Vec::new();
    }
    let table = |path| fs::read_to_string(path).unwrap_or_default();
    let mut inodes = listening_inodes(&table("/proc/net/tcp"), address);
    inodes.extend(listening_inodes(&table("/proc/net/tcp6"), address));
    if inodes.is_empty() { Vec::new() } else { holders(&inodes) }
}

/// The sockets in a table of /proc/net that listen on this address or on all.
fn listening_inodes(table: &str, address: SocketAddr) -> BTreeSet<String> {
    const LISTEN: &str = "0A";
    let inode_of = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (*fields.get(1)?, *fields.get(3)?, *fields.get(9)?);
        let local = socket_address(local)?;
        let fits = local.ip().to_canonical() == address.ip().to_canonical() || local.ip().is_unspecified();
        (state == LISTEN && local.port() == address.port() && fits).then(|| inode.to_owned())
    };
    table.lines().skip(1).filter_map(inode_of).collect()
}

/// `0100007F:1F40` is 127.0.0.1:8000: words of the address in the machine's order, the port in the network's.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = if ip.len() == 8 {
        IpAddr::V4(Ipv4Addr::from(word(0)?))
    } else {
        let mut octets = [0; 16];
        for (n, four) in octets.chunks_exact_mut(4).enumerate() {
            four.copy_from_slice(&word(n * 8)?);
        }
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The processes that hold one of these sockets open.
fn holders(inodes: &BTreeSet<String>) -> Vec<u32> {
    let holds = |pid: &u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files.flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|link| {
                let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
                inode.is_some_and(|inode| inodes.contains(inode))
            })
        })
    };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(holds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_ours_is_found_on_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            assert_eq!(listeners(listener.local_addr().unwrap()), [std::process::id()]);
        }
    }

    #[test]
    fn nobody_is_looked_for_elsewhere() {
        assert!(listeners("192.0.2.1:80".parse().unwrap()).is_empty());
    }

    #[test]
    fn addresses_of_proc_net_are_read() {
        assert_eq!(socket_address("0100007F:1F40"), Some("127.0.0.1:8000".parse().unwrap()));
        assert_eq!(socket_address("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
        assert_eq!(socket_address("nonsense"), None);
    }

    #[test]
    fn a_process_named_like_a_stat_line_does_not_confuse() {
        let stat = "7 (a) S 1 (b) R 1 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 9 0 0";
        assert_eq!(ticks(stat), Some(300));
    }

    #[test]
    fn limits_are_read_also_when_there_are_none() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files     1024      unlimited     files\n";
        assert_eq!(file_limits(limits), Some((1024, u64::MAX)));
        assert!(open_file_limits().is_some());
    }

    #[test]
    fn a_thread_that_ended_leaves_ticks() {
        let thread = |ran| Thread { ran, ..Thread::default() };
        let before = Cpu { threads: [(1, thread(5)), (2, thread(5))].into(), ticks: 3 };
        let all = Cpu { threads: [(1, thread(7)), (2, thread(5)), (3, thread(1))].into(), ticks: 4 };
        assert_eq!((all.is_in_ticks_since(&before), all.since(&before)), (false, Duration::from_nanos(3)));
        let fewer = Cpu { threads: [(1, thread(7))].into(), ticks: 4 };
        assert_eq!((fewer.is_in_ticks_since(&before), fewer.since(&before)), (true, TICK));
    }

    #[test]
    fn what_this_process_burns_is_seen() {
        let before = Cpu::read(std::process::id()).unwrap();
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            std::hint::black_box(start);
        }
        let used = Cpu::read(std::process::id()).unwrap().since(&before);
        assert!(used >= Duration::from_millis(5), "{used:?}");
        assert!(resident_bytes(std::process::id()).unwrap() > 100_000);
    }
}

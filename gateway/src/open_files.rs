//! How many files this process may have open, each connection being one, and how many it has.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept free for what is not a connection of a client: the backplane, settings that are read again, whoever operates the node.
const SPARE: u64 = 64;

/// Raises the limit to what the process may raise it to by itself, and gives the new one; `None` where there is none. Programs
/// are started with a small one (1,024 on most systems), because old ones cannot cope with more.
///
/// # Errors
/// As the kernel says; the limit stays what it was.
pub fn raise_limit() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum)
}

/// How many connections there is still room for; one more could be one too many: then accepting fails, and who knocks waits
/// without a word. Blocks: it reads a folder of the kernel.
pub fn room() -> usize {
    let room = getrlimit(Resource::Nofile).current.zip(open()).map(|(limit, open)| room_beside(open, limit));
    room.and_then(|room| room.try_into().ok()).unwrap_or(usize::MAX)
}

fn room_beside(open: u64, limit: u64) -> u64 {
    limit.saturating_sub(SPARE.min(limit / 8)).saturating_sub(open)
}

/// How many are open; `None` where nobody says.
fn open() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    // Since Linux 6.2 the folder's size says it; before, that is 0 and they have to be counted.
    let size = fs::metadata(FOLDER).ok()?.len();
    if size > 0 { Some(size) } else { Some(fs::read_dir(FOLDER).ok()?.count() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_free() {
        let found = [(900, 1000), (936, 1000), (937, 1000), (1000, 1000), (10, 16)];
        assert_eq!(found.map(|(open, limit)| room_beside(open, limit)), [36, 0, 0, 0, 4]);
    }

    #[test]
    fn what_is_opened_is_counted() {
        let before = open().unwrap();
        let more: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = open().unwrap();
        drop(more);
        assert!(after >= before + 90, "{before} and {after}: other tests may have closed some meanwhile");
    }
}

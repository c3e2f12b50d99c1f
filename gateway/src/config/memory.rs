//! How much memory this process may use: what defaults are a part of.

use std::{
    fs,
    path::{Component, Path},
};

/// What is taken for it where nobody says: too little is slow, too much is killed.
const UNKNOWN: u64 = 1 << 30;

/// Bytes: the smallest limit of the process's control groups, or what the machine has, whichever is less.
pub(super) fn available() -> u64 {
    read(Path::new("/"))
}

/// The same of the system whose root is mounted here.
fn read(root: &Path) -> u64 {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| total(&text));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| limit(&root.join("sys/fs/cgroup"), line));
    limits.chain(machine).min().unwrap_or(UNKNOWN)
}

/// The line `MemTotal:  24684096 kB`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The smallest limit of one line of `/proc/self/cgroup`, `NUMBER:CONTROLLERS:PATH`, and all groups above it: each holds
/// what is in it to its own. In a container the path may be the one outside, and then only the root of what is mounted
/// is there; it is the container's own group.
fn limit(mounted: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, Path::new(parts.next()?));
    let (mounted, file) = match controllers {
        "" => (mounted.to_owned(), "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => (mounted.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    // A group outside of what this process sees begins with `/..`.
    let inside: Vec<_> = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let groups = (0..=inside.len()).map(|depth| inside[..depth].iter().fold(mounted.clone(), |at, part| at.join(part)));
    // Version 2 writes `max` for no limit, version 1 a number that is more than any machine has.
    groups.filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system with these files; its available memory.
    fn system(files: &[(&str, &str)]) -> u64 {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        read(root.path())
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       2048 kB\nMemFree:  1 kB\n");

    #[test]
    fn without_a_limit_it_is_the_machines() {
        assert_eq!(system(&[MACHINE]), 2048 * 1024);
        let two = [MACHINE, ("proc/self/cgroup", "0::/a\n"), ("sys/fs/cgroup/a/memory.max", "max\n")];
        assert_eq!(system(&two), 2048 * 1024);
        let one = [
            MACHINE,
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(system(&one), 2048 * 1024);
    }

    #[test]
    fn the_smallest_of_the_groups_counts() {
        let two = [
            MACHINE,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "500\n"),
            ("sys/fs/cgroup/a/b/memory.max", "1000\n"),
        ];
        assert_eq!(system(&two), 500);
        let one = [
            MACHINE,
            ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:hugetlb,memory:/a\n0::/\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "700\n"),
        ];
        assert_eq!(system(&one), 700);
    }

    #[test]
    fn a_container_finds_its_own_group_at_the_root() {
        for line in ["0::/\n", "0::/../outside\n", "0::/system.slice/not-mounted-here\n"] {
            let files = [MACHINE, ("proc/self/cgroup", line), ("sys/fs/cgroup/memory.max", "600\n")];
            assert_eq!(system(&files), 600, "{line}");
        }
    }

    #[test]
    fn where_nobody_says_little_is_assumed() {
        assert_eq!(system(&[]), UNKNOWN);
        assert_eq!(system(&[("proc/meminfo", "nonsense"), ("proc/self/cgroup", "nonsense")]), UNKNOWN);
    }
}

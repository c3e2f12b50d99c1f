//! How much memory this process may use, which defaults are a part of, and how much of it is used.

use std::{
    fs,
    path::{Component, Path, PathBuf},
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

/// The part of it that is used, from 0 to 1: of the control group that is the nearest to its limit, and at least what this
/// process has of the machine's. What a group only keeps because there is room for it, as files that were read, does not count.
/// Blocks: it reads files of the kernel.
pub fn used() -> f64 {
    used_of(Path::new("/"))
}

fn used_of(root: &Path) -> f64 {
    let file = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    let own = share(kibibytes(&file("proc/self/status"), "VmRSS:"), kibibytes(&file("proc/meminfo"), "MemTotal:"));
    let groups = file("proc/self/cgroup");
    let groups = groups.lines().filter_map(|line| Group::of(&root.join("sys/fs/cgroup"), line));
    groups.flat_map(|group| group.with_parents()).filter_map(|group| group.used()).chain(own).fold(0.0, f64::max)
}

#[allow(clippy::cast_precision_loss, reason = "a part of a whole, to a hundredth")]
fn share(used: Option<u64>, of: Option<u64>) -> Option<f64> {
    Some(used? as f64 / of.filter(|of| *of > 0)? as f64)
}

/// The line `MemTotal:  24684096 kB`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    kibibytes(meminfo, "MemTotal:")
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// A control group, as its memory is written down.
struct Group {
    mounted: PathBuf,
    path: PathBuf,
    is_v2: bool,
}

impl Group {
    /// That of one line of `/proc/self/cgroup`, `NUMBER:CONTROLLERS:PATH`, if it is about memory. In a container the path may
    /// be the one outside, and then only the root of what is mounted is there; it is the container's own group.
    fn of(mounted: &Path, line: &str) -> Option<Self> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, Path::new(parts.next()?));
        let (mounted, is_v2) = match controllers {
            "" => (mounted.to_owned(), true),
            _ if controllers.split(',').any(|name| name == "memory") => (mounted.join("memory"), false),
            _ => return None,
        };
        // A group outside of what this process sees begins with `/..`.
        let path = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        Some(Self { mounted, path, is_v2 })
    }

    /// It and all groups above it: each holds what is in it to its own limit.
    fn with_parents(self) -> impl Iterator<Item = Self> {
        let Self { mounted, path, is_v2 } = self;
        let paths: Vec<_> = path.ancestors().map(Path::to_owned).collect();
        paths.into_iter().map(move |path| Self { mounted: mounted.clone(), path, is_v2 })
    }

    fn read(&self, v2: &str, v1: &str) -> Option<String> {
        fs::read_to_string(self.mounted.join(&self.path).join(if self.is_v2 { v2 } else { v1 })).ok()
    }

    /// Version 2 writes `max` for no limit, version 1 a number that is more than any machine has.
    fn limit(&self) -> Option<u64> {
        self.read("memory.max", "memory.limit_in_bytes")?.trim().parse().ok()
    }

    fn used(&self) -> Option<f64> {
        let used: u64 = self.read("memory.current", "memory.usage_in_bytes")?.trim().parse().ok()?;
        let name = if self.is_v2 { "inactive_file " } else { "total_inactive_file " };
        let statistics = self.read("memory.stat", "memory.stat").unwrap_or_default();
        let reclaimable = statistics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        share(Some(used.saturating_sub(reclaimable.unwrap_or(0))), self.limit())
    }
}

/// The smallest limit of the group of a line, and all above it.
fn limit(mounted: &Path, line: &str) -> Option<u64> {
    Group::of(mounted, line)?.with_parents().filter_map(|group| group.limit()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        root
    }

    /// The available memory of a system with these files.
    fn system(files: &[(&str, &str)]) -> u64 {
        read(root(files).path())
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

    #[test]
    fn what_is_used_is_that_of_the_fullest_group_without_what_can_be_reclaimed() {
        let own = ("proc/self/status", "VmPeak:\t 2000 kB\nVmRSS:\t     512 kB\n");
        let used = |files: &[(&str, &str)]| used_of(root(&[&[MACHINE, own], files].concat()).path());
        assert_eq!(used(&[]), 0.25, "without a limit it is the process's part of the machine");
        let two = [
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "900\n"),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/memory.current", "900\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 150\nslab 7\n"),
        ];
        assert_eq!(used(&two), 0.75);
        let one = [
            ("proc/self/cgroup", "4:memory:/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "800\n"),
            ("sys/fs/cgroup/memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 300\n"),
        ];
        assert_eq!(used(&one), 0.5);
        assert_eq!(used_of(root(&[]).path()), 0.0);
    }
}

//! How much memory this process may use: its control group's limit, else the machine's memory.

use std::fs;
use std::path::Path;

/// What is assumed where nothing can be read: small enough to be safe anywhere.
const FALLBACK_BYTES: u64 = 1 << 30;

/// The memory that this process may use, in bytes. Reads a few small files of the kernel.
pub fn limit_bytes() -> u64 {
    limit_bytes_under(Path::new("/"))
}

fn limit_bytes_under(root: &Path) -> u64 {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group_limit(root, line));
    limits.chain(machine_bytes(root)).min().unwrap_or(FALLBACK_BYTES)
}

/// The limit of a line of `/proc/self/cgroup`: `number:controllers:path`. Version 2 names no
/// controllers.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (mount, file) = if controllers.is_empty() {
        (root.join("sys/fs/cgroup"), "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes")
    } else {
        return None;
    };
    // A limit binds all groups below it. Inside a container the path may name what only the host
    // sees; then the mount itself is the container's group, the last of the ancestors.
    let relative = Path::new(path.trim_start_matches('/'));
    relative.ancestors().filter_map(|group| number(&mount.join(group).join(file))).min()
}

/// The number in a file; `None` for "max" and for a file that is not there.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn machine_bytes(root: &Path) -> Option<u64> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root folder with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMORY: (&str, &str) = ("proc/meminfo", "MemTotal:  4096 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_least_limit_of_the_group_and_its_ancestors_holds() {
        let root = root(&[
            MEMORY,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "1000000\n"),
        ]);
        assert_eq!(limit_bytes_under(root.path()), 1_000_000);
    }

    #[test]
    fn a_path_of_the_host_falls_back_to_the_mount() {
        let root = root(&[
            MEMORY,
            ("proc/self/cgroup", "0::/../../host/path\n"),
            ("sys/fs/cgroup/memory.max", "2000000\n"),
        ]);
        assert_eq!(limit_bytes_under(root.path()), 2_000_000);
    }

    #[test]
    fn version_1_is_read_and_its_unlimited_number_is_above_the_machine() {
        let limited = root(&[
            MEMORY,
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/x\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "3000000\n"),
        ]);
        assert_eq!(limit_bytes_under(limited.path()), 3_000_000);
        let unlimited = root(&[
            MEMORY,
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(limit_bytes_under(unlimited.path()), 4096 * 1024);
    }

    #[test]
    fn without_any_file_a_small_limit_is_assumed() {
        assert_eq!(limit_bytes_under(root(&[]).path()), FALLBACK_BYTES);
        assert!(limit_bytes() > 0);
    }
}

//! What the kernel says of this process.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// What is known of the process. `None` where the kernel does not say.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_descriptors: Option<u64>,
    pub(super) descriptor_limit: Option<u64>,
    /// Of all sockets that the kernel has, in containers of the same network namespace too.
    pub(super) tcp_memory_bytes: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        Self {
            open_descriptors: open_descriptors(),
            descriptor_limit: getrlimit(Resource::Nofile).current,
            tcp_memory_bytes: tcp_pages(&sockets).map(|pages| pages * page_size()),
            ..Self::of_stat(&stat)
        }
    }

    /// By proc(5), `/proc/[pid]/stat`: fields count from behind the name, which can hold anything but ends with the
    /// last parenthesis.
    fn of_stat(stat: &str) -> Self {
        let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = behind_name.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = || Some(field(14)? + field(15)?);
        Self {
            cpu_seconds: ticks().map(|ticks| ticks as f64 / ticks_per_second()),
            threads: field(20),
            resident_bytes: field(24).map(|pages| pages * page_size()),
            ..Self::default()
        }
    }
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Newer kernels (6.2 and later) tell the number as the folder's size; of older ones the entries are counted.
fn open_descriptors() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    let told = fs::metadata(FOLDER).ok()?.len();
    if told > 0 {
        return Some(told);
    }
    let entries = fs::read_dir(FOLDER).ok()?.count();
    // One of them is the folder itself.
    Some((entries as u64).saturating_sub(1))
}

/// The pages of memory that TCP has, of `/proc/net/sockstat`.
fn tcp_pages(sockets: &str) -> Option<u64> {
    let line = sockets.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_processor_memory_and_descriptors() {
        let process = Process::read();
        assert!(process.cpu_seconds.is_some());
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(process.threads.is_some_and(|threads| threads >= 1));
        let file = fs::File::open("/proc/self/stat").unwrap();
        let more = Process::read();
        assert!(more.open_descriptors.is_some_and(|count| count >= 4));
        assert!(more.descriptor_limit >= more.open_descriptors);
        drop(file);
    }

    #[test]
    fn a_name_with_parentheses_and_blanks_moves_no_field() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 9 0 100 1000 300 0";
        let process = Process::of_stat(stat);
        assert_eq!(process.threads, Some(9));
        assert_eq!(process.resident_bytes, Some(300 * page_size()));
        assert!(process.cpu_seconds.is_some_and(|seconds| seconds > 0.0));
        assert!(Process::of_stat("").threads.is_none());
    }

    #[test]
    fn the_memory_of_sockets_is_found_by_its_name() {
        let sockets =
            "sockets: used 9\nTCP: inuse 7 orphan 0 tw 0 alloc 9 mem 12\nUDP: inuse 1 mem 3\n";
        assert_eq!(tcp_pages(sockets), Some(12));
        assert_eq!(tcp_pages("UDP: inuse 1 mem 3\n"), None);
    }
}

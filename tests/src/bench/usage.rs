//! What processes have used, as the kernel counts it.

use std::fs;

/// In which the kernel tells processor times: `USER_HZ`, 100 on all common architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time in seconds, of all threads of these processes and of those that are gone.
#[expect(clippy::cast_precision_loss, reason = "ticks of the clock, far below 2^52")]
pub fn cpu_s(processes: &[u32]) -> f64 {
    let ticks: u64 = processes.iter().filter_map(|process| ticks(*process)).sum();
    ticks as f64 / TICKS_PER_SECOND
}

fn ticks(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // After the name, which may hold anything: state, parent and so on; user and system time are
    // the 14th and 15th column of all.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut times = rest.split(' ').skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

/// The most memory that each of these processes has had since [`reset_peak`], in MiB.
pub fn peak_rss_mib(processes: &[u32]) -> Vec<u64> {
    processes.iter().filter_map(|process| peak_kib(*process)).map(|kib| kib / 1024).collect()
}

fn peak_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix(" kB")?.parse().ok()
}

/// Forgets the peaks of these processes, as far as the kernel lets us.
pub fn reset_peak(processes: &[u32]) {
    for process in processes {
        let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let this = [std::process::id()];
        super::super::tasks::work(50_000_000);
        assert!(cpu_s(&this) > 0.0);
        assert!(peak_rss_mib(&this)[0] > 0);
        assert!(peak_rss_mib(&[0]).is_empty());
        assert_eq!(cpu_s(&[0]).to_bits(), 0.0_f64.to_bits());
    }
}

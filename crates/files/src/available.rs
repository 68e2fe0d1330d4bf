//! How much memory is left.

/// Bytes that this process can still take without pushing others out: what Linux calls available,
/// and what the limits of its control group (version 2) leave. `None` where nobody tells.
pub fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(group_memory().map_or(kib * 1024, |left| left.min(kib * 1024)))
}

/// What the limit of the control group leaves, counting its page cache as free.
fn group_memory() -> Option<u64> {
    let group = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = group.lines().find_map(|l| l.strip_prefix("0::"))?;
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup{path}/{name}")).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let stat = read("memory.stat")?;
    let cached = stat.lines().find_map(|l| l.strip_prefix("file "))?.parse().unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

//! The cores that this process may run on.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;

/// How many cores have a processor on which this process may run. `None` where the system does not
/// say.
pub(crate) fn cores() -> Option<NonZeroUsize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    cores_of(&status, Path::new("/sys/devices/system/cpu"))
}

/// The cores of the processors that `/proc/self/status` allows, by their description in sysfs.
fn cores_of(status: &str, processors: &Path) -> Option<NonZeroUsize> {
    let allowed = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = BTreeSet::new();
    for cpu in numbers(allowed.trim())? {
        let id = |name: &str| {
            let file = processors.join(format!("cpu{cpu}/topology/{name}"));
            Some(std::fs::read_to_string(file).ok()?.trim().to_owned())
        };
        // Numbers of cores begin anew in each package, and on some systems in each die.
        cores.insert((id("physical_package_id")?, id("die_id"), id("core_id")?));
    }
    NonZeroUsize::new(cores.len())
}

/// The numbers of a list such as `0-3,8,10-11`.
fn numbers(list: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(numbers("0-3,8,10-11"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(numbers("5"), Some(vec![5]));
        assert_eq!(numbers("a-b"), None);
    }

    #[test]
    fn threads_of_a_core_count_once() {
        // Two packages of two cores of two threads each: 0 and 4 are one core, and so on.
        let folder = tempfile::tempdir().unwrap();
        for cpu in 0..8 {
            let topology = folder.path().join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&topology).unwrap();
            let write = |name, value: usize| {
                std::fs::write(topology.join(name), format!("{value}\n")).unwrap();
            };
            write("physical_package_id", cpu % 4 / 2);
            write("core_id", cpu % 2);
        }
        let cores = |list: &str| {
            let status = format!("Name:\tx\nCpus_allowed_list:\t{list}\n");
            cores_of(&status, folder.path()).map(NonZeroUsize::get)
        };
        assert_eq!(cores("0-7"), Some(4));
        assert_eq!(cores("0-3"), Some(4));
        assert_eq!(cores("0,4"), Some(1));
        assert_eq!(cores("0,1,5"), Some(2));
        assert_eq!(cores("8"), None);
    }
}

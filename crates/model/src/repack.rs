//! Whether weights are repacked for the kernels when a model is loaded.
//!
//! Repacked weights (sixteen rows interleaved) lie in memory of the process's own and are read as
//! one stream; the file's pages are given back as they are copied, so that no weight is held twice.
//! Otherwise weights stay where the file is mapped, and loading reads nothing.

use std::fmt;
use std::str::FromStr;

use tensor::{Compute, Tensor};

use crate::Error;

/// When to repack weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repack {
    /// Weight by weight, while there is memory to spare.
    #[default]
    Auto,
    /// All that can be.
    Always,
    /// None: they stay where the file is mapped.
    Never,
}

/// A word that says nothing about repacking.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}': expected auto, always or never")]
pub struct UnknownRepack(pub String);

/// Memory that stays free: `Auto` leaves weights where they are rather than go below.
const RESERVE: u64 = 1 << 30;

impl Repack {
    /// `weight` as it should lie.
    pub(crate) fn apply(
        self,
        name: &str,
        weight: Tensor,
        tied: bool,
        compute: &Compute,
    ) -> Result<Tensor, Error> {
        // Tables whose rows are looked up gain nothing.
        let table = match name {
            "token_embd.weight" => !tied,
            "position_embd.weight" | "token_types.weight" => true,
            _ => false,
        };
        let wanted = !table
            && match self {
                Repack::Never => false,
                Repack::Always => true,
                Repack::Auto => {
                    let needed = weight.byte_len() as u64 + RESERVE;
                    weight.rows() >= 16 && available_memory().is_some_and(|free| free >= needed)
                }
            };
        match wanted {
            true => Ok(weight.interleaved(compute)?.unwrap_or(weight)),
            false => Ok(weight),
        }
    }
}

impl fmt::Display for Repack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Repack::Auto => "auto",
            Repack::Always => "always",
            Repack::Never => "never",
        })
    }
}

impl FromStr for Repack {
    type Err = UnknownRepack;

    fn from_str(s: &str) -> Result<Self, UnknownRepack> {
        match s {
            "auto" => Ok(Repack::Auto),
            "always" => Ok(Repack::Always),
            "never" => Ok(Repack::Never),
            _ => Err(UnknownRepack(s.to_owned())),
        }
    }
}

/// Bytes that this process can still take without pushing others out: what Linux calls available,
/// and what the limits of its control group (version 2) leave. `None` where nobody tells.
fn available_memory() -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::DType;

    #[test]
    fn products_are_repacked_and_tables_are_not() {
        let compute = Compute::cpu().with_threads(1);
        let weight = Tensor::from_bytes(DType::Q8_0, [16, 64], &[0; 16 * 68]).unwrap();
        let packed = |repack: Repack, name: &str, tied| {
            repack.apply(name, weight.clone(), tied, &compute).unwrap().is_interleaved()
        };
        assert!(packed(Repack::Always, "output.weight", false));
        assert!(packed(Repack::Always, "token_embd.weight", true));
        assert!(!packed(Repack::Always, "token_embd.weight", false));
        assert!(!packed(Repack::Never, "output.weight", false));
        for repack in [Repack::Auto, Repack::Always, Repack::Never] {
            assert_eq!(repack.to_string().parse(), Ok(repack));
        }
        assert!("sometimes".parse::<Repack>().is_err());
    }
}

//! AMX: whether this process may use the tile registers, and the few instructions kernels need.
//!
//! Eight registers of up to 16 rows by 64 bytes; one instruction multiplies 16 x 64 int8 by
//! 64 x 16 int8 into 16 x 16 int32 (Intel, Architecture Instruction Set Extensions, chapter 3).
//! Stable Rust has no intrinsics for it, so the instructions are inline assembly. Linux hands the
//! registers out on request, once a process.

use std::sync::OnceLock;

/// What of AMX this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amx {
    /// Products of int8 tiles.
    pub int8: bool,
    /// Products of bf16 tiles.
    pub bf16: bool,
}

/// Asks the processor and, the first time, the operating system.
pub fn detect() -> Amx {
    static FOUND: OnceLock<Amx> = OnceLock::new();
    *FOUND.get_or_init(probe)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn probe() -> Amx {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    const NONE: Amx = Amx { int8: false, bf16: false };

    #[target_feature(enable = "xsave")]
    fn enabled_state() -> u64 {
        // SAFETY: the function's feature includes the instruction.
        unsafe { _xgetbv(0) }
    }

    if __cpuid(0).eax < 7 || !is_x86_feature_detected!("xsave") {
        return NONE;
    }
    let bits = __cpuid_count(7, 0).edx;
    let has = |bit: u32| bits >> bit & 1 == 1;
    // Tile configuration and tile data, which the system must save.
    const STATE: u64 = 0b11 << 17;
    // SAFETY: the processor has XSAVE, as just checked.
    if !has(24) || unsafe { enabled_state() } & STATE != STATE || !request_tile_data() {
        return NONE;
    }
    Amx { int8: has(25), bf16: has(22) }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn probe() -> Amx {
    Amx { int8: false, bf16: false }
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: all threads of the process may use the
/// tile registers from then on (Linux, Documentation/arch/x86/xstate.rst).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tile_data() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: this system call reads and writes no memory of ours; the kernel changes only the
    // registers named here.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack, nomem),
        );
    }
    result == 0
}

/// Instructions on tile registers, which are named by their numbers. What a register is loaded from and
/// stored to, rows `stride` bytes apart, must be as large as its configuration says.
#[cfg(target_arch = "x86_64")]
macro_rules! tile {
    (zero $tile:literal) => {
        std::arch::asm!(
            concat!("tilezero tmm", $tile),
            options(nostack, preserves_flags, nomem),
        )
    };
    (load $tile:literal, $from:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tileloadd tmm", $tile, ", [{from} + {stride}]"),
            from = in(reg) $from,
            stride = in(reg) $stride,
            options(nostack, preserves_flags, readonly),
        )
    };
    (store $tile:literal, $to:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tilestored [{to} + {stride}], tmm", $tile),
            to = in(reg) $to,
            stride = in(reg) $stride,
            options(nostack, preserves_flags),
        )
    };
    // Adds the product of two tiles to a third.
    ($multiply:literal $sum:literal, $left:literal, $right:literal) => {
        std::arch::asm!(
            concat!($multiply, " tmm", $sum, ", tmm", $left, ", tmm", $right),
            options(nostack, preserves_flags, nomem),
        )
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use tile;

/// The shapes of the eight tile registers: rows, and bytes of a row.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

#[cfg(target_arch = "x86_64")]
impl TileConfig {
    /// `shapes[i]` is that of register `i`: rows (at most 16), and bytes of a row (at most 64).
    pub(crate) const fn new(shapes: [(u8, u16); 8]) -> Self {
        let mut config = TileConfig {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let mut i = 0;
        while i < shapes.len() {
            assert!(shapes[i].0 <= 16 && shapes[i].1 <= 64);
            config.rows[i] = shapes[i].0;
            config.row_bytes[i] = shapes[i].1;
            i += 1;
        }
        config
    }

    /// Configures this thread's tile registers until the guard is dropped.
    ///
    /// # Safety
    /// [`detect`] found AMX.
    #[inline(always)]
    pub(crate) unsafe fn load(&self) -> Configured {
        // SAFETY: the caller's promise; 64 bytes are read.
        unsafe {
            std::arch::asm!("ldtilecfg [{0}]", in(reg) self, options(nostack, readonly));
        }
        Configured(())
    }
}

/// Tile registers are configured; dropping it gives them back, so that the system need not save
/// them.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Configured(());

#[cfg(target_arch = "x86_64")]
impl Drop for Configured {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: a `Configured` exists only where AMX does.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_multiplies() {
        if !detect().int8 {
            eprintln!("skipped: no AMX");
            return;
        }
        #[cfg(target_arch = "x86_64")]
        {
            const CONFIG: TileConfig = TileConfig::new([
                (16, 64),
                (16, 64),
                (16, 64),
                (1, 1),
                (1, 1),
                (1, 1),
                (1, 1),
                (1, 1),
            ]);
            let (a, b) = ([2i8; 1024], [-3i8; 1024]);
            let mut c = [0i32; 256];
            // SAFETY: AMX was detected; each tile is 16 rows of 64 bytes, as the arrays are.
            unsafe {
                let _tiles = CONFIG.load();
                std::arch::asm!(
                    "tilezero tmm0",
                    "tileloadd tmm1, [{a} + {stride}]",
                    "tileloadd tmm2, [{b} + {stride}]",
                    "tdpbssd tmm0, tmm1, tmm2",
                    "tilestored [{c} + {stride}], tmm0",
                    a = in(reg) a.as_ptr(),
                    b = in(reg) b.as_ptr(),
                    c = in(reg) c.as_mut_ptr(),
                    stride = in(reg) 64usize,
                    options(nostack),
                );
            }
            assert_eq!(c, [-384; 256]);
        }
    }
}

//! The same loops for more instructions than the compiler's baseline has.
//!
//! This crate holds no unsafe code and so no intrinsics: its loops run over arrays of lanes, which
//! the compiler turns into the vectors of whatever instruction set it compiles for. Who can prove
//! at run time that the processor has more than the baseline (`cpu-kernels`) is a [`Target`]: it
//! calls a [`Work`] from a function compiled for those instructions, into which the work is
//! inlined. Every target gives the same bits, as nothing here is reordered, fused or approximated.

/// Loops to be compiled for a target. Implementations mark `run`, and what its loops call,
/// `#[inline(always)]`: what is not inlined runs as compiled for the baseline, only slower.
pub trait Work {
    /// What it returns.
    type Output;
    /// Does the work.
    fn run(self) -> Self::Output;
}

/// Instructions to run with.
pub trait Target: Copy {
    /// Runs `work` with them.
    fn run<W: Work>(self, work: W) -> W::Output;
}

/// What the compiler assumes of every processor it compiles for.
#[derive(Clone, Copy, Debug)]
pub struct Baseline;

impl Target for Baseline {
    fn run<W: Work>(self, work: W) -> W::Output {
        work.run()
    }
}

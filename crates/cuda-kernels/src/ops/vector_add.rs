//! INT8 vectors with scales and zero points, added: the first kernels, to learn from.

use super::{blocks, int};
use crate::source::VECTOR_ADD;
use crate::{Arg, Buffer, Gpu, Kernel, Launch, Result};

/// How `q` stands for a number: `scale * (q - zero_point)` (Jacob et al. 2018, eq. 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// The step.
    pub scale: f32,
    /// What stands for zero.
    pub zero_point: i32,
}

/// Which of the kernels adds, from simple to fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorAdd {
    /// Each thread has a stretch of its own.
    Strided,
    /// Neighbours read neighbours.
    Coalesced,
    /// And each takes 16 bytes at once.
    Wide,
}

impl VectorAdd {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Strided, Self::Coalesced, Self::Wide];
}

const THREADS: u32 = 256;
/// Elements of a thread of the strided kernel.
const STRETCH: usize = 64;

/// `out = a + b` of `n` INT8 elements, each vector with its own scale and zero point; results beyond the
/// range become its ends.
///
/// # Errors
/// [`crate::Error::Length`] for a buffer of fewer bytes, [`crate::Error::Alignment`] for one that does not begin at a
/// multiple of 16 bytes (the wide kernel), and those of a launch.
pub fn quantized_vector_add(
    gpu: &Gpu,
    kernel: VectorAdd,
    n: usize,
    (a, a_is): (&Buffer, Affine),
    (b, b_is): (&Buffer, Affine),
    (out, out_is): (&Buffer, Affine),
) -> Result<()> {
    const OP: &str = "quantized_vector_add";
    let alignment = if kernel == VectorAdd::Wide { 16 } else { 1 };
    let arg = |what, buffer: &Buffer| buffer.arg(OP, what, n, alignment);
    let mut args = vec![arg("a", a)?, arg("b", b)?, arg("out", out)?, Arg::I64(n as i64)];
    let threads = THREADS as usize;
    let (name, blocks) = match kernel {
        VectorAdd::Strided => {
            args.push(int(OP, STRETCH)?.into());
            ("quantized_vector_add_strided", int(OP, n.div_ceil(STRETCH * threads))? as u32)
        }
        VectorAdd::Coalesced => {
            ("quantized_vector_add_coalesced", blocks(gpu, n.div_ceil(threads), 8))
        }
        VectorAdd::Wide => ("quantized_vector_add", blocks(gpu, n.div_ceil(16 * threads), 8)),
    };
    for is in [a_is, b_is] {
        args.extend([Arg::F32(is.scale), Arg::I32(is.zero_point)]);
    }
    args.extend([Arg::F32(1.0 / out_is.scale), Arg::I32(out_is.zero_point)]);
    // SAFETY: the kernel reads and writes `n` bytes of each buffer, which have them.
    unsafe { gpu.launch(&Kernel::new(&VECTOR_ADD, name), Launch::new(blocks, THREADS), &args) }
}

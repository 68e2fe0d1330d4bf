//! The i-quants: elements in fours or eights from a code book. IQ1..IQ3 are decoded only.

mod grids;
mod iq1;
mod iq2;
mod iq3;
mod iq4;

pub use grids::{
    IQ_SIGNS, IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID,
};
pub use iq1::{BlockIq1M, BlockIq1S, IQ1_DELTA};
pub use iq2::{BlockIq2S, BlockIq2Xs, BlockIq2Xxs};
pub use iq3::{BlockIq3S, BlockIq3Xxs};
pub use iq4::{BlockIq4Nl, BlockIq4Xs, KVALUES_IQ4NL};

/// Writes `scale * value`, negated where the bit of `signs` is set.
#[inline(always)]
fn write_signed(out: &mut [f32], scale: f32, values: &[u8], signs: u8) {
    for (j, (x, &v)) in out.iter_mut().zip(values).enumerate() {
        *x = scale * f32::from(v) * if signs >> j & 1 == 1 { -1.0 } else { 1.0 };
    }
}

/// The output as an array, so that its length is known.
#[inline(always)]
fn chunk(out: &mut [f32]) -> &mut [f32; 256] {
    out.try_into().expect("as long as a block")
}

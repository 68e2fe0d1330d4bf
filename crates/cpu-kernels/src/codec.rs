//! Rows of any element type to and from f32, with the instructions of an [`Isa`].
//!
//! The loops are those of [`blocks`], compiled once more for each instruction set: every one of
//! them gives the same bits.

use crate::simd::{self, Op, Simd};
use crate::{DType, Isa};
use blocks::{BlockError, Target, Work};

impl Target for Isa {
    /// # Panics
    /// If the processor does not have the instructions.
    fn run<W: Work>(self, work: W) -> W::Output {
        simd::dispatch(self, Compiled(work))
    }
}

/// Work that needs no lanes of ours: only what it is compiled for counts.
struct Compiled<W>(W);

impl<W: Work> Op for Compiled<W> {
    type Output = W::Output;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> W::Output {
        self.0.run()
    }
}

/// [`blocks::decode`], with the instructions of this process ([`Isa::active`]).
///
/// # Errors
/// If the elements are no whole number of blocks, or take another number of bytes.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    blocks::decode_on(Isa::active(), dtype, bytes, out)
}

/// [`blocks::encode`], with the instructions of this process ([`Isa::active`]).
///
/// # Errors
/// If lengths disagree, a row is no whole number of blocks, a value or an importance cannot be
/// encoded, or the type can only be decoded. `out` may be partly written then.
pub fn encode(
    dtype: DType,
    x: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), BlockError> {
    blocks::encode_on(Isa::active(), dtype, x, row_len, importance, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rows that a search may stumble over: of one magnitude or of all that f32 has, subnormal,
    /// sparse, constant, alternating, of many ties, zero.
    fn row(len: usize) -> impl Strategy<Value = Vec<f32>> {
        let any = any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |v| v.is_finite());
        let values = |v: BoxedStrategy<f32>| prop::collection::vec(v, len);
        prop_oneof![
            values((-1.0f32..1.0).boxed()),
            values(any.boxed()),
            values((-1e-15f32..1e-15).boxed()),
            values((0..1u32 << 23).prop_map(f32::from_bits).boxed()),
            values((1e37f32..3e38).boxed()),
            values((0..9i8).prop_map(|q| f32::from(q - 4) * 0.5).boxed()),
            values(prop_oneof![9 => Just(0.0f32), 1 => -50.0f32..50.0].boxed()),
            values(prop_oneof![Just(0.0f32), Just(-0.0)].boxed()),
            (-9.0f32..9.0).prop_map(move |c| vec![c; len]),
            (-9.0f32..9.0)
                .prop_map(move |c| (0..len).map(|i| if i % 2 == 0 { c } else { -c }).collect()),
        ]
    }

    fn dtype() -> impl Strategy<Value = DType> {
        prop::sample::select(DType::ALL)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 2000 }))]

        #[test]
        fn every_path_encodes_to_the_same_bytes(
            dtype in dtype().prop_filter("encodable", |&t| blocks::can_encode(t)),
            x in row(3 * 512), row_len in prop::sample::select(&[256usize, 512, 768][..]),
            importance in prop::option::of(prop::collection::vec(
                prop_oneof![0.0f32..2.0, Just(0.0f32), Just(1e20)], 768)),
        ) {
            let importance = importance.as_ref().map(|w| &w[..row_len]);
            let mut expected = vec![0; dtype.bytes_for(x.len()).expect("whole blocks")];
            let result = blocks::encode(dtype, &x, row_len, importance, &mut expected);
            prop_assert_eq!(result, Ok(()));
            for isa in Isa::supported() {
                let mut got = vec![0x55; expected.len()];
                let result = blocks::encode_on(isa, dtype, &x, row_len, importance, &mut got);
                prop_assert_eq!(result, Ok(()));
                prop_assert!(got == expected, "{dtype} on {isa}");
            }
        }

        #[test]
        fn every_path_decodes_to_the_same_bits(
            dtype in dtype(), bytes in prop::collection::vec(any::<u8>(), 3 * 512),
        ) {
            let blocks = bytes.len() / dtype.block_bytes();
            let bytes = &bytes[..blocks * dtype.block_bytes()];
            let mut expected = vec![0.0; blocks * dtype.block_len()];
            prop_assert_eq!(blocks::decode(dtype, bytes, &mut expected), Ok(()));
            for isa in Isa::supported() {
                let mut got = vec![1.0; expected.len()];
                prop_assert_eq!(blocks::decode_on(isa, dtype, bytes, &mut got), Ok(()));
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                prop_assert!(got.iter().zip(&expected).all(same), "{dtype} on {isa}");
            }
        }
    }

    #[test]
    fn what_cannot_be_encoded_is_named_alike() {
        let mut x = [1.0; 64];
        x[40] = f32::NAN;
        for isa in Isa::supported() {
            let result = blocks::encode_on(isa, DType::Q8_0, &x, 32, None, &mut [0; 68]);
            assert_eq!(result, Err(BlockError::NotFinite { dtype: DType::Q8_0, index: 40 }));
        }
    }
}

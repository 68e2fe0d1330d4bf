//! Types of one element a block: floats, integers, booleans.

use half::bf16;

use crate::{DType, Work, float16};

/// Calls `$f` for each element, read as `$t`.
macro_rules! widen {
    ($t:ty, $bytes:expr, $out:expr, $f:expr) => {
        for (x, bytes) in $out.iter_mut().zip($bytes.as_chunks::<{ size_of::<$t>() }>().0) {
            *x = $f(<$t>::from_le_bytes(*bytes));
        }
    };
}

/// Writes `$f` of each element, a `$t`.
macro_rules! narrow {
    ($t:ty, $x:expr, $bytes:expr, $f:expr) => {
        for (x, bytes) in $x.iter().zip($bytes.as_chunks_mut::<{ size_of::<$t>() }>().0) {
            let narrowed: $t = $f(*x);
            *bytes = narrowed.to_le_bytes();
        }
    };
}

/// Elements of a plain type to f32. The lengths agree.
pub(crate) struct Decode<'a> {
    pub(crate) dtype: DType,
    pub(crate) bytes: &'a [u8],
    pub(crate) out: &'a mut [f32],
}

impl Work for Decode<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Self { dtype, bytes, out } = self;
        match dtype {
            DType::F32 => widen!(f32, bytes, out, |v| v),
            DType::F16 => widen!(u16, bytes, out, float16::widen),
            DType::BF16 => widen!(bf16, bytes, out, bf16::to_f32),
            DType::F64 => widen!(f64, bytes, out, |v| v as f32),
            DType::I8 => widen!(i8, bytes, out, f32::from),
            DType::I16 => widen!(i16, bytes, out, f32::from),
            DType::I32 => widen!(i32, bytes, out, |v| v as f32),
            DType::I64 => widen!(i64, bytes, out, |v| v as f32),
            DType::U8 => widen!(u8, bytes, out, f32::from),
            DType::U16 => widen!(u16, bytes, out, f32::from),
            DType::U32 => widen!(u32, bytes, out, |v| v as f32),
            DType::U64 => widen!(u64, bytes, out, |v| v as f32),
            DType::Bool => widen!(u8, bytes, out, |v: u8| f32::from(u8::from(v != 0))),
            _ => unreachable!("{dtype} is made of blocks"),
        }
    }
}

/// Whether the plain type has infinities and NaN.
pub(crate) const fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
}

/// f32 to elements of a plain type. The lengths agree, and for integers the values are finite.
///
/// Floats round to nearest, ties to even; too large becomes infinite, NaN stays NaN. Integers round
/// likewise and saturate; booleans are whether a value is other than 0.
pub(crate) struct Encode<'a> {
    pub(crate) dtype: DType,
    pub(crate) x: &'a [f32],
    pub(crate) out: &'a mut [u8],
}

impl Work for Encode<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Self { dtype, x, out } = self;
        match dtype {
            DType::F32 => narrow!(f32, x, out, |v| v),
            DType::F16 => narrow!(u16, x, out, float16::narrow),
            DType::BF16 => narrow!(bf16, x, out, bf16::from_f32),
            DType::F64 => narrow!(f64, x, out, f64::from),
            DType::I8 => narrow!(i8, x, out, |v: f32| v.round_ties_even() as i8),
            DType::I16 => narrow!(i16, x, out, |v: f32| v.round_ties_even() as i16),
            DType::I32 => narrow!(i32, x, out, |v: f32| v.round_ties_even() as i32),
            DType::I64 => narrow!(i64, x, out, |v: f32| v.round_ties_even() as i64),
            DType::U8 => narrow!(u8, x, out, |v: f32| v.round_ties_even() as u8),
            DType::U16 => narrow!(u16, x, out, |v: f32| v.round_ties_even() as u16),
            DType::U32 => narrow!(u32, x, out, |v: f32| v.round_ties_even() as u32),
            DType::U64 => narrow!(u64, x, out, |v: f32| v.round_ties_even() as u64),
            DType::Bool => narrow!(u8, x, out, |v: f32| u8::from(v != 0.0)),
            _ => unreachable!("{dtype} is made of blocks"),
        }
    }
}

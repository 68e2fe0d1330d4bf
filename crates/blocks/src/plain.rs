//! Types of one element a block: floats, integers, booleans.

use half::{bf16, f16};

use crate::{BlockError, DType};

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

/// Decodes a plain type; false if the type is none. The lengths must agree.
pub(crate) fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> bool {
    match dtype {
        DType::F32 => widen!(f32, bytes, out, |v| v),
        DType::F16 => widen!(f16, bytes, out, f16::to_f32),
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
        _ => return false,
    }
    true
}

/// Encodes to a plain type; false if the type is none. The lengths must agree.
///
/// Floats round to nearest, ties to even; too large becomes infinite, NaN stays NaN. Integers round
/// likewise and saturate; booleans are whether a value is other than 0.
pub(crate) fn encode(dtype: DType, x: &[f32], bytes: &mut [u8]) -> Result<bool, BlockError> {
    match dtype {
        DType::F32 => narrow!(f32, x, bytes, |v| v),
        DType::F16 => narrow!(f16, x, bytes, f16::from_f32),
        DType::BF16 => narrow!(bf16, x, bytes, bf16::from_f32),
        DType::F64 => narrow!(f64, x, bytes, f64::from),
        _ if dtype.is_quantized() => return Ok(false),
        _ => {
            if let Some(index) = x.iter().position(|v| !v.is_finite()) {
                return Err(BlockError::NotFinite { dtype, index });
            }
            match dtype {
                DType::I8 => narrow!(i8, x, bytes, |v: f32| v.round_ties_even() as i8),
                DType::I16 => narrow!(i16, x, bytes, |v: f32| v.round_ties_even() as i16),
                DType::I32 => narrow!(i32, x, bytes, |v: f32| v.round_ties_even() as i32),
                DType::I64 => narrow!(i64, x, bytes, |v: f32| v.round_ties_even() as i64),
                DType::U8 => narrow!(u8, x, bytes, |v: f32| v.round_ties_even() as u8),
                DType::U16 => narrow!(u16, x, bytes, |v: f32| v.round_ties_even() as u16),
                DType::U32 => narrow!(u32, x, bytes, |v: f32| v.round_ties_even() as u32),
                DType::U64 => narrow!(u64, x, bytes, |v: f32| v.round_ties_even() as u64),
                _ => narrow!(u8, x, bytes, |v: f32| u8::from(v != 0.0)),
            }
        }
    }
    Ok(true)
}

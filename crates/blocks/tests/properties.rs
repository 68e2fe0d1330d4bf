//! Whatever the bytes and the values: nothing panics, lengths are checked, an encoding stays close
//! to its values, and odd scales behave by the formula.

use blocks::*;
use proptest::prelude::*;

/// A random type, and a few of its blocks.
fn random_blocks() -> impl Strategy<Value = (DType, Vec<u8>)> {
    (prop::sample::select(DType::ALL), 1..4usize).prop_flat_map(|(dtype, blocks)| {
        let bytes = dtype.block_bytes() * blocks;
        (Just(dtype), prop::collection::vec(any::<u8>(), bytes))
    })
}

/// A row whose values differ in magnitude as much as f32 allows, but are finite.
fn wild_row(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let any_finite = any::<u32>().prop_map(|bits| {
        let x = f32::from_bits(bits);
        if x.is_finite() { x } else { 0.0 }
    });
    prop::collection::vec(prop_oneof![any_finite, -1.0f32..1.0, Just(0.0)], len)
}

fn encodable() -> impl Strategy<Value = DType> {
    let types: Vec<DType> = DType::ALL.iter().copied().filter(|&t| can_encode(t)).collect();
    prop::sample::select(types)
}

proptest! {
    #[test]
    fn any_bytes_decode((dtype, bytes) in random_blocks()) {
        let elements = bytes.len() / dtype.block_bytes() * dtype.block_len();
        let mut out = vec![0.0; elements];
        prop_assert_eq!(decode(dtype, &bytes, &mut out), Ok(()));
        prop_assert!(decode(dtype, &bytes[1..], &mut out).is_err());
        prop_assert!(decode(dtype, &bytes, &mut out[1..]).is_err());
        let mut again = vec![1.0; elements];
        let mut moved = vec![0; bytes.len() + 1];
        moved[1..].copy_from_slice(&bytes);
        decode(dtype, &moved[1..], &mut again).expect("decodes at any address");
        prop_assert!(out.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn any_finite_values_encode(dtype in encodable(), x in wild_row(512), weighted in any::<bool>(),
                                importance in prop::collection::vec(0.0f32..1e6, 256)) {
        let mut out = vec![0; dtype.bytes_for(512).expect("whole blocks")];
        encode(dtype, &x, 256, weighted.then_some(&importance[..]), &mut out).expect("finite");
        decode(dtype, &out, &mut vec![0.0; 512]).expect("as long");
    }

    /// Blocks are encoded side by side, and some sides stay empty at the end of a row.
    #[test]
    fn a_block_is_encoded_as_alone(dtype in encodable(), blocks in 1..20usize, x in wild_row(20 * 256)) {
        let (len, size) = (dtype.block_len(), dtype.block_bytes());
        let x = &x[..blocks * len];
        let (mut row, mut alone) = (vec![0; blocks * size], vec![0; size]);
        encode(dtype, x, x.len(), None, &mut row).expect("finite");
        for (x, of_row) in x.chunks(len).zip(row.chunks(size)) {
            encode(dtype, x, len, None, &mut alone).expect("finite");
            prop_assert_eq!(&alone, of_row);
        }
    }

    /// About a step of the grid that the type lays over values of at most 1: half a step for
    /// rounding, the rest for scales that are rounded themselves or clip the largest values.
    #[test]
    fn encodings_stay_close(x in prop::collection::vec(-1.0f32..1.0, 256), seed in 0..1000u32) {
        let importance: Vec<f32> = (0..256u32).map(|i| 1.0 + ((i * 7919 + seed) % 97) as f32 / 97.0).collect();
        for (dtype, bound) in [
            (DType::F16, 0.0005), (DType::BF16, 0.004), (DType::Q8_0, 0.005), (DType::Q8_1, 0.005),
            (DType::Q8_K, 0.005), (DType::Q6_K, 0.08), (DType::Q5_0, 0.16), (DType::Q5_1, 0.12),
            (DType::Q5_K, 0.16), (DType::Q4_0, 0.26), (DType::Q4_1, 0.24), (DType::Q4_K, 0.3),
            (DType::IQ4_NL, 0.4), (DType::IQ4_XS, 0.42), (DType::MXFP4, 0.5), (DType::NVFP4, 0.35),
            (DType::Q3_K, 0.6), (DType::Q2_K, 1.0), (DType::TQ1_0, 0.51), (DType::TQ2_0, 0.51),
        ] {
            for importance in [None, Some(&importance[..])] {
                let mut bytes = vec![0; dtype.bytes_for(256).expect("whole blocks")];
                encode(dtype, &x, 256, importance, &mut bytes).expect("encodes");
                let mut y = vec![0.0; 256];
                decode(dtype, &bytes, &mut y).expect("decodes");
                let worst = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                prop_assert!(worst <= bound, "{dtype}: {worst}");
            }
        }
    }

    #[test]
    fn decoded_values_encode_to_themselves(x in prop::collection::vec(-8i32..8, 256)) {
        // Values that lie on the grid of the type, its extreme one among them.
        let mut on_grid: Vec<f32> = x.iter().map(|&q| q as f32 * 0.5).collect();
        for block in on_grid.chunks_exact_mut(32) {
            block[0] = -4.0;
        }
        let mut bytes = vec![0; DType::Q4_0.bytes_for(256).expect("whole blocks")];
        encode(DType::Q4_0, &on_grid, 256, None, &mut bytes).expect("encodes");
        let mut y = vec![0.0; 256];
        decode(DType::Q4_0, &bytes, &mut y).expect("decodes");
        prop_assert_eq!(on_grid, y);
    }
}

/// The byte range of the half-precision scales of a block type.
fn scale_at(dtype: DType) -> usize {
    match dtype {
        DType::Q2_K => 80,
        DType::Q3_K => 108,
        DType::Q6_K => 208,
        DType::TQ1_0 => 52,
        DType::TQ2_0 => 64,
        _ => 0,
    }
}

#[test]
fn scales_at_the_edges_follow_the_formula() {
    // Infinity, NaN, the smallest subnormal, the largest number.
    for dtype in DType::ALL.iter().copied().filter(|t| t.is_quantized()) {
        if matches!(dtype, DType::MXFP4 | DType::NVFP4 | DType::Q8_K | DType::IQ1_M) {
            continue; // no half-precision scale in one place
        }
        let decode_with = |scale: u16| {
            let mut bytes = vec![0x5a; dtype.block_bytes()];
            if matches!(dtype, DType::Q4_1 | DType::Q5_1) {
                bytes[2..4].fill(0); // the minimum
            }
            if matches!(dtype, DType::Q4_K | DType::Q5_K) {
                bytes[2..4].fill(0);
            }
            if dtype == DType::Q2_K {
                bytes[82..84].fill(0);
            }
            bytes[scale_at(dtype)..][..2].copy_from_slice(&scale.to_le_bytes());
            let mut out = vec![0.0f32; dtype.block_len()];
            decode(dtype, &bytes, &mut out).expect("decodes");
            out
        };
        let one = decode_with(0x3c00);
        let smallest = decode_with(0x0001);
        let largest = decode_with(0x7bff);
        for i in 0..one.len() {
            assert_eq!(smallest[i], one[i] * 2f32.powi(-24), "{dtype} {i}");
            assert!(
                (largest[i] - one[i] * 65504.0).abs() <= largest[i].abs() * 1e-6,
                "{dtype} {i}"
            );
        }
        let infinite = decode_with(0x7c00);
        for (x, one) in infinite.iter().zip(&one) {
            assert!(
                if *one == 0.0 { x.is_nan() } else { *x == one * f32::INFINITY },
                "{dtype}: {x} for {one}"
            );
        }
        assert!(decode_with(0x7e00).iter().all(|x| x.is_nan()), "{dtype}");
    }
}

#[test]
fn q8_k_and_q8_1_by_the_formula() {
    let x: Vec<f32> = (0..256).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
    let mut block = [<BlockQ8K as bytemuck::Zeroable>::zeroed()];
    BlockQ8K::encode_row(&x, None, &mut block);
    let block = block[0];
    // The value of largest magnitude, -50 at first, becomes 127.
    let d = f32::from_le_bytes(block.d);
    assert!((d - -50.0 / -127.0).abs() < 1e-7 && block.qs[0] == -127, "{d} {}", block.qs[0]);
    for (g, sum) in block.bsums.iter().enumerate() {
        let expected: i32 = block.qs[16 * g..][..16].iter().map(|&q| i32::from(q)).sum();
        assert_eq!(i32::from(sum.get() as i16), expected);
    }
    let mut y = vec![0.0; 256];
    block.decode(&mut y);
    assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= 0.5 * d.abs() + 1e-6));

    let mut block = [<BlockQ8_1 as bytemuck::Zeroable>::zeroed()];
    BlockQ8_1::encode_row(&x[..32], None, &mut block);
    let sum: i32 = block[0].qs.iter().map(|&q| i32::from(q)).sum();
    assert_eq!(block[0].s, Half::from_f32(sum as f32 * (50.0 / 127.0)));
    block[0].decode(&mut y[..32]);
    assert_eq!(y[0], -127.0 * block[0].d.to_f32());
}

#[test]
fn plain_types_widen_and_narrow() {
    let check = |dtype: DType, x: &[f32], expected: &[f32]| {
        let mut bytes = vec![0; dtype.bytes_for(x.len()).expect("plain")];
        encode(dtype, x, x.len(), None, &mut bytes).expect("encodes");
        let mut y = vec![0.0; x.len()];
        decode(dtype, &bytes, &mut y).expect("decodes");
        assert_eq!(y, expected, "{dtype}");
    };
    let x = [0.5, 1.5, -2.5, 300.0, -1e9, 0.0];
    check(DType::F32, &x, &x);
    check(DType::F64, &x, &x);
    check(DType::F16, &x, &[0.5, 1.5, -2.5, 300.0, f32::NEG_INFINITY, 0.0]);
    check(DType::BF16, &[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0], &[1.0, 1.015_625]); // ties to even
    check(DType::I8, &x, &[0.0, 2.0, -2.0, 127.0, -128.0, 0.0]);
    check(DType::U8, &x, &[0.0, 2.0, 0.0, 255.0, 0.0, 0.0]);
    check(DType::I16, &x, &[0.0, 2.0, -2.0, 300.0, -32768.0, 0.0]);
    check(DType::U16, &x, &[0.0, 2.0, 0.0, 300.0, 0.0, 0.0]);
    check(DType::I32, &x, &[0.0, 2.0, -2.0, 300.0, -1e9, 0.0]);
    check(DType::U32, &x, &[0.0, 2.0, 0.0, 300.0, 0.0, 0.0]);
    check(DType::I64, &x, &[0.0, 2.0, -2.0, 300.0, -1e9, 0.0]);
    check(DType::U64, &x, &[0.0, 2.0, 0.0, 300.0, 0.0, 0.0]);
    check(DType::Bool, &x, &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let mut bytes = vec![0; dtype.block_bytes()];
        encode(dtype, &[f32::NAN], 1, None, &mut bytes).expect("floats take NaN");
        let mut y = [0.0];
        decode(dtype, &bytes, &mut y).expect("decodes");
        assert!(y[0].is_nan(), "{dtype}");
    }
}

#[test]
fn wrong_arguments_are_named() {
    let mut x = vec![1.0; 64];
    let mut out = vec![0; 36];
    let error = |x: &[f32], row_len, importance, out: &mut [u8]| {
        encode(DType::Q4_0, x, row_len, importance, out).expect_err("must fail")
    };
    let dtype = DType::Q4_0;
    assert_eq!(error(&x, 0, None, &mut out), BlockError::PartialRow { row_len: 0, elements: 64 });
    assert_eq!(error(&x, 48, None, &mut out), BlockError::PartialRow { row_len: 48, elements: 64 });
    assert_eq!(error(&x, 16, None, &mut out), BlockError::PartialBlock { dtype, elements: 16 });
    assert_eq!(
        error(&x, 64, None, &mut out[1..]),
        BlockError::ByteCount { dtype, elements: 64, expected: 36, got: 35 }
    );
    assert_eq!(
        error(&x, 32, Some(&[1.0; 64]), &mut out),
        BlockError::ImportanceCount { expected: 32, got: 64 }
    );
    assert_eq!(error(&x, 32, Some(&[-1.0; 32]), &mut out), BlockError::Importance { column: 0 });
    x[40] = f32::INFINITY;
    assert_eq!(error(&x, 32, None, &mut out), BlockError::NotFinite { dtype, index: 40 });
    assert_eq!(
        encode(DType::IQ2_XXS, &[0.0; 256], 256, None, &mut [0; 66]),
        Err(BlockError::NoEncoder { dtype: DType::IQ2_XXS })
    );
    assert_eq!(encode(dtype, &[], 32, None, &mut []), Ok(()));
}

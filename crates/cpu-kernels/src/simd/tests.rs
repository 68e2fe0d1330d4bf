//! Each operation on each path against the portable one.

use super::*;
use crate::Isa;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// All operations on the same random input; the results as bits.
struct Everything<'a> {
    bytes: &'a [u8],
    stride: usize,
    table: [u8; 16],
}

fn bits(v: &[f32; LANES]) -> Line {
    let mut line = [0; 64];
    for (to, v) in line.as_chunks_mut::<4>().0.iter_mut().zip(v) {
        // NaNs differ in their payload only.
        *to = if v.is_nan() { [0xff; 4] } else { v.to_bits().to_le_bytes() };
    }
    line
}

impl Op for Everything<'_> {
    type Output = Vec<(&'static str, Line)>;
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let mut all = Vec::new();
        let mut line = [0; 64];
        let mut lanes = [0.0; LANES];
        let tile = Tile::new(self.bytes, self.stride, self.stride);
        let [a, b, c, d] = s.load_4(tile, 3);
        let one = s.load_1(tile, self.stride - 4);
        let index = s.and(a, s.splat_i(0x0f0f_0f0f));
        let narrow = s.and(a, s.splat_i(0x7f7f_7f7f));
        // Signed bytes of at least -127.
        let signed = s.or(b, s.splat_i(0x0101_0101));
        let mut wide = s.dot::<true>(c, a, signed);
        if S::SIGNED {
            let sum = s.dot::<false>(s.splat_i(0), s.splat_i(0x0101_0101), signed);
            wide = s.add_i(wide, s.shl(sum, 7));
        }
        // Sums of pairs where they are there, else what they come to.
        let pairs = match S::PAIRS {
            true => s.dot_16(c, s.add_pairs(s.splat_i(0), narrow, signed), s.splat_i(0x0001_0001)),
            false => s.dot::<false>(c, narrow, signed),
        };
        let twice = match S::PAIRS {
            true => s.twice(a),
            false => s.or(s.and(a, s.splat_i(0xffff)), s.shl(a, 16)),
        };
        let integers = [
            ("load 0", a),
            ("load 1", b),
            ("load 2", c),
            ("load 3", d),
            ("load_1", one),
            ("and", s.and(a, b)),
            ("or", s.or(a, b)),
            ("xor", s.xor(a, b)),
            ("add", s.add_i(a, b)),
            ("sub_bytes", s.sub_bytes(a, b)),
            ("mul", s.mul_i(a, b)),
            ("dot_16", s.dot_16(c, a, b)),
            ("max", s.max_i(a, b)),
            ("largest", s.splat_i(s.largest(a))),
            ("shl", s.shl(a, 5)),
            ("shr", s.shr(a, 5)),
            ("sar", s.sar(a, 5)),
            ("look_up", s.look_up(&self.table, index)),
            ("dot narrow", s.dot::<false>(c, narrow, signed)),
            ("dot wide", wide),
            ("add_pairs", pairs),
            ("twice", twice),
            ("to_i", s.to_i(s.to_f(s.sar(a, 4)))),
            ("to_i of halves", s.to_i(s.mul(s.to_f(s.sar(a, 20)), s.splat_f(0.5)))),
            ("to_i of quarters", s.to_i(s.mul(s.to_f(s.sar(b, 20)), s.splat_f(0.25)))),
        ];
        for (name, v) in integers {
            s.store_i(v, &mut line);
            all.push((name, line));
        }
        let mut bytes = [0; LANES];
        s.store_bytes(a, &mut bytes);
        line[..LANES].copy_from_slice(&bytes);
        all.push(("store_bytes", line));
        let [low, high] = s.f16_pair(a);
        // Two small integers, whose sums and products are exact.
        let (x, y) = (s.to_f(s.sar(a, 20)), s.to_f(s.sar(b, 20)));
        let halves = self.bytes.as_chunks::<32>().0;
        let floats = [
            ("f16 low", low),
            ("f16 high", high),
            ("widen_f16", s.widen_f16(&halves[0])),
            ("widen_bf16", s.widen_bf16(&halves[1])),
            ("widen_i8", s.widen_i8(&self.bytes.as_chunks().0[2])),
            ("as_f", s.as_f(a)),
            ("splat_f", s.splat_f(1.5)),
            ("add", s.add(x, y)),
            ("sub", s.sub(x, y)),
            ("mul", s.mul(x, y)),
            ("div", s.div(x, y)),
            ("fma", s.fma(x, y, x)),
            ("max", s.max(x, y)),
            ("min", s.min(x, y)),
            ("max NaN second", s.max(x, s.splat_f(f32::NAN))),
            ("max NaN first", s.max(s.splat_f(f32::NAN), x)),
            ("min NaN second", s.min(x, s.splat_f(f32::NAN))),
            ("min NaN first", s.min(s.splat_f(f32::NAN), x)),
        ];
        for (name, v) in floats {
            s.store_f(v, &mut lanes);
            all.push((name, bits(&lanes)));
        }
        all
    }
}

#[test]
fn every_path_does_the_same() {
    let mut rng = StdRng::seed_from_u64(11);
    for round in 0..300 {
        let stride = 20 + round % 70;
        let bytes: Vec<u8> = (0..LANES * stride).map(|_| rng.random()).collect();
        let table = rng.random();
        let op = || Everything { bytes: &bytes, stride, table };
        let want = op().run(portable::Portable);
        for isa in Isa::supported() {
            for ((name, got), (_, want)) in dispatch(isa, op()).iter().zip(&want) {
                assert_eq!(got, want, "{isa}: {name}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "16 rows lie within")]
fn a_tile_lies_within_its_bytes() {
    Tile::new(&[0; 16 * 8 - 1], 8, 8);
}

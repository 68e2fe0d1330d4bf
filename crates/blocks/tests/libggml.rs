//! Against libggml: what it decodes from random blocks, and what it encodes from floats, plain and
//! with an importance matrix (`shared/tools/blocks_oracle.py` made the answers).

use std::fs::File;

use blocks::{DType, can_encode, decode, encode};
use ndarray::{Array1, Array2};
use ndarray_npy::NpzReader;

/// The types in the archive: names of the form `TYPE.suffix`.
fn types_with(npz: &mut NpzReader<File>, suffix: &str) -> Vec<DType> {
    let names = npz.names().expect("a readable archive");
    let types = names.iter().filter_map(|n| n.trim_end_matches(".npy").strip_suffix(suffix));
    types.map(|name| name.parse().expect("a known type")).collect()
}

fn open(name: &str) -> Option<NpzReader<File>> {
    let path = testkit::shared(&format!("oracle/blocks/{name}"))?;
    Some(NpzReader::new(File::open(path).expect("readable")).expect("an archive"))
}

#[test]
fn decodes_to_the_same_bits() {
    let Some(mut npz) = open("decode.npz") else { return };
    let types = types_with(&mut npz, ".bytes");
    assert!(types.len() >= 27, "{types:?}");
    for dtype in types {
        let bytes: Array2<u8> = npz.by_name(&format!("{dtype}.bytes")).expect("bytes");
        let expected: Array2<f32> = npz.by_name(&format!("{dtype}.f32")).expect("floats");
        let mut got = vec![0.0; expected.len()];
        decode(dtype, bytes.as_slice().expect("contiguous"), &mut got).expect("decodable");
        let differing =
            got.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(differing, 0, "{dtype}: of {} values", got.len());
    }
}

/// The error that an encoding leaves, weighted by column.
fn error(dtype: DType, bytes: &[u8], x: &Array2<f32>, weights: Option<&Array1<f32>>) -> f64 {
    let mut decoded = vec![0.0; x.len()];
    decode(dtype, bytes, &mut decoded).expect("decodable");
    let weight = |i: usize| weights.map_or(1.0, |w| f64::from(w[i % w.len()]));
    decoded.iter().zip(x).enumerate().map(|(i, (d, x))| weight(i) * f64::from(d - x).powi(2)).sum()
}

#[test]
fn encodes_to_the_same_bytes() {
    let Some(mut npz) = open("encode.npz") else { return };
    let x: Array2<f32> = npz.by_name("x").expect("x");
    let importance: Array1<f32> = npz.by_name("imatrix").expect("imatrix");
    let mut compared = 0;
    for (kind, importance) in [("plain", None), ("imatrix", Some(&importance))] {
        for dtype in
            types_with(&mut npz, &format!(".{kind}")).into_iter().filter(|&t| can_encode(t))
        {
            let expected: Array2<u8> = npz.by_name(&format!("{dtype}.{kind}")).expect("bytes");
            let expected = expected.as_slice().expect("contiguous");
            let mut got = vec![0; expected.len()];
            let weights = importance.map(|w| w.as_slice().expect("contiguous"));
            encode(dtype, x.as_slice().expect("contiguous"), x.ncols(), weights, &mut got)
                .expect("encodable");
            let differing = got.iter().zip(expected).filter(|(a, b)| a != b).count();
            let (ours, theirs) =
                (error(dtype, &got, &x, importance), error(dtype, expected, &x, importance));
            println!(
                "{dtype} {kind}: {differing} of {} bytes differ, error {ours:e} against {theirs:e}",
                got.len()
            );
            assert_eq!(differing, 0, "{dtype} {kind}: error {ours:e} against {theirs:e}");
            compared += 1;
        }
    }
    assert!(compared >= 38, "{compared}");
}

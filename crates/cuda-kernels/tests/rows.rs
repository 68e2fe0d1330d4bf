//! Rows picked, added up and ranked, against what the CPU does.

mod common;

use blocks::DType;
use common::{normal, on_each, poisoned, random};
use cuda_kernels::ops::rows::*;
use cuda_kernels::{Buffer, Error};
use rand::Rng;

/// Sizes of a matrix: columns that are a multiple of four, and not; several blocks of a grid.
const SIZES: [(usize, usize); 4] = [(1, 1), (9, 12), (5, 33), (3, 1100)];

/// Bits, so that NaN can be compared.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// A result of `n` elements behind which nothing was written.
#[track_caller]
fn whole(out: &Buffer, n: usize) -> Vec<f32> {
    let all: Vec<f32> = out.download().unwrap();
    assert!(all.len() > n && all[n..].iter().all(|x| x.to_bits() == u32::MAX), "beyond the end");
    all[..n].to_vec()
}

#[test]
fn rows_are_picked() {
    for (rows, cols) in SIZES {
        let random = &mut random(cols as u64);
        let x = normal(random, rows * cols, 1.0);
        // One before, one behind; the others any.
        let mut ids = vec![-1, rows as i32, i32::MAX, i32::MIN];
        ids.extend((0..40).map(|_| (random.next_u32() as usize % rows) as i32));
        let row = |id: i32| match usize::try_from(id) {
            Ok(id) if id < rows => x[id * cols..(id + 1) * cols].to_vec(),
            _ => vec![f32::NAN; cols],
        };
        let want: Vec<f32> = ids.iter().flat_map(|&id| row(id)).collect();
        on_each(|gpu, name| {
            let (table, at) = (gpu.upload(&x).unwrap(), gpu.upload(&ids).unwrap());
            let out = poisoned(gpu, 4 * (want.len() + 3));
            gather_rows(gpu, &table, rows, cols, &at, ids.len(), &out).unwrap();
            assert_eq!(bits(&whole(&out, want.len())), bits(&want), "{name}: {rows} x {cols}");
        });
    }
}

#[test]
fn weighted_rows_are_added_in_order() {
    for ((rows, cols), n) in SIZES.into_iter().zip([3, 1500, 40, 300]) {
        let random = &mut random(n as u64);
        let (acc, y) = (normal(random, rows * cols, 1.0), normal(random, n * cols, 1.0));
        let weights = normal(random, n, 1.0);
        let mut ids: Vec<i32> =
            (0..n).map(|_| (random.next_u32() as usize % rows) as i32).collect();
        ids[1] = -1;
        ids[2] = rows as i32;
        let mut want = acc.clone();
        for (i, &id) in ids.iter().enumerate().filter(|&(_, &id)| (0..rows as i32).contains(&id)) {
            for c in 0..cols {
                want[id as usize * cols + c] += weights[i] * y[i * cols + c];
            }
        }
        on_each(|gpu, name| {
            let up = |x: &[f32]| gpu.upload(x).unwrap();
            let padded = [&acc[..], &[f32::from_bits(u32::MAX); 3]].concat();
            let (out, at) = (up(&padded), gpu.upload(&ids).unwrap());
            scatter_add_rows(gpu, &out, rows, cols, [&at, &up(&weights)], n, &up(&y)).unwrap();
            assert_eq!(whole(&out, want.len()), want, "{name}: {n} rows to {rows} x {cols}");
        });
    }
}

#[test]
fn columns_are_cut_out() {
    on_each(|gpu, name| {
        for (rows, cols) in SIZES {
            let x = normal(&mut random(cols as u64), rows * cols, 1.0);
            for columns in [0..cols, cols / 2..cols, cols / 4 / 4 * 4..cols / 2 / 4 * 4, 1..1] {
                let want: Vec<f32> =
                    x.chunks_exact(cols).flat_map(|row| row[columns.clone()].to_vec()).collect();
                let out = poisoned(gpu, 4 * (want.len() + 3));
                slice_cols(gpu, &gpu.upload(&x).unwrap(), rows, cols, columns.clone(), &out)
                    .unwrap();
                assert_eq!(whole(&out, want.len()), want, "{name}: {columns:?} of {rows} x {cols}");
            }
        }
    });
}

#[test]
fn the_largest_come_first_and_ties_go_to_the_lower_column() {
    for (rows, cols, k) in
        [(1, 1, 1), (5, 8, 2), (6, 128, 8), (2, 1024, 30), (2, 1030, 9), (3, 7, 7)]
    {
        let random = &mut random(cols as u64);
        // Many are equal.
        let mut x: Vec<f32> =
            (0..rows * cols).map(|_| (random.next_u32() % 50) as f32 - 25.0).collect();
        for special in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0] {
            let at = random.next_u32() as usize % (rows * cols);
            x[at] = special;
        }
        let ranked = |row: &[f32]| {
            let mut order: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
            order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            order.truncate(k);
            order
        };
        let want: Vec<(usize, f32)> = x.chunks_exact(cols).flat_map(ranked).collect();
        on_each(|gpu, name| {
            let [columns, values] =
                [poisoned(gpu, 4 * (rows * k + 3)), poisoned(gpu, 4 * (rows * k + 3))];
            top_k(gpu, &gpu.upload(&x).unwrap(), rows, cols, k, [&columns, &values]).unwrap();
            let (at, got) = (columns.download::<i32>().unwrap(), whole(&values, rows * k));
            assert_eq!(at[rows * k..], [-1; 3]);
            let what = format!("{name}: {k} of {rows} x {cols}");
            assert_eq!(
                at[..rows * k],
                want.iter().map(|w| w.0 as i32).collect::<Vec<_>>(),
                "{what}"
            );
            assert_eq!(bits(&got), bits(&want.iter().map(|w| w.1).collect::<Vec<_>>()), "{what}");
        });
    }
}

#[test]
fn a_table_of_any_type() {
    let tables: Vec<DType> = DType::ALL.iter().copied().filter(|&d| can_embed(d)).collect();
    assert_eq!(tables.len(), 21);
    for dtype in tables {
        let plain = if dtype.is_quantized() { 512 } else { 37 };
        for (rows, cols) in [(5usize, 256), (3, 1280), (4, plain)] {
            let x = normal(&mut random(cols as u64), rows * cols, 1.0);
            let mut table = vec![0; dtype.bytes_for(rows * cols).unwrap()];
            blocks::encode(dtype, &x, cols, None, &mut table).unwrap();
            let ids = [2, 0, -1, rows as i32, rows as i32 - 1, 2];
            let row_bytes = table.len() / rows;
            let want: Vec<f32> = ids
                .iter()
                .flat_map(|&id| {
                    let mut row = vec![f32::NAN; cols];
                    if (0..rows as i32).contains(&id) {
                        let bytes = &table[id as usize * row_bytes..][..row_bytes];
                        blocks::decode(dtype, bytes, &mut row).unwrap();
                    }
                    row
                })
                .collect();
            on_each(|gpu, name| {
                let (bytes, at) = (gpu.upload(&table).unwrap(), gpu.upload(&ids).unwrap());
                let out = poisoned(gpu, 4 * (want.len() + 3));
                embed(gpu, dtype, &Table { bytes: &bytes, rows, cols }, &at, ids.len(), &out)
                    .unwrap();
                assert_eq!(
                    bits(&whole(&out, want.len())),
                    bits(&want),
                    "{name}: {dtype}, {rows} x {cols}"
                );
            });
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let (long, short) = (poisoned(gpu, 4 * 64), poisoned(gpu, 4 * 64 - 1));
        let few = &gpu.upload(&[0i32, 1]).unwrap();
        let length =
            |result| assert!(matches!(result, Err(Error::Length { expected: 256, got: 255, .. })));
        length(gather_rows(gpu, &short, 2, 32, few, 2, &long));
        length(gather_rows(gpu, &long, 2, 32, few, 2, &short));
        length(gather_rows(gpu, &long, 64, 1, &short, 64, &long));
        length(scatter_add_rows(gpu, &short, 2, 32, [few, few], 2, &long));
        length(scatter_add_rows(gpu, &long, 2, 32, [few, few], 2, &short));
        length(scatter_add_rows(gpu, &long, 1, 1, [&short, &long], 64, &long));
        length(scatter_add_rows(gpu, &long, 1, 1, [&long, &short], 64, &long));
        length(slice_cols(gpu, &short, 2, 32, 0..2, &long));
        length(slice_cols(gpu, &poisoned(gpu, 512), 2, 64, 0..32, &short));
        length(top_k(gpu, &short, 2, 32, 1, [&long, &long]));
        length(top_k(gpu, &long, 2, 32, 32, [&short, &long]));
        length(top_k(gpu, &long, 2, 32, 32, [&long, &short]));
        let table = |bytes, cols| Table { bytes, rows: 2, cols };
        length(embed(gpu, DType::F32, &table(&short, 32), few, 2, &long));
        length(embed(gpu, DType::F32, &table(&long, 32), few, 2, &short));
        let unsupported = |result| assert!(matches!(result, Err(Error::Unsupported { .. })));
        unsupported(slice_cols(gpu, &long, 2, 32, 30..33, &long));
        unsupported(top_k(gpu, &long, 2, 3, 4, [&long, &long]));
        unsupported(embed(gpu, DType::I8, &table(&long, 32), few, 2, &long));
        unsupported(embed(gpu, DType::Q8_0, &table(&long, 33), few, 2, &long));
        assert!(top_k(gpu, &long, 0, 3, 2, [&long, &long]).is_ok());
        assert!(gather_rows(gpu, &long, 2, 32, few, 0, &long).is_ok());
    });
}

//! Decoding and encoding of each block type with each instruction set, in floats a second.

use std::hint::black_box;
use std::time::Duration;

use blocks::DType;
use cpu_kernels::Isa;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const ROW: usize = 4096;

fn codec(c: &mut Criterion) {
    let row = benches::weights(ROW);
    let types: Vec<DType> =
        DType::ALL.iter().copied().filter(|t| t.is_quantized() && blocks::can_encode(*t)).collect();

    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(ROW as u64)).measurement_time(Duration::from_secs(2));
    for &dtype in &types {
        let bytes = encoded(dtype, &row);
        let mut out = vec![0.0; ROW];
        for isa in Isa::supported() {
            group.bench_function(format!("{dtype}/{isa}"), |b| {
                b.iter(|| blocks::decode_on(isa, dtype, black_box(&bytes), &mut out));
            });
        }
    }
    group.finish();

    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(ROW as u64)).measurement_time(Duration::from_secs(2));
    for &dtype in &types {
        let mut out = encoded(dtype, &row);
        for isa in Isa::supported() {
            group.bench_function(format!("{dtype}/{isa}"), |b| {
                b.iter(|| blocks::encode_on(isa, dtype, black_box(&row), ROW, None, &mut out));
            });
        }
    }
    group.finish();
}

fn encoded(dtype: DType, row: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_for(row.len()).expect("whole blocks")];
    blocks::encode(dtype, row, row.len(), None, &mut bytes).expect("finite");
    bytes
}

criterion_group!(benches, codec);
criterion_main!(benches);

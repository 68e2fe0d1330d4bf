//! Quantizing a tensor with all threads, a whole small file, and what writing it costs at the least.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Duration;

use blocks::DType;
use compress::QuantizeOptions;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use files::{MappedFile, write_atomically};
use gguf::Gguf;
use quant_core::{FileType, Source, Work};

const ROWS: usize = 512;
const COLS: usize = 2048;

fn tensors(c: &mut Criterion) {
    let values = benches::weights(ROWS * COLS);
    let mut group = c.benchmark_group("quantize a tensor");
    group.measurement_time(Duration::from_secs(2)).sample_size(10);
    group.throughput(Throughput::Elements(values.len() as u64));
    for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q6_K, DType::IQ4_XS] {
        let mut out = vec![0; dtype.bytes_for(values.len()).expect("whole blocks")];
        group.bench_function(dtype.name(), |b| {
            b.iter(|| {
                let source = Source::Values(black_box(&values));
                let work = Work::default();
                quant_core::quantize_into(source, ROWS, COLS, dtype, None, work, &mut out)
                    .expect("finite");
            });
        });
    }
    group.finish();
}

fn whole_files(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("out.gguf");
    let bard = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/bard-f16.gguf");
    let input = Gguf::open(&bard).expect("it is embedded");
    let options = QuantizeOptions::default();
    let mut group = c.benchmark_group("files");
    group.measurement_time(Duration::from_secs(2)).sample_size(10);
    group.bench_function("bard to Q4_K_M", |b| {
        b.iter(|| {
            let go_on = &mut |_: &_, _| ControlFlow::Continue(());
            compress::quantize(&input, &path, FileType::Q4_K_M, &options, go_on).expect("written")
        });
    });
    let bytes = std::fs::read(&bard).expect("it is there");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("write in one piece", |b| {
        b.iter(|| write_atomically(&path, black_box(&bytes)).expect("written"));
    });
    group.bench_function("map and read", |b| {
        b.iter(|| {
            let mapped = MappedFile::open(&path).expect("it was written");
            mapped.iter().step_by(64).fold(0u64, |sum, byte| sum + u64::from(*byte))
        });
    });
    group.finish();
}

criterion_group!(benches, tensors, whole_files);
criterion_main!(benches);

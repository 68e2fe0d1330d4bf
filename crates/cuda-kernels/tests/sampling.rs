//! From logits to tokens: the draws of the crate `sampling`, and its distributions.

mod common;

use common::{normal, on_each, poisoned, random};
use cuda_kernels::ops::sampling::*;
use cuda_kernels::{Error, Gpu};
use rand::Rng;
use sampling::{Distribution, Sampler, SamplingParams};

fn tokens_of(gpu: &Gpu, rows: usize, run: impl Fn(&cuda_kernels::Buffer)) -> Vec<i32> {
    let out = poisoned(gpu, 4 * (rows + 2));
    run(&out);
    let all: Vec<i32> = out.download().unwrap();
    assert_eq!(all[rows..], [-1, -1], "beyond the end");
    all[..rows].to_vec()
}

#[test]
fn the_largest_and_of_equals_the_first() {
    const NONE: f32 = f32::NEG_INFINITY;
    let long = |at: usize| -> Vec<f32> {
        (0..8500).map(|i| if i == at { 2.0 } else { (i % 3) as f32 - 1.0 }).collect()
    };
    let cases: Vec<(Vec<f32>, i32)> = vec![
        (vec![1.0, 3.0, 3.0, 2.0], 1),
        (vec![-0.0, 0.0, -0.0, -1.0], 0),
        (vec![f32::NAN, -f32::NAN, 1.0, 1.0], 2),
        (vec![f32::NAN, -f32::NAN, f32::NAN, f32::NAN], -1),
        (vec![f32::NAN, NONE, NONE, f32::NAN], 1),
        (vec![-5.0, f32::INFINITY, 3.0, f32::INFINITY], 1),
        (long(0), 0),
        (long(8499), 8499),
        (vec![7.0], 0),
    ];
    on_each(|gpu, name| {
        for (logits, want) in &cases {
            // Beside other rows, which change nothing.
            let rows = [vec![0.5; logits.len()], logits.clone()].concat();
            let rows = gpu.upload(&rows).unwrap();
            let got = tokens_of(gpu, 2, |out| argmax(gpu, &rows, out, 2, logits.len()).unwrap());
            assert_eq!(got, [0, *want], "{name}: {logits:?}");
        }
    });
}

#[test]
fn logarithms_of_probabilities() {
    for (rows, cols) in [(1usize, 1usize), (3, 10), (2, 5003), (2, 9000)] {
        let mut logits = normal(&mut random(cols as u64), rows * cols, 4.0);
        if cols > 1 {
            logits[cols - 1] = -1000.0;
        }
        let ids: Vec<i32> = (0..rows)
            .flat_map(|_| [0, cols as i32 - 1, -1, cols as i32, (cols / 2) as i32])
            .collect();
        on_each(|gpu, name| {
            let (row, at) = (gpu.upload(&logits).unwrap(), gpu.upload(&ids).unwrap());
            let out = poisoned(gpu, 4 * (ids.len() + 2));
            log_softmax_at(gpu, &row, &at, &out, rows, cols, 5).unwrap();
            let got: Vec<f32> = out.download().unwrap();
            assert!(
                got[ids.len()..].iter().all(|x| x.to_bits() == u32::MAX),
                "{name}: beyond the end"
            );
            for (i, (&id, &got)) in ids.iter().zip(&got).enumerate() {
                let row = &logits[i / 5 * cols..][..cols];
                let Some(&logit) = usize::try_from(id).ok().and_then(|id| row.get(id)) else {
                    assert!(got.is_nan(), "{name}: id {id} of {cols}");
                    continue;
                };
                let want =
                    f64::from(logit) - row.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
                let error = (f64::from(got) - want).abs();
                assert!(
                    error < 2e-6 * (1.0 + want.abs()),
                    "{name}: {id} of {cols}: {got}, not {want}"
                );
            }
        });
    }
}

/// Whether `u` draws the token, or misses it by no more than rounding.
fn draws(distribution: &Distribution, token: i32, u: f64) -> bool {
    const NEAR: f64 = 2e-5;
    let mut before = 0.0;
    for (id, p) in distribution.iter() {
        if id as i32 == token {
            return before - NEAR <= u && u < before + p + NEAR;
        }
        before += p;
    }
    false
}

/// Draws with several numbers from a row, all at once, and looks for each in the distribution.
fn check(logits: &[f32], params: &SamplingParams) {
    const ROWS: usize = 4;
    let distribution = Sampler::new(params.clone()).unwrap().distribution(logits).unwrap();
    let mut random = random(logits.len() as u64);
    let mut uniform = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut numbers: Vec<f64> = (0..ROWS - 2).map(|_| uniform()).collect();
    numbers.extend([0.0, 1.0 - f64::EPSILON / 2.0]);
    let SamplingParams { temperature, top_k, top_p, min_p, .. } = *params;
    let on_device: Vec<SampleParams> = numbers
        .iter()
        .map(|&uniform| SampleParams { uniform, temperature, top_k: top_k as i32, top_p, min_p })
        .collect();
    on_each(|gpu, name| {
        let rows = gpu.upload(&logits.repeat(ROWS)).unwrap();
        let with = gpu.upload(&on_device).unwrap();
        let got =
            tokens_of(gpu, ROWS, |out| sample(gpu, &rows, &with, out, ROWS, logits.len()).unwrap());
        for (&token, &u) in got.iter().zip(&numbers) {
            let n = logits.len();
            assert!(
                draws(&distribution, token, u),
                "{name}: {token} of {n} at {u} with {params:?}"
            );
        }
    });
}

fn params(temperature: f32, top_k: usize, top_p: f32, min_p: f32) -> SamplingParams {
    SamplingParams { temperature, top_k, top_p, min_p, ..Default::default() }
}

#[test]
fn draws_are_those_of_the_crate_sampling() {
    let logits = |n: usize| {
        let mut logits = normal(&mut random(n as u64), n, 3.0);
        logits.iter_mut().skip(2).step_by(5).for_each(|l| *l = f32::NEG_INFINITY);
        logits
    };
    check(&logits(33), &params(1.0, 0, 1.0, 0.0));
    check(&logits(33), &params(1.2, 9, 0.9, 0.01));
    for with in [
        params(1.0, 0, 1.0, 0.0),
        params(0.7, 40, 0.9, 0.02),
        params(1.5, 0, 0.8, 0.0),
        params(1.0, 20, 1.0, 0.0),
        params(0.01, 5, 0.5, 0.0),
        params(1.0, 0, 0.0, 0.0),
        params(1.0, 0, 1.0, 0.1),
        params(0.0, 0, 1.0, 0.0),
        params(1.0, 1, 1.0, 0.0),
    ] {
        check(&logits(1500), &with);
    }
}

#[test]
fn of_equals_the_first_are_kept() {
    // Halves, so that every cut falls among equals.
    let equals: Vec<f32> =
        normal(&mut random(3), 1200, 1.5).iter().map(|l| (l * 2.0).round() / 2.0).collect();
    for with in [
        params(1.0, 30, 1.0, 0.0),
        params(1.0, 0, 0.6, 0.0),
        params(0.9, 300, 0.7, 0.0),
        params(1.0, 400, 0.999, 0.0),
    ] {
        check(&equals, &with);
    }
    check(&[0.0; 100], &params(1.0, 3, 1.0, 0.0));
    check(&[2.5], &params(0.7, 2, 0.9, 0.1));
    check(&[-0.0, 0.0, -0.0, 0.0], &params(1.0, 3, 0.6, 0.0));
}

/// More candidates than shared memory holds.
fn flat() -> Vec<f32> {
    normal(&mut random(9), 9100, 0.3)
}

#[test]
fn nuclei_of_more_than_shared_memory_holds() {
    check(&flat(), &params(1.0, 0, 0.95, 0.0));
}

#[test]
fn more_of_the_largest_than_shared_memory_holds() {
    check(&flat()[1..], &params(1.0, 8500, 0.97, 0.0));
}

#[test]
fn few_of_many_candidates() {
    check(&flat(), &params(2.0, 50, 1.0, 0.0));
    // And with too few within any distance.
    let far: Vec<f32> = (0..200).map(|i| -25.0 * i as f32).collect();
    check(&far, &params(30.0, 3, 1.0, 0.0));
}

#[test]
fn a_row_from_which_nothing_can_be_drawn() {
    const NONE: f32 = f32::NEG_INFINITY;
    let rows = [
        [0.0, f32::NAN, 1.0],
        [f32::INFINITY, 0.0, 1.0],
        [NONE; 3],
        [NONE, -2.0, NONE],
        [-f32::NAN, 1.0, 2.0],
    ];
    on_each(|gpu, name| {
        let logits = gpu.upload(&rows.concat()).unwrap();
        for temperature in [0.0, 1.0] {
            let each = SampleParams { uniform: 0.5, temperature, top_k: 0, top_p: 0.9, min_p: 0.0 };
            let with = gpu.upload(&[each; 5]).unwrap();
            let got = tokens_of(gpu, 5, |out| sample(gpu, &logits, &with, out, 5, 3).unwrap());
            assert_eq!(got, [-1, -1, -1, 1, -1], "{name}: temperature {temperature}");
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let (long, short) = (poisoned(gpu, 4 * 64), poisoned(gpu, 4 * 64 - 1));
        let length =
            |result| assert!(matches!(result, Err(Error::Length { expected: 256, got: 255, .. })));
        length(argmax(gpu, &short, &long, 2, 32));
        length(argmax(gpu, &long, &short, 64, 1));
        length(log_softmax_at(gpu, &short, &long, &long, 2, 32, 1));
        length(log_softmax_at(gpu, &long, &short, &long, 2, 32, 32));
        length(log_softmax_at(gpu, &long, &long, &short, 2, 32, 32));
        length(sample(gpu, &short, &long, &long, 2, 32));
        length(sample(gpu, &long, &poisoned(gpu, 24 * 64), &short, 64, 1));
        let result = sample(gpu, &long, &poisoned(gpu, 47), &long, 2, 32);
        assert!(matches!(result, Err(Error::Length { expected: 48, got: 47, .. })));
        let unsupported = |result| assert!(matches!(result, Err(Error::Unsupported { .. })));
        unsupported(argmax(gpu, &long, &long, 1, 0));
        unsupported(sample(gpu, &long, &long, &long, 0, MOST_COLS + 1));
        assert!(argmax(gpu, &long, &long, 0, 64).is_ok());
    });
}

//! The walk over a text, on a toy model whose logits depend on every token of the window so far, against
//! the protocols written out once more in the plainest way.

use eval::{
    Comparison, EvalError, Limits, LogitsSource, Perplexity, Piece, Protocol, Task, compare,
    perplexity,
};
use proptest::prelude::*;

const VOCABULARY: usize = 11;

/// Logits by a hash of the whole prefix; `noise` moves them.
fn logits(prefix: &[u32], noise: f64) -> Vec<f32> {
    let mix = |h: u64, x: u64| (h ^ x).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let h = prefix.iter().fold(prefix.len() as u64, |h, &t| mix(h, u64::from(t) + 1));
    let unit = |seed: u64| (mix(mix(h, seed), 7) >> 11) as f64 / (1u64 << 53) as f64;
    (0..VOCABULARY as u64).map(|i| (unit(i) * 4.0 + noise * unit(i + 100)) as f32).collect()
}

/// The toy model; keeps what each window was given, and the largest call.
#[derive(Default)]
struct Toy {
    noise: f64,
    positions: Option<usize>,
    windows: Vec<Vec<u32>>,
    most_rows: usize,
    most_logits: usize,
    /// Rows to break, counted over all that were asked for.
    broken: Option<usize>,
    told: usize,
}

impl LogitsSource for Toy {
    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn positions(&self) -> Option<usize> {
        self.positions
    }

    fn begin(&mut self, windows: usize) -> Result<(), EvalError> {
        self.windows = vec![Vec::new(); windows];
        Ok(())
    }

    fn extend(&mut self, pieces: &[Piece<'_>], out: &mut Vec<f32>) -> Result<(), EvalError> {
        out.clear();
        for piece in pieces {
            for (i, &token) in piece.tokens.iter().enumerate() {
                self.windows[piece.window].push(token);
                if piece.wanted.contains(&i) {
                    out.extend(logits(&self.windows[piece.window], self.noise));
                    if self.broken == Some(self.told) {
                        *out.last_mut().unwrap() = f32::NAN;
                    }
                    self.told += 1;
                }
            }
        }
        self.most_rows = self.most_rows.max(pieces.iter().map(|p| p.tokens.len()).sum());
        self.most_logits = self.most_logits.max(out.len());
        Ok(())
    }
}

fn text(n: usize) -> Vec<u32> {
    (0..n as u64).map(|i| (i * i % 23 % VOCABULARY as u64) as u32).collect()
}

fn task(tokens: &[u32], protocol: Protocol, bos: Option<u32>, limits: Limits) -> Task<'_> {
    Task { tokens, protocol, bos, tokenizer: "toy", limits }
}

fn measure(toy: &mut Toy, task: &Task<'_>) -> Result<Perplexity, EvalError> {
    perplexity(toy, task, &mut |_| {})
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
    row.iter().map(|&l| f64::from(l) - sum.ln()).collect()
}

/// (loss, weight) of each target of a protocol: windows written out by hand.
fn losses(tokens: &[u32], protocol: Protocol, bos: Option<u32>, noise: f64) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    let mut one = |window: &[u32], given: &[u32], target: usize, weight: f64| {
        let lp = log_softmax(&logits(&given[..target], noise));
        out.push((-lp[window[target] as usize], weight));
    };
    match protocol {
        Protocol::LlamaCpp { context } => {
            for window in tokens.chunks_exact(context) {
                let mut given = window.to_vec();
                given[0] = bos.unwrap_or(given[0]);
                (context / 2 + 1..context).for_each(|t| one(window, &given, t, 1.0));
            }
        }
        Protocol::Window { context } => {
            for window in tokens.chunks_exact(context) {
                (1..context).for_each(|t| one(window, window, t, 1.0));
            }
        }
        Protocol::Stride { context, stride } => {
            let mut reached = 0;
            for begin in (0..tokens.len()).step_by(stride) {
                let end = tokens.len().min(begin + context);
                let window = &tokens[begin..end];
                let new = end - reached;
                let from = (window.len() - new).max(1);
                let weight = (new - 1) as f64 / (window.len() - from) as f64;
                (from..window.len()).for_each(|t| one(window, window, t, weight));
                reached = end;
                if end == tokens.len() {
                    break;
                }
            }
        }
    }
    out
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        (3usize..40).prop_map(|context| Protocol::LlamaCpp { context }),
        (2usize..40).prop_map(|context| Protocol::Window { context }),
        (2usize..40)
            .prop_flat_map(|context| (1..=context)
                .prop_map(move |stride| Protocol::Stride { context, stride })),
    ]
}

proptest! {
    #[test]
    fn figures_are_the_protocols_whatever_the_limits(
        protocol in protocols(),
        n in 80usize..200,
        bos in prop::option::of(0u32..VOCABULARY as u32),
        rows in 1usize..100,
        logits_bytes in 0usize..4000,
    ) {
        let tokens = text(n);
        let want = losses(&tokens, protocol, bos, 0.0);
        let weight: f64 = want.iter().map(|x| x.1).sum();
        let mean = want.iter().map(|x| x.0 * x.1).sum::<f64>() / weight;
        let square = want.iter().map(|x| x.0 * x.0 * x.1).sum::<f64>() / weight;
        let error = mean.exp() * ((square - mean * mean) / (want.len() - 1) as f64).sqrt();

        let mut toy = Toy::default();
        let limits = Limits { rows, logits_bytes };
        let got = measure(&mut toy, &task(&tokens, protocol, bos, limits)).unwrap();
        if weight == 0.0 {
            return Ok(());
        }
        prop_assert!((got.perplexity.value / mean.exp() - 1.0).abs() < 1e-12);
        prop_assert!((got.perplexity.error - error).abs() < 1e-9);
        prop_assert_eq!(got.stamp.targets, weight.round() as u64);
        prop_assert!(toy.most_rows <= rows.max(protocol.context()));
        prop_assert!(toy.most_rows <= rows);
        let one_each = toy.windows.len().max(rows / protocol.context()).max(1) * VOCABULARY;
        prop_assert!(toy.most_logits <= (logits_bytes / 4).max(one_each));
    }
}

/// A whole comparison, with KL by its definition.
#[test]
fn a_comparison_is_by_definition() {
    let tokens = text(150);
    for protocol in [
        Protocol::LlamaCpp { context: 16 },
        Protocol::Window { context: 20 },
        Protocol::Stride { context: 16, stride: 5 },
    ] {
        let limits = Limits { rows: 37, logits_bytes: 1000 };
        let task = task(&tokens, protocol, Some(1), limits);
        let (mut base, mut model) = (Toy::default(), Toy { noise: 0.8, ..Toy::default() });
        let mut seen = Vec::new();
        let got = compare(&mut base, &mut model, &task, &mut |p| seen.push(p)).unwrap();
        assert_eq!(got.base, measure(&mut Toy::default(), &task).unwrap());
        assert_eq!(got.model, measure(&mut Toy { noise: 0.8, ..Toy::default() }, &task).unwrap());
        let last = seen.last().unwrap();
        assert_eq!((last.done, last.windows), (got.model.stamp.windows, got.model.stamp.windows));
        assert_eq!(last.perplexity, got.model.perplexity.value);

        // Paired differences: the ratio's error is far below the two models' own.
        let (b, m) =
            (losses(&tokens, protocol, Some(1), 0.0), losses(&tokens, protocol, Some(1), 0.8));
        let weight: f64 = b.iter().map(|x| x.1).sum();
        let difference: Vec<(f64, f64)> = b.iter().zip(&m).map(|(b, m)| (m.0 - b.0, b.1)).collect();
        let mean = difference.iter().map(|x| x.0 * x.1).sum::<f64>() / weight;
        assert!((got.ratio.value - mean.exp()).abs() < 1e-12);
        assert!(got.ratio.error < 0.5 * got.model.perplexity.error / got.base.perplexity.value);
    }
}

#[test]
fn divergence_of_every_target_by_definition() {
    let tokens = text(60);
    let task = task(&tokens, Protocol::Window { context: 20 }, None, Limits::default());
    let (mut base, mut model) = (Toy::default(), Toy { noise: 0.8, ..Toy::default() });
    let got = compare(&mut base, &mut model, &task, &mut |_| {}).unwrap().divergence;
    let mut kl = Vec::new();
    let mut same = 0;
    for window in tokens.chunks_exact(20) {
        for t in 1..20 {
            let (p, q) = (logits(&window[..t], 0.0), logits(&window[..t], 0.8));
            let top = |row: &[f32]| (0..VOCABULARY).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            same += usize::from(top(&p) == top(&q));
            let (p, q) = (log_softmax(&p), log_softmax(&q));
            kl.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
        }
    }
    kl.sort_by(f64::total_cmp);
    assert_eq!(kl.len(), 57);
    let mean = kl.iter().sum::<f64>() / 57.0;
    assert!((got.mean.value - mean).abs() < 1e-12);
    assert!((got.median - kl[28]).abs() < 1e-12);
    // 0.99 of 56 is 55.44.
    assert!((got.p99 - (kl[55] * 0.56 + kl[56] * 0.44)).abs() < 1e-12);
    assert!((got.max - kl[56]).abs() < 1e-12);
    let p = same as f64 / 57.0;
    assert!((got.same_top.value - p).abs() < 1e-12);
    assert!((got.same_top.error - (p * (1.0 - p) / 56.0).sqrt()).abs() < 1e-12);
    assert!(p < 1.0 && p > 0.2);
}

#[test]
fn a_model_beside_itself_is_at_distance_zero() {
    let tokens = text(100);
    let task = task(&tokens, Protocol::Window { context: 20 }, None, Limits::default());
    let got: Comparison =
        compare(&mut Toy::default(), &mut Toy::default(), &task, &mut |_| {}).unwrap();
    assert_eq!(got.ratio.value, 1.0);
    assert_eq!(got.ratio.error, 0.0);
    assert!(got.divergence.max < 1e-14);
    assert_eq!(got.divergence.same_top.value, 1.0);
}

#[test]
fn what_cannot_be_measured_is_a_typed_error() {
    let tokens = text(100);
    let protocol = Protocol::Window { context: 20 };
    let ok = task(&tokens, protocol, None, Limits::default());
    let mut short = Toy { positions: Some(16), ..Toy::default() };
    let error = measure(&mut short, &ok).unwrap_err();
    assert!(matches!(error, EvalError::ContextTooLong { context: 20, available: 16 }), "{error}");

    // Row 30 is in the second window (19 rows in the first), at position 11.
    let mut broken = Toy { broken: Some(30), ..Toy::default() };
    let error = measure(&mut broken, &ok).unwrap_err();
    assert!(matches!(error, EvalError::BadLogits { window: 1, position: 11 }), "{error}");

    let beyond = [tokens.clone(), vec![11]].concat();
    let error = measure(&mut Toy::default(), &task(&beyond, protocol, None, Limits::default()))
        .unwrap_err();
    assert!(matches!(error, EvalError::TokenOutOfVocabulary { token: 11, .. }), "{error}");
    let error = measure(&mut Toy::default(), &task(&tokens, protocol, Some(99), Limits::default()))
        .unwrap_err();
    assert!(matches!(error, EvalError::TokenOutOfVocabulary { token: 99, .. }), "{error}");
}

#[test]
fn a_figure_says_what_it_was_measured_with() {
    let tokens = text(100);
    let protocol = Protocol::LlamaCpp { context: 20 };
    let got =
        measure(&mut Toy::default(), &task(&tokens, protocol, Some(1), Limits::default())).unwrap();
    let json = serde_json::to_value(&got).unwrap();
    assert_eq!(json["protocol"], "llama.cpp");
    assert_eq!(json["context"], 20);
    assert_eq!(json["bos"], true);
    assert_eq!(json["targets"], 5 * 9);
    assert_eq!(json["tokenizer"], "toy");
    assert_eq!(got.stamp.to_string(), "protocol llama.cpp, context 20, 45 targets, tokenizer toy");
    assert_eq!(serde_json::from_value::<Perplexity>(json).unwrap(), got);
}

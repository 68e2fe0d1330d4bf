//! A row's result does not depend on how the rows before it were computed, nor on the rows beside
//! it, nor on the threads.

mod common;

use common::{all, decoders, fixture, ids, logits, max_abs, open};
use model::{Batch, Model, Row};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensor::kv::{KvCache, SeqId};
use tensor::{Activations, Compute, DType};

const A: SeqId = SeqId(7);
const B: SeqId = SeqId(1);
const C: SeqId = SeqId(3);

/// Whether the answer to a token depends, by the model's own definition, on the length of the
/// forward that computes it (LongRoPE beyond its original context).
fn depends_on_length(model: &Model, length: usize) -> bool {
    use model::config::Position;
    match &model.decoder().unwrap().config.position {
        Position::Rotary { global, .. } => {
            global.long.as_ref().is_some_and(|long| length > long.original_context)
        }
        Position::Learned { .. } => false,
    }
}

/// Runs `check` with each decoder, its prompt, and the logits of the prompt in one batch.
fn for_each_decoder(mut check: impl FnMut(&Model, &[u32], &[f32], &str)) {
    for folder in decoders() {
        let (model, ids) = (open(&folder), ids(&folder));
        if !depends_on_length(&model, ids.len()) {
            let expected = logits(&model, &ids).into_vec().unwrap();
            check(&model, &ids, &expected, &folder.display().to_string());
        }
    }
}

fn assert_same(what: &str, name: &str, got: &[f32], expected: &[f32]) {
    let worst = max_abs(got, expected);
    assert!(worst <= 0.0, "{name}, {what}: {worst:e}");
}

/// The logits of `ids` computed in chunks.
fn in_chunks(model: &Model, ids: &[u32], mut next: impl FnMut() -> usize) -> Vec<f32> {
    let mut cache = model.new_cache(DType::F32, ids.len()).unwrap();
    let (mut rest, mut out) = (ids, Vec::new());
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(next().clamp(1, rest.len()));
        let mut batch = Batch::new();
        batch.extend(A, chunk);
        out.extend_from_slice(all(model, &batch, &mut cache).logits.as_f32().unwrap());
        rest = after;
    }
    assert_eq!(cache.len(A), ids.len());
    out
}

#[test]
fn token_by_token_and_in_chunks() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for_each_decoder(|model, ids, expected, name| {
        assert_same("token by token", name, &in_chunks(model, ids, || 1), expected);
        for _ in 0..3 {
            let got = in_chunks(model, ids, || rng.random_range(1..=ids.len() / 2));
            assert_same("in chunks", name, &got, expected);
        }
    });
}

/// Three sequences, each step a batch of some of the next tokens of each in a random order.
#[test]
fn ragged_with_others() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for_each_decoder(|model, ids, expected, name| {
        let vocab = expected.len() / ids.len();
        let mut other =
            |n: usize| -> Vec<u32> { (0..n).map(|_| rng.random_range(0..vocab as u32)).collect() };
        let texts = [(A, ids.to_vec()), (B, other(23)), (C, other(31))];
        let alone: Vec<Vec<f32>> =
            texts.iter().map(|(_, t)| logits(model, t).into_vec().unwrap()).collect();
        let mut cache = model.new_cache(DType::F32, 200).unwrap();
        let mut done = [0; 3];
        while (0..3).any(|i| done[i] < texts[i].1.len()) {
            let (mut batch, mut rows) = (Batch::new(), Vec::new());
            for _ in 0..rng.random_range(1..8) {
                // Parts of sequences in any order, some of them in several pieces.
                let i = rng.random_range(0..3);
                let n = rng.random_range(0..=4).min(texts[i].1.len() - done[i]);
                batch.extend(texts[i].0, &texts[i].1[done[i]..done[i] + n]);
                rows.extend((done[i]..done[i] + n).map(|at| (i, at)));
                done[i] += n;
            }
            if batch.is_empty() {
                continue;
            }
            let got = all(model, &batch, &mut cache).logits;
            for (row, (i, at)) in got.as_f32().unwrap().chunks_exact(vocab).zip(rows) {
                let expected = &alone[i][at * vocab..(at + 1) * vocab];
                assert_same(&format!("ragged, text {i}, token {at}"), name, row, expected);
            }
        }
        assert_same("the reference prompt alone", name, &alone[0], expected);
    });
}

/// A random tree of drafts after a prefix: every node's logits are those of its path alone, and
/// after keeping one path the sequence goes on as if nothing else had been there.
#[test]
fn trees_of_drafts() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for_each_decoder(|model, ids, expected, name| {
        let vocab = expected.len() / ids.len();
        let of = |at: usize| &expected[at * vocab..(at + 1) * vocab];
        let prefix = rng.random_range(1..ids.len() / 2);
        let mut cache = model.new_cache(DType::F32, 100).unwrap();
        let mut batch = Batch::new();
        batch.extend(A, &ids[..prefix]);
        all(model, &batch, &mut cache);

        let (batch, paths) = random_tree(&mut rng, &ids[prefix..], vocab as u32);
        let got = all(model, &batch, &mut cache).logits;
        assert_eq!(cache.len(A), prefix + batch.len());
        let got = got.as_f32().unwrap();
        for (row, path) in got.chunks_exact(vocab).zip(&paths) {
            let tokens: Vec<u32> = path.iter().map(|&r| batch.rows()[r].token).collect();
            let text = [&ids[..prefix], &tokens].concat();
            let alone = logits(model, &text).into_vec().unwrap();
            let alone = &alone[(text.len() - 1) * vocab..];
            assert_same(&format!("tree, path {path:?}"), name, row, alone);
        }

        // The longest path that is the text itself is accepted.
        let is_text = |path: &&Vec<usize>| {
            path.iter().zip(&ids[prefix..]).all(|(&r, &id)| batch.rows()[r].token == id)
        };
        let accepted = paths.iter().filter(is_text).max_by_key(|p| p.len()).unwrap();
        let slots: Vec<usize> = accepted.iter().map(|row| prefix + row).collect();
        cache.keep(A, prefix, &slots).unwrap();
        let mut at = prefix + accepted.len();
        assert_eq!(cache.len(A), at);
        while at < ids.len() {
            let mut batch = Batch::new();
            batch.extend(A, &ids[at..at + 1]);
            let got = all(model, &batch, &mut cache).logits;
            assert_same(&format!("token {at} after a tree"), name, got.as_f32().unwrap(), of(at));
            at += 1;
        }
    });
}

/// A tree with the text's next tokens somewhere in it, and each row's path from the root.
fn random_tree(rng: &mut impl Rng, text: &[u32], vocab: u32) -> (Batch, Vec<Vec<usize>>) {
    let (mut batch, mut paths) = (Batch::new(), Vec::<Vec<usize>>::new());
    // The row that ends the part of the text that is in the tree already.
    let (mut trunk, mut in_tree) = (None, 0);
    for _ in 0..14 {
        let extends_text = rng.random_bool(0.4) && in_tree < text.len();
        let (parent, token) = match extends_text {
            true => (trunk, text[in_tree]),
            false => {
                let parent = rng.random_range(0..=paths.len()).checked_sub(1);
                (parent, rng.random_range(0..vocab))
            }
        };
        let row = batch.push(Row { token, seq: A, parent });
        let mut path = parent.map_or(Vec::new(), |p| paths[p].clone());
        path.push(row);
        paths.push(path);
        if extends_text {
            (trunk, in_tree) = (Some(row), in_tree + 1);
        }
    }
    if in_tree == 0 {
        paths.push(vec![batch.push(Row { token: text[0], seq: A, parent: None })]);
    }
    (batch, paths)
}

/// Weights in blocks, activations rounded to eight bits, keys and values in f16.
#[test]
fn quantized_models_too() {
    let ids: Vec<u32> = (3..90).map(|i| i * 17 % 2000).collect();
    for file in ["Q8_0", "Q4_K_M", "Q6_K", "IQ4_XS"] {
        let Some(path) = testkit::shared(&format!("oracle/gguf/bard-{file}.gguf")) else { return };
        let model = Model::open(&path).unwrap().with_compute(Compute::cpu().with_threads(2));
        let alone = |ids: &[u32]| {
            let mut cache = model.new_cache(DType::F16, ids.len()).unwrap();
            let mut batch = Batch::new();
            batch.extend(A, ids);
            all(&model, &batch, &mut cache).logits.into_vec().unwrap()
        };
        let (long, short) = (alone(&ids), alone(&ids[40..60]));
        let vocab = long.len() / ids.len();
        let mut cache = model.new_cache(DType::F16, 200).unwrap();
        for (at, steps) in [(0, 50), (50, 1), (51, 1), (52, ids.len() - 52)] {
            let mut batch = Batch::new();
            batch.extend(A, &ids[at..at + steps]);
            let other = if at == 51 { 41..60 } else { 40..40 + usize::from(at == 50) };
            batch.extend(B, &ids[other.clone()]);
            let got = all(&model, &batch, &mut cache).logits.into_vec().unwrap();
            let (of_a, of_b) = got.split_at(steps * vocab);
            assert_same("quantized", file, of_a, &long[at * vocab..(at + steps) * vocab]);
            let rows = (other.start - 40) * vocab..(other.end - 40) * vocab;
            assert_same("quantized, beside", file, of_b, &short[rows]);
        }
    }
}

#[test]
fn thread_counts_give_the_same_bits() {
    for name in ["arch/mixtral", "arch/gemma2", "arch/qwen3"] {
        let folder = fixture(name);
        let (model, ids) = (open(&folder), ids(&folder));
        let with = |threads: usize, activations: Activations| {
            let compute = Compute::cpu().with_threads(threads).with_activations(activations);
            logits(&model.clone().with_compute(compute), &ids).into_vec().unwrap()
        };
        for activations in [Activations::F32, Activations::Int8] {
            let one = with(1, activations);
            assert_eq!(one, with(2, activations), "{name}");
            assert_eq!(one, with(3, activations), "{name}");
        }
    }
}

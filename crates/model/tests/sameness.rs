//! Logits have the same bits whatever the threads, the batch, the chunks of a prompt and the layout
//! of the weights: for every type of weights, on every path of instructions.

mod common;

use std::path::{Path, PathBuf};

use common::all;
use gguf::Builder;
use model::{Batch, LoadOptions, Model, Repack};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensor::kv::SeqId;
use tensor::{Compute, DType, Isa};

const HIDDEN: usize = 256;
const VOCAB: usize = 48;
/// Longer than the longest chunk, and no multiple of any.
const PROMPT: usize = 525;
const CHUNKS: [usize; 3] = [1, 64, 512];
/// Rows that are computed one at a time.
const SINGLE: usize = 12;
const BATCHES: [usize; 3] = [1, 7, 32];
/// Tokens of each sequence that is decoded beside others.
const STEPS: usize = 3;

/// Blocks of random bits that decode to numbers of ordinary size.
fn random_blocks(rng: &mut impl Rng, dtype: DType, elements: usize) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_for(elements).unwrap()];
    let mut decoded = vec![0.0f32; dtype.block_len()];
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        loop {
            rng.fill(block);
            blocks::decode(dtype, block, &mut decoded).unwrap();
            let top = decoded.iter().fold(0.0f32, |a, b| if a >= b.abs() { a } else { b.abs() });
            if (1e-3..1.0).contains(&top) && decoded.iter().all(|x| x.is_finite()) {
                break;
            }
        }
    }
    bytes
}

/// A Llama of one layer whose matrices are random and of this type.
fn write_model(rng: &mut impl Rng, dtype: DType, path: &Path) {
    let mut file = Builder::new();
    file.set("general.architecture", "llama")
        .set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 1024),
        ("embedding_length", HIDDEN as u32),
        ("feed_forward_length", HIDDEN as u32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("vocab_size", VOCAB as u32),
    ] {
        file.set(format!("llama.{key}"), value);
    }
    let matrices = [
        ("token_embd", VOCAB),
        ("output", VOCAB),
        ("blk.0.attn_q", HIDDEN),
        ("blk.0.attn_k", HIDDEN / 2),
        ("blk.0.attn_v", HIDDEN / 2),
        ("blk.0.attn_output", HIDDEN),
        ("blk.0.ffn_gate", HIDDEN),
        ("blk.0.ffn_up", HIDDEN),
        ("blk.0.ffn_down", HIDDEN),
    ];
    for (name, rows) in matrices {
        file.tensor(format!("{name}.weight"), [rows, HIDDEN], dtype).unwrap();
    }
    let norms = ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"];
    for name in norms {
        file.tensor(name, [HIDDEN], DType::F32).unwrap();
    }
    let mut file = file.create(path).unwrap();
    for (name, rows) in matrices {
        let data = random_blocks(rng, dtype, rows * HIDDEN);
        file.tensor(&format!("{name}.weight"), &data).unwrap();
    }
    for name in norms {
        file.tensor(name, &1f32.to_le_bytes().repeat(HIDDEN)).unwrap();
    }
    file.commit().unwrap();
}

/// The logits of a prompt's rows, which enter in chunks.
fn in_chunks(model: &Model, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut cache = model.new_cache(DType::F16, ids.len()).unwrap();
    let mut out = Vec::new();
    for ids in ids.chunks(chunk) {
        let mut batch = Batch::new();
        batch.extend(SeqId(0), ids);
        out.extend(all(model, &batch, &mut cache).logits.into_vec().unwrap());
    }
    out
}

/// The logits of sequences that go on together, a token each at a time: `[step][sequence][vocab]`.
fn together(model: &Model, texts: &[&[u32]]) -> Vec<f32> {
    let mut cache = model.new_cache(DType::F16, texts.len() * STEPS).unwrap();
    let mut out = Vec::new();
    for step in 0..STEPS {
        let mut batch = Batch::new();
        for (seq, text) in texts.iter().enumerate() {
            batch.extend(SeqId(seq as u64), &text[step..step + 1]);
        }
        out.extend(all(model, &batch, &mut cache).logits.into_vec().unwrap());
    }
    out
}

/// Whether both have the same bits, of which some are set.
fn assert_same(label: &str, got: &[f32], want: &[f32]) {
    assert!(want.iter().all(|x| x.is_finite()) && want.iter().any(|x| *x != 0.0), "{label}");
    assert_eq!(got.len(), want.len(), "{label}");
    let differ = got.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
    assert!(differ.is_none(), "{label}: value {differ:?}");
}

fn check(dtype: DType) {
    let mut rng = ChaCha8Rng::seed_from_u64(dtype as u64);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write_model(&mut rng, dtype, &path);
    let ids: Vec<u32> = (0..PROMPT).map(|_| rng.random_range(0..VOCAB as u32)).collect();
    let texts: Vec<&[u32]> = ids.windows(STEPS).take(BATCHES[2]).collect();
    // The first instruction set writes the cache, the others that repack the same weights map it.
    let cache = dir.path().join("cache");
    let ways =
        [(1, Repack::Never, None), (2, Repack::Always, None), (3, Repack::Always, Some(&cache))]
            .map(|(n, repack, cache)| (n, repack, cache, Compute::cpu().with_threads(n)));
    for isa in Isa::supported() {
        let mut expected = None;
        for (threads, repack, cache, compute) in &ways {
            let cache = cache.map(PathBuf::as_path);
            let options = LoadOptions { repack: *repack, cache, ..LoadOptions::default() };
            let model = Model::open_with(&path, compute.clone().with_isa(isa), options).unwrap();
            let label = format!("{dtype} on {isa}, {threads} threads, repack {repack}, {cache:?}");
            let (prompt, alone) = expected.get_or_insert_with(|| {
                let alone: Vec<_> = texts.iter().map(|t| together(&model, &[t])).collect();
                (in_chunks(&model, &ids, CHUNKS[2]), alone)
            });
            for chunk in CHUNKS {
                let rows = if chunk == 1 { SINGLE } else { PROMPT };
                let got = in_chunks(&model, &ids[..rows], chunk);
                assert_same(&format!("{label}, chunks of {chunk}"), &got, &prompt[..rows * VOCAB]);
            }
            for n in BATCHES {
                let got = together(&model, &texts[..n]);
                for (step, got) in got.chunks_exact(n * VOCAB).enumerate() {
                    for (got, alone) in got.chunks_exact(VOCAB).zip(alone.iter()) {
                        let want = &alone[step * VOCAB..(step + 1) * VOCAB];
                        assert_same(&format!("{label}, {n} sequences, step {step}"), got, want);
                    }
                }
            }
        }
    }
}

/// A test a family, so that they run side by side.
macro_rules! sameness {
    ($($name:ident: $($dtype:ident)*;)*) => {
        $(#[test]
        fn $name() {
            [$(DType::$dtype),*].into_iter().for_each(check);
        })*

        #[test]
        fn no_type_is_left_out() {
            let here = [$($(DType::$dtype),*),*];
            for &dtype in DType::ALL {
                // Types of activations and numbers that are no weights.
                let other = matches!(dtype, DType::Q8_1 | DType::Q8_K | DType::F64);
                let weight = (dtype.is_quantized() || dtype.is_float()) && !other;
                assert_eq!(here.contains(&dtype), weight, "{dtype}");
            }
        }
    };
}

sameness! {
    plain_types: F32 F16 BF16;
    blocks_of_32: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4;
    k_quants: Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS;
    i_quants: IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S;
    few_bits: Q1_0 Q2_0 TQ1_0 TQ2_0 NVFP4;
}

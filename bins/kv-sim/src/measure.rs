//! What attention over blocks costs on this machine, against attention over one piece.
//!
//! One row of the 1.1 B shape (32 query heads, 4 key-value heads of 64, f16) over 2,048 positions,
//! in caches of as many layers as come from memory, blocks in an order in which neighbours are
//! apart. Alternating runs; the ratio of the medians.

use std::hint::black_box;
use std::time::Instant;

use cpu_kernels::attention::{AttentionAlgorithm, AttentionConfig, KvRun, QueryRow, attention};
use cpu_kernels::{Isa, KernelError, ThreadPool};
use tensor::DType;

const HEADS: usize = 32;
const KV_HEADS: usize = 4;
const HEAD_DIM: usize = 64;
const LAYERS: usize = 48;
const POSITIONS: usize = 2048;
const SLOT: usize = KV_HEADS * HEAD_DIM * 2;
const ROUNDS: usize = 11;

/// Caches of keys and values to attend over.
pub struct AttentionOverBlocks {
    /// Keys and values a layer.
    layers: Vec<[Vec<u8>; 2]>,
    queries: Vec<f32>,
}

impl Default for AttentionOverBlocks {
    fn default() -> Self {
        // Halves of one exponent: 1.0 to 2.0.
        let bytes = |seed: usize| {
            let bits = |i: usize| 0x3c00 | (i.wrapping_mul(2_654_435_761) ^ seed) as u16 & 0x03ff;
            (0..POSITIONS * SLOT / 2).flat_map(|i| bits(i).to_le_bytes()).collect()
        };
        let layers = (0..LAYERS).map(|l| [bytes(l), bytes(l + LAYERS)]).collect();
        Self { layers, queries: (0..HEADS * HEAD_DIM).map(|i| i as f32 / 2048.0 - 0.5).collect() }
    }
}

impl AttentionOverBlocks {
    /// Time over blocks of `block_size` positions to time over one piece.
    ///
    /// # Errors
    /// Those of attention, which the shape here cannot cause.
    pub fn ratio(&self, block_size: usize) -> Result<f64, KernelError> {
        let (one, many) = (self.runs(POSITIONS), self.runs(block_size));
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (runs, times) in [&one, &many].into_iter().zip(&mut times) {
                let begin = Instant::now();
                self.attend(runs)?;
                times.push(begin.elapsed().as_secs_f64());
            }
        }
        let [one, many] = times.map(|mut t| {
            t.sort_by(f64::total_cmp);
            t[t.len() / 2]
        });
        Ok(many / one)
    }

    /// Per layer, the runs of one sequence.
    fn runs(&self, block_size: usize) -> Vec<Vec<KvRun<'_>>> {
        let blocks = POSITIONS / block_size;
        let mut all = Vec::new();
        for [keys, values] in &self.layers {
            let places = (0..blocks).map(|i| {
                // An odd step visits every block of a power of two.
                let at = i * ((blocks / 2 + 5) | 1) % blocks * block_size * SLOT;
                at..at + block_size * SLOT
            });
            let run = |at: std::ops::Range<usize>| KvRun {
                keys: &keys[at.clone()],
                values: &values[at],
                len: block_size,
            };
            all.push(places.map(run).collect());
        }
        all
    }

    fn attend(&self, layers: &[Vec<KvRun<'_>>]) -> Result<(), KernelError> {
        let cfg = AttentionConfig {
            n_heads: HEADS,
            n_kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            scale: 0.125,
            softcap: None,
            kv_dtype: DType::F16,
            algorithm: AttentionAlgorithm::Tiled,
        };
        let mut out = vec![0.0; self.queries.len()];
        for runs in layers {
            let rows = [QueryRow { runs, from: 0, to: POSITIONS }];
            let (pool, isa) = (ThreadPool::global(), Isa::active());
            attention(pool, isa, &cfg, black_box(&self.queries), &rows, &mut out)?;
        }
        black_box(out);
        Ok(())
    }
}

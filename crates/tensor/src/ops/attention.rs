//! Attention over runs of keys and values.

use std::cell::Cell;
use std::ops::Range;

use blocks::DType;
use cpu_kernels::attention::{self, AttentionAlgorithm, AttentionConfig, KvRun, QueryRow};
use cpu_kernels::kv_write::{self, KvRows};
use cpu_kernels::profile::Work;

use super::{Rope, shapes};
use crate::kv::{KvCache, KvError, KvLayout, SeqId, Span};
use crate::{Compute, Result, Tensor};

/// The shape of an attention and how scores are formed.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key-value heads; query head `h` reads head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// Scores are multiplied by this, usually `head_dim^-0.5`.
    pub scale: f32,
    /// Scores are capped softly to this (Gemma 2).
    pub softcap: Option<f32>,
    /// A row sees at most this many positions, its own included (Mistral, Gemma).
    pub window: Option<usize>,
}

impl AttentionSpec {
    fn config(&self, kv_dtype: DType, algorithm: AttentionAlgorithm) -> AttentionConfig {
        AttentionConfig {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            softcap: self.softcap,
            kv_dtype,
            algorithm,
        }
    }
}

/// What a row of a batch sees of its sequence: a prefix of the slots, then single slots (its
/// ancestors in a tree of drafts), itself last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionRow {
    /// Its sequence.
    pub seq: SeqId,
    /// Slots `0..prefix` are seen.
    pub prefix: usize,
    /// Further slots, ascending; none for a row that extends a sequence without branching.
    pub branch: Vec<usize>,
}

impl AttentionRow {
    /// How many positions the row sees without a window; its own position is one less.
    pub fn visible(&self) -> usize {
        self.prefix + self.branch.len()
    }
}

impl Compute {
    /// Writes the keys and values of rows into the slots that `spans` name, which lie in the order of
    /// the rows, and returns `q`; both `q` and `k` are turned by their rows' angles first if there
    /// are some. One pass over the rows.
    ///
    /// `q` is `[rows, heads * head_dim]`, `k` and `v` are `[rows, n_kv_heads * head_dim]`.
    ///
    /// # Errors
    /// [`crate::Error::Shapes`] if they do not fit; [`crate::kv::KvError`] for a slot not there and
    /// for what the cache's type cannot hold.
    pub fn turn_and_store(
        &self,
        [mut q, mut k, v]: [Tensor; 3],
        angles: Option<&Rope>,
        cache: &mut dyn KvCache,
        layer: usize,
        spans: &[Span],
    ) -> Result<Tensor> {
        self.expect_here("turn_and_store", &[&q, &k, &v])?;
        let KvLayout { head_dim, dtype, .. } = *cache.layout();
        let (width, q_width, rows) = (k.cols(), q.cols(), q.rows());
        if width != cache.layout().width() || k.rows() != rows || k.shape() != v.shape() {
            let expected = format!("keys and values [{rows}, {}]", cache.layout().width());
            return Err(shapes("turn_and_store", expected, &[&q, &k, &v]));
        }
        if let Some(angles) = angles {
            angles.check(&q, head_dim)?;
            angles.check(&k, head_dim)?;
        }
        let slot = 2 * cache.layout().slot_bytes();
        on_gpu!(self, |gpu| gpu.turn_and_store([q, k, v], angles, cache, layer, spans));
        let _scope = self.profile().scope("rope and kv write", "", || Work {
            bytes: 2 * q.byte_len() + k.byte_len() + v.byte_len() + rows * slot,
            operations: 0,
        });
        let (queries, keys, values) = (q.as_f32_mut()?, k.as_f32_mut()?, v.as_f32()?);
        let mut failed = Ok(());
        for Span { rows, seq, slot } in spans {
            let mut row = rows.start;
            cache.runs_mut(layer, *seq, *slot..*slot + rows.len(), &mut |run| {
                let here = row..row + run.len;
                row = here.end;
                let of = |width: usize| here.start * width..here.end * width;
                let (q, k) = (&mut queries[of(q_width)], &mut keys[of(width)]);
                let part = KvRows { q, k, v: &values[of(width)] };
                let rotation = angles.map(|a| a.rotation(head_dim).of_rows(here.clone()));
                let stored = kv_write::turn_and_store(
                    self.pool(),
                    self.isa(),
                    rotation.as_ref(),
                    part,
                    dtype,
                    run,
                );
                if stored.is_err() {
                    // Shapes have been looked at.
                    failed = Err(KvError::NotFinite(dtype));
                }
            })?;
        }
        failed?;
        Ok(q)
    }

    /// Causal attention of `q` `[rows, n_heads * head_dim]` over one layer of a cache whose slots
    /// for these rows are already written; `[rows, n_heads * head_dim]`.
    ///
    /// `o = softmax(scale * q K^T) V` over the positions that the row sees (Vaswani et al. 2017,
    /// eq. 1), by online softmax in tiles counted in positions, so that neither pages nor
    /// batch-mates change a bit of the result.
    ///
    /// # Errors
    /// [`crate::Error::Shapes`] if `q` does not fit; [`crate::kv::KvError`] for a slot not there.
    pub fn attention(
        &self,
        q: &Tensor,
        spec: &AttentionSpec,
        cache: &dyn KvCache,
        layer: usize,
        rows: &[AttentionRow],
    ) -> Result<Tensor> {
        self.expect_here("attention", &[q])?;
        let width = spec.n_heads * spec.head_dim;
        if q.rows() != rows.len() || q.cols() != width {
            let expected = format!("q [{}, {width}]", rows.len());
            return Err(shapes("attention", expected, &[q]));
        }
        on_gpu!(self, |gpu| gpu.attention(q, spec, cache, layer, rows));
        let config = spec.config(cache.layout().dtype, self.attention_algorithm());
        let kept = KEPT.take();
        let mut lists = Lists { runs: recycled(kept.runs), ranges: kept.ranges };
        lists.gather(cache, layer, rows)?;
        let mut queries: Vec<QueryRow<'_>> = recycled(kept.queries);
        queries.extend(rows.iter().zip(&lists.ranges).map(|(row, range)| {
            let to = row.visible();
            let from = spec.window.map_or(0, |w| to.saturating_sub(w));
            QueryRow { runs: &lists.runs[range.clone()], from, to }
        }));
        let out = self.attend(q, &config, &queries);
        let queries = recycled(queries);
        KEPT.set(Kept { runs: recycled(lists.runs), ranges: lists.ranges, queries });
        out
    }

    /// Attention without a cache, in both directions: every row of `q`, `k`, `v`
    /// (`[rows, heads * head_dim]`, several sequences behind each other) sees all rows of its own
    /// sequence; `lengths` are the sequences' lengths.
    ///
    /// # Errors
    /// [`crate::Error::Shapes`] if the tensors or lengths do not fit.
    pub fn attention_bidirectional(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spec: &AttentionSpec,
        lengths: &[usize],
    ) -> Result<Tensor> {
        self.expect_here("attention_bidirectional", &[q, k, v])?;
        let kv_width = spec.n_kv_heads * spec.head_dim;
        let total: usize = lengths.iter().sum();
        let fits = |t: &Tensor, width: usize| t.rows() == total && t.cols() == width;
        if !fits(q, spec.n_heads * spec.head_dim) || !fits(k, kv_width) || !fits(v, kv_width) {
            let expected = format!("{total} rows of whole heads");
            return Err(shapes("attention_bidirectional", expected, &[q, k, v]));
        }
        on_gpu!(self, |gpu| gpu.attention_bidirectional(q, k, v, spec, lengths));
        let (keys, values) = (k.bytes()?, v.bytes()?);
        let mut runs = Vec::with_capacity(lengths.len());
        let mut start = 0;
        for &len in lengths {
            let bytes = start * kv_width * 4..(start + len) * kv_width * 4;
            runs.push(KvRun { keys: &keys[bytes.clone()], values: &values[bytes], len });
            start += len;
        }
        let queries: Vec<QueryRow<'_>> = runs
            .iter()
            .flat_map(|run| {
                let row = QueryRow { runs: std::slice::from_ref(run), from: 0, to: run.len };
                std::iter::repeat_n(row, run.len)
            })
            .collect();
        self.attend(q, &spec.config(DType::F32, self.attention_algorithm()), &queries)
    }

    fn attend(
        &self,
        q: &Tensor,
        config: &AttentionConfig,
        rows: &[QueryRow<'_>],
    ) -> Result<Tensor> {
        let mut out = self.unwritten([q.rows(), q.cols()]);
        let to = out.as_f32_mut()?;
        attention::attention(self.pool(), self.isa(), config, q.as_f32()?, rows, to)?;
        Ok(out)
    }
}

/// The runs that rows see, and which of them each row does.
struct Lists<'a> {
    runs: Vec<KvRun<'a>>,
    ranges: Vec<Range<usize>>,
}

impl<'a> Lists<'a> {
    /// Rows of one sequence share its runs; a branching row has its own list.
    fn gather(
        &mut self,
        cache: &'a dyn KvCache,
        layer: usize,
        rows: &[AttentionRow],
    ) -> Result<()> {
        let Lists { runs, ranges } = self;
        ranges.clear();
        let mut shared: Option<(SeqId, Range<usize>)> = None;
        for row in rows {
            if row.branch.is_empty()
                && let Some((seq, range)) = &shared
                && *seq == row.seq
            {
                ranges.push(range.clone());
                continue;
            }
            let start = runs.len();
            if row.branch.is_empty() {
                cache.runs(layer, row.seq, 0..cache.len(row.seq), runs)?;
                shared = Some((row.seq, start..runs.len()));
            } else {
                cache.runs(layer, row.seq, 0..row.prefix, runs)?;
                for &slot in &row.branch {
                    cache.runs(layer, row.seq, slot..slot + 1, runs)?;
                }
            }
            ranges.push(start..runs.len());
        }
        Ok(())
    }
}

/// Empty lists whose memory the thread uses again.
#[derive(Default)]
struct Kept {
    runs: Vec<KvRun<'static>>,
    ranges: Vec<Range<usize>>,
    queries: Vec<QueryRow<'static>>,
}

thread_local! {
    static KEPT: Cell<Kept> = Cell::default();
}

/// An empty list in the memory of another, whose elements differ by their lifetime alone: the
/// standard library collects in place where sizes agree.
fn recycled<T, U>(mut list: Vec<T>) -> Vec<U> {
    list.clear();
    list.into_iter().map(|_| unreachable!("the list is empty")).collect()
}

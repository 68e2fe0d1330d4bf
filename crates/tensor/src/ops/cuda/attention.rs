//! Attention over the pages of a cache on a GPU.

use std::sync::{Arc, PoisonError};

use cuda_kernels::ops::attention::{self, AttentionShape, RowLists, Rows};

use super::{GpuState, expect_f32, physical};
use crate::kv::{KvCache, KvError, SeqId};
use crate::{AttentionRow, AttentionSpec, DType, Error, Result, Tensor};

/// What the rows of a step see, as it was uploaded for the layer before.
#[derive(Debug)]
pub(super) struct KnownRows {
    lists: RowLists,
    rows: Arc<Rows>,
}

impl GpuState {
    pub(crate) fn attention(
        &self,
        q: &Tensor,
        spec: &AttentionSpec,
        cache: &dyn KvCache,
        layer: usize,
        rows: &[AttentionRow],
    ) -> Result<Tensor> {
        expect_f32("attention", q)?;
        let (pages, [keys, values]) = self.pages(cache, layer)?;
        let out = self.unwritten([q.rows(), q.cols()])?;
        if rows.is_empty() {
            return Ok(out);
        }
        let rows = self.rows(seen(cache, pages.page_slots, rows)?)?;
        let shape = shape(spec, cache.layout().dtype);
        let (q, to) = (q.buffer()?, out.buffer()?);
        attention::attention(&self.gpu, &shape, &q, keys, values, &rows, &to)?;
        Ok(out)
    }

    pub(crate) fn attention_bidirectional(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spec: &AttentionSpec,
        lengths: &[usize],
    ) -> Result<Tensor> {
        expect_f32("attention_bidirectional", q)?;
        let out = self.unwritten([q.rows(), q.cols()])?;
        // A text of no tokens has no rows to see or be seen.
        let lengths: Vec<usize> = lengths.iter().copied().filter(|&n| n > 0).collect();
        if lengths.is_empty() {
            return Ok(out);
        }
        let rows = self.rows(RowLists::bidirectional(&lengths)?)?;
        let (q, k, v, to) = (q.buffer()?, k.buffer()?, v.buffer()?, out.buffer()?);
        let shape = shape(spec, DType::F32);
        attention::attention_bidirectional(&self.gpu, &shape, &q, &k, &v, &rows, &to)?;
        Ok(out)
    }

    /// The rows on the device: uploaded once for all layers of a step.
    fn rows(&self, lists: RowLists) -> Result<Arc<Rows>> {
        if let Some(bound) = &self.bound {
            return bound.rows(&lists).ok_or_else(|| self.not_bound("rows"));
        }
        let mut known = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.lists == lists) {
            return Ok(Arc::clone(&known.rows));
        }
        let rows = Arc::new(lists.upload(&self.gpu)?);
        *known = Some(KnownRows { lists, rows: Arc::clone(&rows) });
        Ok(rows)
    }
}

fn shape(spec: &AttentionSpec, cache: DType) -> AttentionShape {
    let &AttentionSpec { n_heads, n_kv_heads, head_dim, scale, softcap, window } = spec;
    AttentionShape { n_heads, n_kv_heads, head_dim, scale, softcap, window, cache }
}

/// Tables of the sequences behind each other, and what each row sees of its own.
pub(super) fn seen(
    cache: &dyn KvCache,
    page_slots: usize,
    rows: &[AttentionRow],
) -> Result<RowLists> {
    let (mut tables, mut branches) = (Vec::new(), Vec::new());
    let mut last: Option<(SeqId, usize)> = None;
    let mut out = Vec::with_capacity(rows.len());
    for AttentionRow { seq, prefix, branch } in rows {
        let table = match last {
            Some((known, table)) if known == *seq => table,
            _ => {
                let table = tables.len();
                cache.page_table(*seq, &mut tables)?;
                last = Some((*seq, table));
                table
            }
        };
        let first = branches.len();
        for &slot in branch {
            let none = KvError::NoSuchSlot { seq: *seq, slot, len: cache.len(*seq) };
            let at = physical(&tables[table..], page_slots, slot);
            branches.push(at.ok_or(Error::Kv(none))?);
        }
        let branch = first..branches.len();
        out.push(attention::AttentionRow {
            branch,
            ..attention::AttentionRow::new(table, *prefix)
        });
    }
    Ok(RowLists::new(page_slots, &out, &tables, &branches)?)
}

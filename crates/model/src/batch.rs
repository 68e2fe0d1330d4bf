//! The ragged batch: which rows a forward computes, what each of them sees, and what is wanted.

pub use tensor::kv::Span;
use tensor::kv::{KvCache, SeqId};
use tensor::{AttentionRow, Tensor};

use crate::Error;

/// One token of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub token: u32,
    /// Its sequence.
    pub seq: SeqId,
    /// The row of this batch that it follows; `None` if it follows what the cache holds.
    pub parent: Option<usize>,
}

/// Rows of any number of sequences: prefill chunks, decode steps, and trees of drafts together.
///
/// A row sees what its sequence's cache held before the batch, its ancestors in the batch, and
/// itself. Its position is the number of those before it.
///
/// ```
/// use model::{Batch, Row};
/// use tensor::kv::{ContiguousKvCache, KvCache, KvLayout, SeqId};
/// let layout = KvLayout { layers: 1, n_kv_heads: 1, head_dim: 2, dtype: tensor::DType::F32 };
/// let mut cache = ContiguousKvCache::new(layout, 100)?;
/// cache.reserve(SeqId(7), 10)?; // ten tokens came before
///
/// let mut batch = Batch::new();
/// batch.extend(SeqId(7), &[1, 2]); // two more,
/// batch.push(Row { token: 3, seq: SeqId(7), parent: Some(0) }); // another follower of the first,
/// batch.extend(SeqId(8), &[4, 5, 6]); // and a new sequence
///
/// let plan = batch.plan(&cache)?;
/// assert_eq!(plan.positions, [10, 11, 11, 0, 1, 2]);
/// assert_eq!(plan.lengths, [12, 12, 12, 3, 3, 3]);
/// assert_eq!((plan.seen[1].prefix, plan.seen[1].branch.as_slice()), (12, [].as_slice()));
/// assert_eq!((plan.seen[2].prefix, plan.seen[2].branch.as_slice()), (11, [12].as_slice()));
/// assert_eq!(plan.reserve, [(SeqId(7), 3), (SeqId(8), 3)]);
/// # Ok::<(), model::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    rows: Vec<Row>,
    /// The last row of each sequence's chain, which [`Batch::extend`] goes on from; by sequence.
    last: Vec<(SeqId, usize)>,
}

impl Batch {
    /// A batch without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends tokens that follow each other, after the rows of this sequence that were appended
    /// before (or what the cache holds).
    pub fn extend(&mut self, seq: SeqId, tokens: &[u32]) {
        let mut parent = self.last_of(seq).ok().map(|i| self.last[i].1);
        for &token in tokens {
            parent = Some(self.push(Row { token, seq, parent }));
        }
    }

    /// Appends one row and returns its number; `parent` makes trees.
    pub fn push(&mut self, row: Row) -> usize {
        let number = self.rows.len();
        self.rows.push(row);
        match self.last_of(row.seq) {
            Ok(i) => self.last[i].1 = number,
            Err(i) => self.last.insert(i, (row.seq, number)),
        }
        number
    }

    /// Forgets the rows; their memory is used again.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.last.clear();
    }

    /// Where the last row of a sequence stands in `last`, or would.
    fn last_of(&self, seq: SeqId) -> Result<usize, usize> {
        self.last.binary_search_by_key(&seq, |&(s, _)| s)
    }

    /// The rows in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Where each row lies and what it sees, given the cache before the batch.
    ///
    /// # Errors
    /// [`Error::InvalidParent`].
    pub fn plan(&self, cache: &dyn KvCache) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        self.plan_into(cache, &mut plan)?;
        Ok(plan)
    }

    /// [`Batch::plan`] into memory that is used again.
    ///
    /// # Errors
    /// As there; what `plan` holds then is unspecified.
    pub fn plan_into(&self, cache: &dyn KvCache, plan: &mut Plan) -> Result<(), Error> {
        plan.clear();
        let mut at = 0;
        for (i, row) in self.rows.iter().enumerate() {
            at = plan.sequence(row.seq, at, cache);
            let Sequence { base, .. } = plan.sequences[at];
            let slot = base + plan.reserve[at].1;
            let seen = match row.parent {
                None => AttentionRow { seq: row.seq, prefix: base, branch: Vec::new() },
                Some(p) if p < i && self.rows[p].seq == row.seq => plan.seen[p].clone(),
                Some(parent) => return Err(Error::InvalidParent { row: i, parent }),
            };
            let position = seen.visible();
            plan.positions.push(position as u32);
            plan.seen.push(with_slot(seen, slot));
            match plan.spans.last_mut() {
                Some(span) if span.seq == row.seq => span.rows.end += 1,
                _ => plan.spans.push(Span { rows: i..i + 1, seq: row.seq, slot }),
            }
            plan.reserve[at].1 += 1;
            let longest = &mut plan.sequences[at].longest;
            *longest = (*longest).max(position + 1);
        }
        for row in &self.rows {
            at = plan.sequence(row.seq, at, cache);
            plan.lengths.push(plan.sequences[at].longest);
        }
        Ok(())
    }
}

/// What a row sees, with one more slot at the end: part of the prefix while there is no gap.
fn with_slot(mut seen: AttentionRow, slot: usize) -> AttentionRow {
    if seen.branch.is_empty() && slot == seen.prefix {
        seen.prefix += 1;
    } else {
        seen.branch.push(slot);
    }
    seen
}

/// A batch laid out against a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The position of each row.
    pub positions: Vec<u32>,
    /// How long each row's sequence is after the batch.
    pub lengths: Vec<usize>,
    /// What each row sees, its own slot included.
    pub seen: Vec<AttentionRow>,
    /// Which slots the rows' keys and values go to.
    pub spans: Vec<Span>,
    /// How many slots each sequence needs; by sequence.
    pub reserve: Vec<(SeqId, usize)>,
    /// More of each sequence, in the order of `reserve`.
    sequences: Vec<Sequence>,
}

/// A sequence of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sequence {
    /// Slots before the batch.
    base: usize,
    /// Its length after the batch: its longest branch.
    longest: usize,
}

impl Plan {
    fn clear(&mut self) {
        let Self { positions, lengths, seen, spans, reserve, sequences } = self;
        positions.clear();
        lengths.clear();
        seen.clear();
        spans.clear();
        reserve.clear();
        sequences.clear();
    }

    /// Where a sequence stands in `reserve`; `guess` is where it may be. A new one is put there.
    fn sequence(&mut self, seq: SeqId, guess: usize, cache: &dyn KvCache) -> usize {
        if self.reserve.get(guess).is_some_and(|&(s, _)| s == seq) {
            return guess;
        }
        let found = self.reserve.binary_search_by_key(&seq, |&(s, _)| s);
        found.unwrap_or_else(|at| {
            self.reserve.insert(at, (seq, 0));
            self.sequences.insert(at, Sequence { base: cache.len(seq), longest: 0 });
            at
        })
    }
}

/// Which rows' results a forward returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Rows whose logits are wanted.
    pub logits: Vec<usize>,
    /// Rows whose hidden states after the last norm are wanted.
    pub hidden: Vec<usize>,
    /// Whether logits stay where the model runs: for [`Compute::draw`](tensor::Compute::draw), which spares a GPU's
    /// user to bring them here.
    pub on_device: bool,
}

impl Outputs {
    /// The logits of the last row of each sequence.
    pub fn last_logits(batch: &Batch) -> Self {
        let mut logits: Vec<usize> = batch.last.iter().map(|&(_, row)| row).collect();
        logits.sort_unstable();
        Self { logits, ..Self::default() }
    }

    /// The logits of every row.
    pub fn all_logits(batch: &Batch) -> Self {
        Self { logits: (0..batch.len()).collect(), ..Self::default() }
    }

    /// All rows of which something is wanted, ascending, into `rows`.
    pub(crate) fn rows_into(&self, rows: &mut Vec<usize>) {
        rows.clear();
        rows.extend(self.logits.iter().chain(&self.hidden));
        rows.sort_unstable();
        rows.dedup();
    }
}

/// What a forward returns.
#[derive(Clone, Debug)]
pub struct Forward {
    /// `[outputs.logits.len(), vocab_size]`, rows in the order asked; on the model's device if
    /// [`Outputs::on_device`].
    pub logits: Tensor,
    /// `[outputs.hidden.len(), hidden_size]`, rows in the order asked.
    pub hidden: Tensor,
}

/// Watches the input of every linear layer (calibration).
pub trait Tap {
    /// `x` `[rows, in]` is about to be multiplied by the weight of this name; the weights of one
    /// expert, which are a part of `blk.N.ffn_up_exps.weight`, are named `blk.N.ffn_up.E.weight`
    /// and see the rows routed to it.
    fn linear_input(&mut self, weight: &str, x: &Tensor);
}

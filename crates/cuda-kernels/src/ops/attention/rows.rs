//! Which positions rows see, on the device.

use std::ops::Range;

use super::OP;
use crate::ops::int;
use crate::{Buffer, Error, Gpu, Result};

/// What a row of a batch sees of its sequence: positions `from..prefix` of the sequence's pages, then single
/// slots (its ancestors in a tree of drafts), itself last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionRow {
    /// Where the sequence's list of physical blocks begins in the list of all tables.
    pub table: usize,
    /// The first position that is seen; a window may begin later.
    pub from: usize,
    /// One past the last position seen through the table.
    pub prefix: usize,
    /// Which of the list of slots are seen beyond; none for a row that extends a sequence without branching.
    pub branch: Range<usize>,
}

impl AttentionRow {
    /// A row that sees the first `prefix` positions of a sequence.
    pub fn new(table: usize, prefix: usize) -> Self {
        Self { table, from: 0, prefix, branch: 0..0 }
    }

    /// Whether this is the row before `next` in a sequence, both seeing all that is before them.
    fn goes_on_with(&self, next: &Self) -> bool {
        let plain = |row: &Self| row.from == 0 && row.branch.is_empty();
        plain(self) && plain(next) && self.table == next.table && self.prefix + 1 == next.prefix
    }
}

/// Positions of a piece, the unit that decoding is split into.
pub(super) const PIECE: usize = 256;

/// Consecutive rows of a sequence from which on the prefill kernel takes them: below, it leaves most of a tile
/// and of the device idle, and decoding reads keys again from the second-level cache.
const LEAST_SPAN: usize = 32;

/// Integers of a row and of a span, as the kernels read them.
const ROW: usize = 7;
const SPAN: usize = 5;

/// The rows of a batch on a device: made once for a step, used by every layer.
#[derive(Clone, Debug)]
pub struct Rows {
    pub(super) tables: Buffer,
    pub(super) branches: Buffer,
    pub(super) singles: Buffer,
    pub(super) spans: Buffer,
    pub(super) block_size: usize,
    pub(super) plan: Plan,
    least_span: usize,
}

/// What the launches over rows are made of, and the memory that their lists need: rows of one kind can take each other's
/// place ([`Rows::rewrite`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsKind {
    block_size: usize,
    /// Without the slots, which may differ.
    plan: Plan,
    tables: usize,
    branches: usize,
}

impl RowsKind {
    /// Whether a run of rows goes through the prefill kernel.
    pub fn has_spans(&self) -> bool {
        !self.plan.spans.is_empty()
    }
}

/// What launches are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Rows of q.
    pub(super) rows: usize,
    /// Slots that a cache must have.
    pub(super) slots: usize,
    /// Rows of each span.
    pub(super) spans: Vec<usize>,
    /// Rows outside of spans.
    pub(super) singles: usize,
    /// Pieces of the one of them that sees most, and of all.
    pub(super) most_pieces: usize,
    pub(super) pieces: usize,
}

impl Rows {
    /// Rows, in the order of `q`'s, that see sequences through `tables`, lists of blocks of `block_size` slots behind
    /// each other, and further slots in `branches`. What can go through the prefill kernel does.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a row that sees nothing, or more than its table or the list of branches has, and
    /// for negative numbers; those of an upload.
    pub fn new(
        gpu: &Gpu,
        block_size: usize,
        rows: &[AttentionRow],
        tables: &[i32],
        branches: &[i32],
    ) -> Result<Self> {
        Self::with_least_span(gpu, block_size, rows, tables, branches, LEAST_SPAN)
    }

    /// The same, `least_span` rows or more that follow each other in a sequence going through the prefill
    /// kernel: to compare the kernels.
    ///
    /// # Errors
    /// As [`Rows::new`].
    pub fn with_least_span(
        gpu: &Gpu,
        block_size: usize,
        rows: &[AttentionRow],
        tables: &[i32],
        branches: &[i32],
        least_span: usize,
    ) -> Result<Self> {
        let (plan, singles, spans) = plan(block_size, rows, tables, branches, least_span)?;
        let plan = plan.rounded();
        let [tables, branches] = [tables, branches].map(|list| {
            let room = gpu.alloc(list_room(list))?;
            room.write(list)?;
            Ok(room)
        });
        let (singles, spans) = (gpu.upload(&singles)?, gpu.upload(&spans)?);
        Ok(Self {
            tables: tables?,
            branches: branches?,
            singles,
            spans,
            block_size,
            plan,
            least_span,
        })
    }

    /// The kind of what [`Rows::new`] makes of the same.
    ///
    /// # Errors
    /// As there, but for an upload's.
    pub fn kind(
        block_size: usize,
        rows: &[AttentionRow],
        tables: &[i32],
        branches: &[i32],
    ) -> Result<RowsKind> {
        let (plan, ..) = plan(block_size, rows, tables, branches, LEAST_SPAN)?;
        let plan = Plan { slots: 0, ..plan.rounded() };
        let (tables, branches) = (list_room(tables), list_room(branches));
        Ok(RowsKind { block_size, plan, tables, branches })
    }

    /// Slots that a cache must have for these rows.
    pub fn slots(&self) -> usize {
        self.plan.slots
    }

    /// Each row of several sequences behind each other sees all rows of its own, as an encoder's do: the
    /// cache is the keys and values themselves.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a sequence of no rows, and those of an upload.
    pub fn bidirectional(gpu: &Gpu, lengths: &[usize]) -> Result<Self> {
        let rows: usize = lengths.iter().sum();
        if lengths.contains(&0) {
            return Err(unsupported("a sequence has no rows"));
        }
        let tables: Vec<i32> = (0..int(OP, rows)?).collect();
        let mut fields = Vec::with_capacity(SPAN * lengths.len());
        let mut start = 0;
        for &length in lengths {
            let (at, length) = (int(OP, start)?, int(OP, length)?);
            fields.extend([at, length, at, 0, length]);
            start += length as usize;
        }
        let plan = Plan { rows, slots: rows, spans: lengths.to_vec(), ..Plan::default() };
        let (tables, spans) = (gpu.upload(&tables)?, gpu.upload(&fields)?);
        let (branches, singles) = (gpu.alloc(0)?, gpu.alloc(0)?);
        Ok(Self { tables, branches, singles, spans, block_size: 1, plan, least_span: 1 })
    }

    /// Other rows in the same memory, if that suffices and the launches are the same as before, so that launches that
    /// were recorded go on with them; else nothing is written and the result is false. Sequences can grow
    /// until the number of pieces of 256 positions passes a power of two.
    ///
    /// # Errors
    /// As [`Rows::new`].
    pub fn rewrite(
        &mut self,
        rows: &[AttentionRow],
        tables: &[i32],
        branches: &[i32],
    ) -> Result<bool> {
        let (new, singles, spans) = plan(self.block_size, rows, tables, branches, self.least_span)?;
        let old = &self.plan;
        let same = new.rows == old.rows && new.spans == old.spans && new.singles == old.singles;
        let fits = new.most_pieces <= old.most_pieces && new.pieces <= old.pieces;
        let room =
            tables.len() * 4 <= self.tables.len() && branches.len() * 4 <= self.branches.len();
        if !(same && fits && room) {
            return Ok(false);
        }
        self.tables.write(tables)?;
        self.branches.write(branches)?;
        self.singles.write(&singles)?;
        self.spans.write(&spans)?;
        self.plan.slots = new.slots;
        Ok(true)
    }
}

impl Plan {
    /// The same with pieces for some growth.
    fn rounded(self) -> Self {
        let (most_pieces, pieces) =
            (self.most_pieces.next_power_of_two(), self.pieces.next_power_of_two());
        Self { most_pieces, pieces, ..self }
    }
}

/// Bytes for a list of tables or branches, with room for some growth.
fn list_room(list: &[i32]) -> usize {
    list.len().next_power_of_two() * 4
}

fn unsupported(reason: impl Into<String>) -> Error {
    Error::Unsupported { op: OP, reason: reason.into() }
}

/// The plan, and the integers of single rows and of spans.
fn plan(
    block_size: usize,
    rows: &[AttentionRow],
    tables: &[i32],
    branches: &[i32],
    least_span: usize,
) -> Result<(Plan, Vec<i32>, Vec<i32>)> {
    if block_size == 0 {
        return Err(unsupported("blocks of no slots"));
    }
    let mut plan = Plan { rows: rows.len(), ..Plan::default() };
    let block =
        |&b: &i32| usize::try_from(b).ok().and_then(|b| b.checked_add(1)?.checked_mul(block_size));
    for slots in tables
        .iter()
        .map(block)
        .chain(branches.iter().map(|&s| usize::try_from(s).ok().map(|s| s + 1)))
    {
        plan.slots =
            plan.slots.max(slots.ok_or_else(|| unsupported("a block or slot that cannot be"))?);
    }
    let (mut singles, mut spans) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < rows.len() {
        let row = &rows[at];
        let run =
            rows[at..].windows(2).take_while(|pair| pair[0].goes_on_with(&pair[1])).count() + 1;
        for (i, row) in (at..).zip(&rows[at..at + run]) {
            let table = row.prefix.div_ceil(block_size);
            if row.prefix + row.branch.len() <= row.from
                || row.table.checked_add(table).is_none_or(|end| end > tables.len())
                || row.branch.start > row.branch.end
                || row.branch.end > branches.len()
            {
                return Err(unsupported(format!(
                    "row {i} sees nothing, or what is in no list: {row:?}"
                )));
            }
        }
        if run >= least_span && row.from == 0 && row.branch.is_empty() {
            let fields = [at, run, row.table, row.prefix - 1, 0];
            spans.extend(ints(fields)?);
            plan.spans.push(run);
        } else {
            for (i, row) in (at..).zip(&rows[at..at + run]) {
                let branch = &row.branch;
                let fields =
                    [i, row.table, row.from, row.prefix, branch.start, branch.len(), plan.pieces];
                singles.extend(ints(fields)?);
                let pieces = (row.prefix + branch.len() - row.from).div_ceil(PIECE);
                plan.most_pieces = plan.most_pieces.max(pieces);
                plan.pieces += pieces;
            }
        }
        at += run;
    }
    plan.singles = singles.len() / ROW;
    Ok((plan, singles, spans))
}

fn ints<const N: usize>(sizes: [usize; N]) -> Result<[i32; N]> {
    let mut out = [0; N];
    for (out, size) in out.iter_mut().zip(sizes) {
        *out = int(OP, size)?;
    }
    Ok(out)
}

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
    /// Slots that a cache must have.
    pub(super) slots: usize,
}

/// The rows of a batch in the host's memory: how they are launched, and the bytes of their lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowLists {
    kind: RowsKind,
    slots: usize,
    bytes: Vec<u8>,
}

/// What launches over rows depend on beside the lists' content: rows of one kind can take each other's place in the
/// memory that recorded launches read. Sequences can grow until the number of pieces of 256 positions passes a
/// power of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsKind {
    block_size: usize,
    plan: Plan,
    /// Where tables, branches, single rows and spans lie among the bytes.
    places: [Range<usize>; 4],
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
    /// Rows of each span.
    pub(super) spans: Vec<usize>,
    /// Rows outside of spans.
    pub(super) singles: usize,
    /// Pieces of the one of them that sees most, and of all.
    pub(super) most_pieces: usize,
    pub(super) pieces: usize,
}

impl RowLists {
    /// Rows, in the order of `q`'s, that see sequences through `tables`, lists of blocks of `block_size` slots behind
    /// each other, and further slots in `branches`. What can go through the prefill kernel does.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a row that sees nothing, or more than its table or the list of branches has, and
    /// for negative numbers.
    pub fn new(
        block_size: usize,
        rows: &[AttentionRow],
        tables: &[i32],
        branches: &[i32],
    ) -> Result<Self> {
        Self::with_least_span(block_size, rows, tables, branches, LEAST_SPAN)
    }

    /// The same, `least_span` rows or more that follow each other in a sequence going through the prefill
    /// kernel: to compare the kernels.
    ///
    /// # Errors
    /// As [`RowLists::new`].
    pub fn with_least_span(
        block_size: usize,
        rows: &[AttentionRow],
        tables: &[i32],
        branches: &[i32],
        least_span: usize,
    ) -> Result<Self> {
        if block_size == 0 {
            return Err(unsupported("blocks of no slots"));
        }
        let slots = slots(block_size, tables, branches)?;
        let (plan, singles, spans) = plan(block_size, rows, [tables, branches], least_span)?;
        let (bytes, places) = pack([
            (tables, tables.len().next_power_of_two()),
            (branches, branches.len().next_power_of_two()),
            (&singles, singles.len()),
            (&spans, spans.len()),
        ]);
        let kind = RowsKind { block_size, plan: plan.rounded(), places };
        Ok(Self { kind, slots, bytes })
    }

    /// Each row of several sequences behind each other sees all rows of its own, as an encoder's do: the
    /// cache is the keys and values themselves.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a sequence of no rows.
    pub fn bidirectional(lengths: &[usize]) -> Result<Self> {
        let rows: usize = lengths.iter().sum();
        if lengths.contains(&0) {
            return Err(unsupported("a sequence has no rows"));
        }
        let tables: Vec<i32> = (0..int(OP, rows)?).collect();
        let mut spans = Vec::with_capacity(SPAN * lengths.len());
        let mut start = 0;
        for &length in lengths {
            let (at, length) = (int(OP, start)?, int(OP, length)?);
            spans.extend([at, length, at, 0, length]);
            start += length as usize;
        }
        let lists = [&tables[..], &[], &[], &spans];
        let (bytes, places) = pack(lists.map(|list| (list, list.len())));
        let plan = Plan { rows, spans: lengths.to_vec(), ..Plan::default() };
        Ok(Self { kind: RowsKind { block_size: 1, plan, places }, slots: rows, bytes })
    }

    /// What launches over them depend on.
    pub fn kind(&self) -> &RowsKind {
        &self.kind
    }

    /// Slots that a cache must have for these rows.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// What the kernels read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The rows in memory that holds [`bytes`](Self::bytes) whenever they are used: these, or those of other rows of
    /// the same kind.
    ///
    /// # Errors
    /// [`Error::Length`] for another length.
    pub fn at(&self, memory: &Buffer) -> Result<Rows> {
        let (expected, got) = (self.bytes.len(), memory.len());
        if got != expected {
            return Err(Error::Length { op: OP, what: "rows", expected, got });
        }
        let RowsKind { block_size, plan, places } = self.kind.clone();
        let [tables, branches, singles, spans] = places.map(|place| memory.slice(place));
        Ok(Rows { tables, branches, singles, spans, block_size, plan, slots: self.slots })
    }

    /// The rows on a device.
    ///
    /// # Errors
    /// Those of an upload.
    pub fn upload(&self, gpu: &Gpu) -> Result<Rows> {
        self.at(&gpu.upload(&self.bytes)?)
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

/// Lists behind each other, each with room for so many integers, and where they lie.
fn pack(lists: [(&[i32], usize); 4]) -> (Vec<u8>, [Range<usize>; 4]) {
    let mut bytes = Vec::new();
    let places = lists.map(|(list, room)| {
        let start = bytes.len().next_multiple_of(16);
        let end = start + 4 * room;
        bytes.resize(end, 0);
        bytes[start..start + 4 * list.len()].copy_from_slice(bytemuck::cast_slice(list));
        start..end
    });
    (bytes, places)
}

fn unsupported(reason: impl Into<String>) -> Error {
    Error::Unsupported { op: OP, reason: reason.into() }
}

/// Slots that a cache must have for these blocks and slots to be there.
fn slots(block_size: usize, tables: &[i32], branches: &[i32]) -> Result<usize> {
    let end = |&i: &i32, unit: usize| usize::try_from(i).ok()?.checked_add(1)?.checked_mul(unit);
    let blocks = tables.iter().map(|block| end(block, block_size));
    blocks.chain(branches.iter().map(|slot| end(slot, 1))).try_fold(0, |most, end| {
        Ok(most.max(end.ok_or_else(|| unsupported("a block or slot that cannot be"))?))
    })
}

/// The plan, and the integers of single rows and of spans.
fn plan(
    block_size: usize,
    rows: &[AttentionRow],
    [tables, branches]: [&[i32]; 2],
    least_span: usize,
) -> Result<(Plan, Vec<i32>, Vec<i32>)> {
    let mut plan = Plan { rows: rows.len(), ..Plan::default() };
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

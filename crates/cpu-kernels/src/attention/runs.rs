//! Rows of a sequence's cache by logical position.

use super::KvRun;
use crate::simd::{CACHE_LINE, LANES, Tile, prefetch};

/// A place in a list of runs that moves forward.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    runs: &'a [KvRun<'a>],
    run: usize,
    /// Position of the run's first row.
    start: usize,
}

/// Keys or values.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Keys,
    Values,
}

/// Which bytes of a row one key-value head has.
#[derive(Clone, Copy)]
pub(super) struct HeadBytes {
    /// Bytes of the row of all heads.
    pub(super) row: usize,
    pub(super) at: usize,
    pub(super) len: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(runs: &'a [KvRun<'a>]) -> Self {
        Cursor { runs, run: 0, start: 0 }
    }

    /// Moves to the run that holds `position`, or past the last.
    #[inline(always)]
    fn seek(&mut self, position: usize) {
        while let Some(run) = self.runs.get(self.run)
            && position >= self.start + run.len
        {
            self.start += run.len;
            self.run += 1;
        }
    }

    /// Moves to the run that holds `position`, which is not before the place, and returns the
    /// run's rows from there: bytes and number.
    #[inline(always)]
    pub(super) fn rows(&mut self, position: usize, part: Part, row: usize) -> (&'a [u8], usize) {
        self.seek(position);
        let run = &self.runs[self.run];
        let skip = position - self.start;
        let bytes = match part {
            Part::Keys => run.keys,
            Part::Values => run.values,
        };
        (&bytes[skip * row..], run.len - skip)
    }

    /// A head's part of 16 rows from `position` on: in place if one run holds them, or else those
    /// of the `n` asked for copied to `pad`, with zeros for the rest.
    #[inline(always)]
    pub(super) fn tile<'b>(
        mut self,
        position: usize,
        n: usize,
        head: HeadBytes,
        part: Part,
        pad: &'b mut Vec<u8>,
    ) -> Tile<'b>
    where
        'a: 'b,
    {
        let (bytes, rows) = self.rows(position, part, head.row);
        if rows >= LANES && head.row <= Tile::MAX_STRIDE {
            return Tile::new(&bytes[head.at..], head.row, head.len);
        }
        self.copied_tile(position, n, head, part, pad)
    }

    #[inline(never)]
    fn copied_tile<'b>(
        mut self,
        position: usize,
        n: usize,
        head: HeadBytes,
        part: Part,
        pad: &'b mut Vec<u8>,
    ) -> Tile<'b> {
        let HeadBytes { row, at, len } = head;
        pad.clear();
        pad.resize(LANES * len, 0);
        let mut done = 0;
        while done < n.min(LANES) {
            let (bytes, rows) = self.rows(position + done, part, row);
            for r in 0..rows.min(n.min(LANES) - done) {
                pad[done * len..][..len].copy_from_slice(&bytes[r * row + at..][..len]);
                done += 1;
            }
        }
        Tile::new(pad, len, len)
    }

    /// A head's part of up to `n` rows from `position` on that lie in one run, to be prefetched.
    #[inline(always)]
    pub(super) fn ahead(
        mut self,
        position: usize,
        n: usize,
        head: HeadBytes,
        part: Part,
    ) -> Ahead<'a> {
        self.seek(position);
        if self.run == self.runs.len() {
            return Ahead::nothing();
        }
        let (bytes, rows) = self.rows(position, part, head.row);
        Ahead { bytes: &bytes[head.at..], row: head.row, len: head.len, rows: n.min(rows), at: 0 }
    }
}

/// Bytes that will be needed soon: equal parts of some rows. They are asked for a line at a time
/// between other work, since many at once would wait for each other.
pub(super) struct Ahead<'a> {
    /// From the part of the next row on.
    bytes: &'a [u8],
    /// Distance of rows, bytes of the part.
    row: usize,
    len: usize,
    /// Rows left.
    rows: usize,
    /// Bytes of the next row that have been asked for.
    at: usize,
}

impl Ahead<'_> {
    pub(super) fn nothing() -> Self {
        Ahead { bytes: &[], row: 0, len: 0, rows: 0, at: 0 }
    }

    /// Asks for one line to be brought to the second-level cache.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        if self.rows == 0 {
            return;
        }
        prefetch(self.bytes.as_ptr().wrapping_add(self.at));
        self.at += CACHE_LINE;
        if self.at >= self.len {
            self.at = 0;
            self.rows -= 1;
            self.bytes = self.bytes.get(self.row..).unwrap_or_default();
        }
    }
}

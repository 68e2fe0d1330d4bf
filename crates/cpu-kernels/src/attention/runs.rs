//! Rows of a sequence's cache by logical position.

use super::KvRun;
use crate::simd::{LANES, Tile};

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

impl<'a> Cursor<'a> {
    pub(super) fn new(runs: &'a [KvRun<'a>]) -> Self {
        Cursor { runs, run: 0, start: 0 }
    }

    /// Moves to the run that holds `position`, which is not before the place, and returns the
    /// run's rows from there: bytes and number.
    pub(super) fn rows(&mut self, position: usize, part: Part, row: usize) -> (&'a [u8], usize) {
        while position >= self.start + self.runs[self.run].len {
            self.start += self.runs[self.run].len;
            self.run += 1;
        }
        let run = &self.runs[self.run];
        let skip = position - self.start;
        let bytes = match part {
            Part::Keys => run.keys,
            Part::Values => run.values,
        };
        (&bytes[skip * row..], run.len - skip)
    }

    /// 16 rows from `position` on, `at..at + len` of each: in place if one run holds them, or
    /// else those of the `n` asked for copied to `pad`, with zeros for the rest.
    pub(super) fn tile<'b>(
        mut self,
        position: usize,
        n: usize,
        row: usize,
        (at, len): (usize, usize),
        part: Part,
        pad: &'b mut Vec<u8>,
    ) -> Tile<'b>
    where
        'a: 'b,
    {
        let (bytes, rows) = self.rows(position, part, row);
        if rows >= LANES && row <= Tile::MAX_STRIDE {
            return Tile::new(&bytes[at..], row, len);
        }
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
}

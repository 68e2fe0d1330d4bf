//! Little-endian reading that never passes the end.

use crate::Error;

/// A position in the bytes of a file.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n` bytes, which belong to `what`.
    pub(crate) fn take(&mut self, n: u64, what: &'static str) -> Result<&'a [u8], Error> {
        let remaining = self.remaining();
        match usize::try_from(n) {
            Ok(n) if n <= remaining => {
                let taken = &self.bytes[self.at..self.at + n];
                self.at += n;
                Ok(taken)
            }
            _ => Err(Error::Truncated { what, at: self.at, needed: n, remaining }),
        }
    }

    /// The next `N` bytes, for `from_le_bytes`.
    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let taken = self.take(N as u64, what)?;
        Ok(taken.try_into().expect("take gives what was asked for"))
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string: its length, then its bytes.
    pub(crate) fn string(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    /// A string that must be UTF-8.
    pub(crate) fn utf8(&mut self, what: &'static str) -> Result<&'a str, Error> {
        let at = self.at;
        std::str::from_utf8(self.string(what)?).map_err(|_| Error::NotUtf8 { what, at })
    }

    /// A count of things of at least `least` bytes each, which must fit into what remains.
    pub(crate) fn fitting(
        &self,
        count: u64,
        least: usize,
        what: &'static str,
    ) -> Result<usize, Error> {
        let remaining = self.remaining();
        match usize::try_from(count) {
            Ok(n) if n <= remaining / least => Ok(n),
            _ => Err(Error::ImpossibleCount { what, count, remaining }),
        }
    }
}

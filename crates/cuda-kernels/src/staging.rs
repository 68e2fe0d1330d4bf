//! Long copies between the host and a device, through pinned memory.
//!
//! The device copies from and to pinned memory by itself, at the bandwidth of the bus; from other memory the driver
//! copies first, in small pieces and in turns with the bus. So long copies go through a ring of
//! chunks: while the device moves one, the host copies the next.

use crate::{DevicePtr, Result};

/// Chunks of pinned memory, and the copies that a device makes from and to them, in order.
pub(crate) trait Chunks {
    /// How many there are, of how many bytes.
    fn size(&self) -> (usize, usize);

    /// Waits until the device is done with a chunk.
    fn wait(&mut self, chunk: usize) -> Result<()>;

    /// A chunk's memory, which the device is done with.
    fn memory(&mut self, chunk: usize) -> &mut [u8];

    /// Begins to copy the first bytes of a chunk to the device.
    ///
    /// # Safety
    /// As many bytes are allocated there.
    unsafe fn to_device(&mut self, chunk: usize, to: DevicePtr, bytes: usize) -> Result<()>;

    /// Begins to copy from the device to the first bytes of a chunk.
    ///
    /// # Safety
    /// As many bytes are allocated there.
    unsafe fn to_host(&mut self, chunk: usize, from: DevicePtr, bytes: usize) -> Result<()>;
}

/// A ring of chunks.
#[derive(Debug)]
pub(crate) struct Staging<C> {
    chunks: C,
    /// The one whose last copy began before those of all others.
    next: usize,
}

impl<C: Chunks> Staging<C> {
    pub(crate) fn new(chunks: C) -> Self {
        Self { chunks, next: 0 }
    }

    fn advance(&mut self) -> usize {
        let chunk = self.next;
        self.next = (chunk + 1) % self.chunks.size().0;
        chunk
    }

    /// Copies to the device; `from` may change as soon as this returns.
    ///
    /// # Safety
    /// As many bytes are allocated there.
    pub(crate) unsafe fn upload(&mut self, mut to: DevicePtr, from: &[u8]) -> Result<()> {
        for part in from.chunks(self.chunks.size().1) {
            let chunk = self.advance();
            self.chunks.wait(chunk)?;
            self.chunks.memory(chunk)[..part.len()].copy_from_slice(part);
            // SAFETY: the caller's promise.
            unsafe { self.chunks.to_device(chunk, to, part.len()) }?;
            to += part.len() as u64;
        }
        Ok(())
    }

    /// Copies from the device, and waits for it.
    ///
    /// # Safety
    /// As many bytes are allocated there.
    pub(crate) unsafe fn download(&mut self, to: &mut [u8], mut from: DevicePtr) -> Result<()> {
        let (count, size) = self.chunks.size();
        let mut under_way = std::collections::VecDeque::with_capacity(count);
        let mut parts = to.chunks_mut(size);
        loop {
            if under_way.len() < count
                && let Some(part) = parts.next()
            {
                let chunk = self.advance();
                self.chunks.wait(chunk)?;
                // SAFETY: the caller's promise.
                unsafe { self.chunks.to_host(chunk, from, part.len()) }?;
                from += part.len() as u64;
                under_way.push_back((chunk, part));
                continue;
            }
            let Some((chunk, part)) = under_way.pop_front() else { return Ok(()) };
            self.chunks.wait(chunk)?;
            part.copy_from_slice(&self.chunks.memory(chunk)[..part.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Copy {
        ToDevice(usize, usize, usize),
        ToHost(usize, usize, usize),
    }

    /// A device that copies as late as it may: when it is waited for.
    struct Late {
        device: Vec<u8>,
        memory: Vec<Vec<u8>>,
        begun: Vec<Copy>,
    }

    impl Late {
        fn run(&mut self) {
            for copy in std::mem::take(&mut self.begun) {
                match copy {
                    Copy::ToDevice(c, at, n) => {
                        self.device[at..at + n].copy_from_slice(&self.memory[c][..n])
                    }
                    Copy::ToHost(c, at, n) => {
                        self.memory[c][..n].copy_from_slice(&self.device[at..at + n])
                    }
                }
            }
        }
    }

    impl Chunks for Late {
        fn size(&self) -> (usize, usize) {
            (self.memory.len(), self.memory[0].len())
        }

        fn wait(&mut self, chunk: usize) -> Result<()> {
            let of = |copy: &Copy| match *copy {
                Copy::ToDevice(c, ..) | Copy::ToHost(c, ..) => c == chunk,
            };
            if self.begun.iter().any(of) {
                self.run();
            }
            Ok(())
        }

        fn memory(&mut self, chunk: usize) -> &mut [u8] {
            &mut self.memory[chunk]
        }

        unsafe fn to_device(&mut self, chunk: usize, to: DevicePtr, bytes: usize) -> Result<()> {
            self.begun.push(Copy::ToDevice(chunk, to as usize, bytes));
            Ok(())
        }

        unsafe fn to_host(&mut self, chunk: usize, from: DevicePtr, bytes: usize) -> Result<()> {
            self.begun.push(Copy::ToHost(chunk, from as usize, bytes));
            Ok(())
        }
    }

    #[test]
    fn all_bytes_arrive_however_late_the_device_copies() {
        for (count, size) in [(1, 7), (2, 16), (4, 5)] {
            let memory = vec![vec![0xee; size]; count];
            let mut staging = Staging::new(Late { device: vec![0; 200], memory, begun: vec![] });
            for n in [0, 1, size, size + 1, 3 * size, 150] {
                let bytes: Vec<u8> = (0..n).map(|i| (i * 7 + n) as u8).collect();
                let mut back = vec![0; n];
                // SAFETY: the device above checks its bounds.
                unsafe {
                    let mut from = bytes.clone();
                    staging.upload(20, &from).unwrap();
                    from.fill(0);
                    staging.download(&mut back, 20).unwrap();
                }
                assert_eq!(back, bytes, "{count} chunks of {size}");
            }
        }
    }
}

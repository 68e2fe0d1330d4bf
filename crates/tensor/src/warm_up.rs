//! Reading mapped tensors before they are needed.

use std::ops::Range;

use files::MappedFile;

use crate::storage::{InterleavedBytes, Storage};
use crate::{Compute, Tensor};

/// Bytes that a thread looks at in one go, and as many pieces as are asked for ahead.
const PIECE: usize = 8 << 20;
const AHEAD: usize = 8;

/// Looks at every page of the tensors that are mapped from files, so that the system has them in
/// memory and in this process's page table before the first step asks for them. Tensors elsewhere
/// are passed over.
///
/// `progress` hears of bytes looked at, and of how many in all.
pub fn warm_up(compute: &Compute, tensors: &[Tensor], progress: &mut dyn FnMut(u64, u64)) {
    let mapped = || tensors.iter().filter_map(Tensor::mapping);
    let total = mapped().map(|(_, range)| range.len() as u64).sum();
    let pieces: Vec<(&MappedFile, Range<usize>)> = mapped()
        .flat_map(|(file, range)| {
            let end = range.end;
            range.step_by(PIECE).map(move |start| (file, start..end.min(start + PIECE)))
        })
        .collect();
    let ask = |from: usize| {
        for (file, range) in pieces.iter().skip(from).take(AHEAD) {
            file.prefetch(range.clone());
        }
    };
    ask(0);
    let mut done = 0;
    for (i, batch) in pieces.chunks(AHEAD).enumerate() {
        ask((i + 1) * AHEAD);
        compute.pool().run(batch.len(), |j| {
            let (file, range) = &batch[j];
            // The smallest page of any system.
            let sum = file[range.clone()].iter().step_by(4096).fold(0u8, |a, &b| a ^ b);
            std::hint::black_box(sum);
        });
        done += batch.iter().map(|(_, range)| range.len() as u64).sum::<u64>();
        progress(done, total);
    }
}

impl Tensor {
    /// Where in a mapped file it lies: as it was opened, or interleaved.
    fn mapping(&self) -> Option<(&MappedFile, Range<usize>)> {
        match self.storage() {
            Storage::Mapped(file) => Some((file, self.range())),
            Storage::Interleaved(InterleavedBytes::File(file), range) => {
                Some((file, range.clone()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn mapped_tensors_are_looked_at_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let len = AHEAD * PIECE + 4096;
        files::write_atomically(&path, &vec![1; len + 64]).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let mapped = Tensor::mapped(DType::I8, [len], file, 64..64 + len).unwrap();
        let own = Tensor::zeros([3]).unwrap();
        let mut heard = Vec::new();
        let compute = Compute::cpu().with_threads(2);
        warm_up(&compute, &[own, mapped], &mut |done, total| heard.push((done, total)));
        assert_eq!(heard, [((AHEAD * PIECE) as u64, len as u64), (len as u64, len as u64)]);
    }
}

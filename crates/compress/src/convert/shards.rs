//! Writing safetensors, in one file or in shards with an index, one tensor at a time.
//!
//! The header stands before the data, so names, types and shapes are declared first.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, json};
use tensor::DType;

use crate::Error;

/// Data of a shard; a larger tensor has one of its own.
pub(super) const SHARD_BYTES: u64 = 5_000_000_000;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
}

impl Declared {
    fn bytes(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product::<u64>() * self.dtype.block_bytes() as u64
    }
}

/// Takes the data of declared tensors in order.
pub(super) struct Shards {
    folder: PathBuf,
    tensors: Vec<Declared>,
    /// The first tensor of each shard.
    starts: Vec<usize>,
    next: usize,
    out: Option<BufWriter<File>>,
}

impl Shards {
    /// Files in `folder` for these tensors, with at most `limit` bytes of data each.
    pub(super) fn new(folder: &Path, tensors: Vec<Declared>, limit: u64) -> Self {
        let mut starts = Vec::new();
        let mut size = 0;
        for (i, t) in tensors.iter().enumerate() {
            if i == 0 || size + t.bytes() > limit {
                starts.push(i);
                size = 0;
            }
            size += t.bytes();
        }
        Self { folder: folder.to_owned(), tensors, starts, next: 0, out: None }
    }

    fn file_name(&self, shard: usize) -> String {
        match self.starts.len() {
            0 | 1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", shard + 1),
        }
    }

    /// Writes the data of the tensor that comes next.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        assert_eq!(bytes.len() as u64, self.tensors[self.next].bytes(), "as declared");
        if let Ok(shard) = self.starts.binary_search(&self.next) {
            self.end_file()?;
            self.begin_file(shard)?;
        }
        self.next += 1;
        let out = self.out.as_mut().expect("the first tensor begins a file");
        out.write_all(bytes).map_err(Error::io(&self.folder))
    }

    fn begin_file(&mut self, shard: usize) -> Result<(), Error> {
        let end = self.starts.get(shard + 1).copied().unwrap_or(self.tensors.len());
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        let mut offset = 0;
        for t in &self.tensors[self.starts[shard]..end] {
            let (begin, end) = (offset, offset + t.bytes());
            offset = end;
            let dtype = t.dtype.name();
            let entry = json!({"dtype": dtype, "shape": t.shape, "data_offsets": [begin, end]});
            header.insert(t.name.clone(), entry);
        }
        // Spaces, so that the data begin at a multiple of eight.
        let mut header = serde_json::to_vec(&header).expect("a map of strings is JSON");
        header.resize(header.len().next_multiple_of(8), b' ');
        let path = self.folder.join(self.file_name(shard));
        let file = File::create(&path).map_err(Error::io(&path))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| out.write_all(&header))
            .map_err(Error::io(path))?;
        self.out = Some(out);
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), Error> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let file = out.into_inner().map_err(|e| Error::io(&self.folder)(e.into_error()))?;
        file.sync_all().map_err(Error::io(&self.folder))
    }

    /// Ends the last file and writes the index of several.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.end_file()?;
        if self.starts.len() < 2 {
            return Ok(());
        }
        let mut weight_map = Map::new();
        for (i, t) in self.tensors.iter().enumerate() {
            let shard = self.starts.partition_point(|&start| start <= i) - 1;
            weight_map.insert(t.name.clone(), json!(self.file_name(shard)));
        }
        let total: u64 = self.tensors.iter().map(Declared::bytes).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        write_json(&self.folder.join("model.safetensors.index.json"), &index)
    }
}

/// Writes a JSON file in the way of Hugging Face's libraries.
pub(super) fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value is JSON");
    text.push('\n');
    files::write_atomically(path, text.as_bytes()).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read_back_by_the_formats_own_library() {
        let dir = tempfile::tempdir().unwrap();
        let tensor =
            |name: &str, n| Declared { name: name.to_owned(), dtype: DType::F32, shape: vec![n] };
        let tensors = vec![tensor("a", 2), tensor("b", 1), tensor("c", 9), tensor("d", 1)];
        let mut shards = Shards::new(dir.path(), tensors, 16);
        for n in [2usize, 1, 9, 1] {
            shards.write(&vec![n as u8; 4 * n]).unwrap();
        }
        shards.finish().unwrap();
        let index = std::fs::read(dir.path().join("model.safetensors.index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["metadata"]["total_size"], 52);
        for (name, shard, n) in [("a", 1, 2), ("b", 1, 1), ("c", 2, 9), ("d", 3, 1)] {
            let file = format!("model-{shard:05}-of-00003.safetensors");
            assert_eq!(index["weight_map"][name], file);
            let bytes = std::fs::read(dir.path().join(file)).unwrap();
            let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(read.tensor(name).unwrap().data(), vec![n as u8; 4 * n]);
        }
    }
}

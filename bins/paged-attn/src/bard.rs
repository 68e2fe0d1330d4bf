//! bard, a Llama of 5.8 M parameters trained on Shakespeare, and its tokenizer.

use anyhow::{Context, Result};
use model::Model;
use tensor::Compute;
use tokenizer::Tokenizer;

const GGUF: &[u8] = include_bytes!("../../../assets/bard-f16.gguf");

/// The embedded model.
pub struct Bard {
    /// The model, on the processor.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The file that the model maps.
    _folder: tempfile::TempDir,
}

impl Bard {
    /// Unpacks and loads it.
    ///
    /// # Errors
    /// Where there is no temporary folder to unpack it to.
    pub fn load() -> Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let path = folder.path().join("bard-f16.gguf");
        files::write_atomically(&path, GGUF).context("unpack the embedded model")?;
        let model = Model::open(&path)?.with_compute(Compute::cpu());
        let tokenizer = Tokenizer::from_path(&path)?;
        Ok(Self { model, tokenizer, _folder: folder })
    }
}

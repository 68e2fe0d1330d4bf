//! The weights of a GGUF file, where they lie in the mapped file.

use std::path::Path;

use gguf::Gguf;
use tensor::Tensor;

use super::WeightSource;
use super::split::Parts;
use crate::arch::{self, Arch};
use crate::{Error, ModelConfig};

/// An opened GGUF file that holds a model.
#[derive(Debug)]
pub struct GgufModel {
    file: Gguf,
    arch: Arch,
    config: ModelConfig,
    parts: Parts,
}

impl GgufModel {
    /// Opens the file (or the first of the files of a split model) at `path`.
    ///
    /// # Errors
    /// [`Error::Gguf`], and those of [`arch::gguf::config`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::new(Gguf::open(path)?)
    }

    /// The model in an opened file.
    ///
    /// # Errors
    /// Those of [`arch::gguf::config`].
    pub fn new(file: Gguf) -> Result<Self, Error> {
        let (arch, config) = arch::gguf::config(&file)?;
        let parts = Parts::new(arch, &config);
        Ok(Self { file, arch, config, parts })
    }

    /// Its architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The file.
    pub fn file(&self) -> &Gguf {
        &self.file
    }

    /// The tensor as the file has it: fused projections in one piece.
    ///
    /// # Errors
    /// If its bytes cannot be those of a tensor.
    pub fn stored(&self, name: &str) -> Result<Option<Tensor>, Error> {
        tensor(&self.file, name)
    }
}

impl WeightSource for GgufModel {
    fn get(&self, name: &str) -> Result<Option<Tensor>, Error> {
        self.parts.get(name, |name| self.stored(name))
    }

    fn gguf(&self) -> Option<&Gguf> {
        Some(&self.file)
    }
}

/// A tensor of a file, mapped.
pub(crate) fn tensor(file: &Gguf, name: &str) -> Result<Option<Tensor>, Error> {
    let Some(info) = file.tensor(name) else { return Ok(None) };
    let (map, range) = file.mapped(info);
    Ok(Some(Tensor::mapped(info.dtype, info.shape.as_slice(), map, range)?))
}

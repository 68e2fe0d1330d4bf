//! MODEL as users name it, to a model and its tokenizer.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use model::Model;
use tokenizer::Tokenizer;

use crate::options::Hardware;
use crate::pull;

/// The file or folder that a user's MODEL names.
pub(crate) fn resolve(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    if pull::is_model_name(name) {
        return pull::cached(name).with_context(|| {
            format!(
                "there is no file '{name}', and no such model was pulled; run: infinity pull {name}"
            )
        });
    }
    bail!("there is no file or folder '{name}'")
}

/// A model ready to run.
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) model: Model,
    pub(crate) took: Duration,
}

pub(crate) fn model(name: &str, hardware: &Hardware) -> Result<Loaded> {
    let path = resolve(name)?;
    let start = Instant::now();
    let model = Model::open_with(&path, hardware.compute()?, hardware.repack)
        .with_context(|| path.display().to_string())?;
    Ok(Loaded { path, model, took: start.elapsed() })
}

pub(crate) fn tokenizer(path: &Path) -> Result<Tokenizer> {
    Tokenizer::from_path(path).with_context(|| path.display().to_string())
}

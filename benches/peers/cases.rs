//! What is compared: modes of models.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};

/// What a run measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Mode {
    /// A prompt into an empty cache.
    Prefill,
    /// One sequence from an empty cache.
    Decode,
    /// One sequence with many positions before it, an f16 cache.
    Depth,
    /// The same with a Q8_0 cache.
    DepthQ8,
    /// Many sequences together.
    Batch,
    /// From f16 to a smaller type.
    Quantize,
    /// From the start of the process to a prompt's last logits.
    Start,
    /// A server and clients that each send when their last request has ended.
    Serve,
    /// What the rounding of activations costs: KL divergence from the same file with f32 activations.
    Accuracy,
}

/// A model's file, and modes of its own.
#[derive(Clone, Debug)]
pub(crate) struct ModelArg {
    path: PathBuf,
    modes: Option<Vec<Mode>>,
}

impl FromStr for ModelArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((path, modes)) = text.rsplit_once('=') else {
            return Ok(ModelArg { path: text.into(), modes: None });
        };
        let mode = |name: &str| <Mode as clap::ValueEnum>::from_str(name, true);
        let modes = modes.split(',').map(mode).collect::<Result<_, _>>()?;
        Ok(ModelArg { path: path.into(), modes: Some(modes) })
    }
}

/// Modes of one model that one process measures.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) model: PathBuf,
    /// [`Mode::Prefill`], [`Mode::Decode`] or both; or one of the others.
    pub(crate) modes: Vec<Mode>,
}

impl Case {
    pub(crate) fn has(&self, mode: Mode) -> bool {
        self.modes.contains(&mode)
    }

    pub(crate) fn is_long(&self) -> bool {
        self.has(Mode::Quantize) || self.has(Mode::Serve)
    }

    /// The file's name without its folder.
    pub(crate) fn file(&self) -> String {
        file_name(&self.model)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modes: Vec<String> =
            self.modes.iter().map(|m| format!("{m:?}").to_lowercase()).collect();
        write!(f, "{} {}", self.file(), modes.join("+"))
    }
}

/// A file's name without its folder: records name no folders.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The cases of all models: prefill and decode share a process, the others have one each.
///
/// # Errors
/// If a file is not there.
pub(crate) fn all(models: &[ModelArg], modes: &[Mode]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for model in models {
        let mut modes = model.modes.clone().unwrap_or_else(|| modes.to_vec());
        modes.sort();
        modes.dedup();
        let path = std::fs::canonicalize(&model.path);
        let path = path.with_context(|| model.path.display().to_string())?;
        let case = |modes| Case { model: path.clone(), modes };
        let (shared, alone): (Vec<Mode>, Vec<Mode>) =
            modes.into_iter().partition(|m| matches!(m, Mode::Prefill | Mode::Decode));
        if !shared.is_empty() {
            cases.push(case(shared));
        }
        cases.extend(alone.into_iter().map(|mode| case(vec![mode])));
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefill_and_decode_share_a_process() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            path.display().to_string()
        };
        let texts = [format!("{}=decode,batch,prefill", file("x.gguf")), file("y.gguf")];
        let models: Vec<ModelArg> = texts.iter().map(|t| t.parse().unwrap()).collect();
        let cases = all(&models, &[Mode::Start]).unwrap();
        let shown: Vec<String> = cases.iter().map(Case::to_string).collect();
        assert_eq!(shown, ["x.gguf prefill+decode", "x.gguf batch", "y.gguf start"]);
        assert!(all(&["nowhere.gguf".parse().unwrap()], &[Mode::Start]).is_err());
        assert!("x.gguf=fast".parse::<ModelArg>().is_err());
    }
}

//! The files that are measured: the base, and one a format, made when its turn comes and removed after.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use compress::QuantizeOptions;
use compress::convert::Options;
use gguf::Gguf;
use quant_core::FileType;

use crate::args::Args;
use crate::run::{progress_bar, same_file};
use crate::workspace::Workspace;

/// A file to measure.
pub(crate) struct Variant {
    /// The format's name.
    pub(crate) name: String,
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Whether it is what the others are compared with.
    pub(crate) is_base: bool,
}

/// Makes the files.
pub(crate) struct Variants<'a> {
    workspace: &'a Workspace,
    /// What formats are made from: the model as it was given, or converted from a folder.
    source: Gguf,
    source_type: Option<FileType>,
    base: Variant,
    base_type: Option<FileType>,
    options: QuantizeOptions,
}

/// Reads the names of formats: llama.cpp's, and `fp16` and `fp32`.
///
/// # Errors
/// A name that no format has, a format named twice.
pub(crate) fn parse(names: &[String]) -> Result<Vec<FileType>> {
    let mut formats = Vec::new();
    for name in names.iter().map(|n| n.trim()).filter(|n| !n.is_empty()) {
        let format = match &name.to_ascii_lowercase()[..] {
            "fp16" => FileType::F16,
            "fp32" => FileType::F32,
            name => name.parse()?,
        };
        if formats.contains(&format) {
            bail!("--quants names {format} twice");
        }
        formats.push(format);
    }
    Ok(formats)
}

impl<'a> Variants<'a> {
    /// Opens the model and makes its f16 base where it is not f16 itself. A model that is quantized
    /// already is its own base.
    pub(crate) fn new(model: &Path, workspace: &'a Workspace, args: &Args) -> Result<Self> {
        let options = QuantizeOptions {
            threads: args.threads.map_or(0, usize::from),
            allow_requantize: args.allow_requantize,
            ..Default::default()
        };
        let path = if model.is_dir() {
            let path = workspace.file("model.gguf");
            convert(model, &path, options.threads)?;
            path
        } else {
            model.to_owned()
        };
        let source = Gguf::open(&path)?;
        let source_type = file_type(&source);
        let quantized = source.tensors().iter().any(|t| t.dtype.is_quantized());
        let base = |name: String, path: PathBuf| Variant { name, path, is_base: true };
        let (base, base_type) = if quantized || source_type == Some(FileType::F16) {
            let name = source_type.map_or("as given".to_owned(), |t| t.to_string());
            (base(name, path), source_type)
        } else {
            let path = workspace.file("base-F16.gguf");
            quantize(&source, &path, FileType::F16, &options)?;
            (base("F16".to_owned(), path), Some(FileType::F16))
        };
        Ok(Self { workspace, source, source_type, base, base_type, options })
    }

    /// What ratios and divergences are against.
    pub(crate) fn base(&self) -> &Variant {
        &self.base
    }

    /// Whether a format can be made, before hours have gone into the others.
    pub(crate) fn check(&self, format: FileType) -> Result<()> {
        if [self.base_type, self.source_type].contains(&Some(format)) {
            return Ok(());
        }
        match compress::plan(&self.source, format, &self.options) {
            Ok(_) => Ok(()),
            Err(compress::Error::AlreadyQuantized { tensor, dtype }) => bail!(
                "{format} would be made of {tensor}, which is {dtype} already: begin with an f16 \
                 model, or say --allow-requantize"
            ),
            Err(error) => Err(error).with_context(|| format!("{format} cannot be made")),
        }
    }

    /// Makes the file of a format.
    pub(crate) fn make(&self, format: FileType) -> Result<Variant> {
        let name = format.to_string();
        if self.base_type == Some(format) {
            return Ok(Variant { name, path: self.base.path.clone(), is_base: true });
        }
        if self.source_type == Some(format) {
            return Ok(Variant { name, path: self.source.path().to_owned(), is_base: false });
        }
        let path = self.workspace.file(&format!("{format}.gguf"));
        quantize(&self.source, &path, format, &self.options)
            .with_context(|| format!("{format} cannot be made"))?;
        Ok(Variant { name, path, is_base: false })
    }

    /// Removes what was made for a variant alone, so that the disk holds one format at a time.
    pub(crate) fn discard(&self, variant: &Variant) -> Result<()> {
        if variant.is_base || same_file(&variant.path, self.source.path()) {
            return Ok(());
        }
        Ok(std::fs::remove_file(&variant.path)?)
    }
}

/// The mixture that a file says it is.
fn file_type(file: &Gguf) -> Option<FileType> {
    file.metadata().optional::<u32>("general.file_type").ok().flatten().and_then(FileType::from_id)
}

fn quantize(source: &Gguf, to: &Path, format: FileType, options: &QuantizeOptions) -> Result<()> {
    let bar = progress_bar(format.name());
    bar.set_length(100);
    compress::quantize(source, to, format, options, &mut |tensor, share| {
        bar.set_position((100.0 * share) as u64);
        bar.set_message(tensor.name.clone());
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    Ok(())
}

/// A GGUF file of a Hugging Face folder, in the folder's own type.
fn convert(folder: &Path, to: &Path, threads: usize) -> Result<()> {
    let options = Options { threads, ..Default::default() };
    let bar = progress_bar("convert");
    compress::convert::hf_to_gguf(folder, to, &options, &mut |step| {
        bar.set_length(step.of as u64);
        bar.set_position(step.done as u64);
        bar.set_message(step.tensor.to_owned());
        ControlFlow::Continue(())
    })
    .with_context(|| format!("{} cannot be converted to GGUF", folder.display()))?;
    bar.finish_and_clear();
    Ok(())
}

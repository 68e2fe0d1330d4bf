//! A Hugging Face folder to a GGUF file.

use std::path::Path;

use gguf::{Builder, Metadata};
use model::weights::HfModel;
use model::{Model, ModelConfig};
use quant_core::{FileType, Work};
use serde_json::Value;
use tensor::DType;
use tokenizer::Tokenizer;

use super::config_json::TOKEN_KEYS;
use super::layout::{Direction, Layout, gguf_dtype};
use super::{Options, Report, metadata, output_type};
use crate::{Error, Progress, Step};

/// The version of the block formats (`GGML_QNT_VERSION`).
pub(crate) const QUANTIZATION_VERSION: u32 = 2;

/// Writes the model in `folder` as the GGUF file `out`.
///
/// A folder without a tokenizer makes a file without one, with a note in the report. Tensors that
/// the architecture does not use are left out.
///
/// # Errors
/// [`Error::Model`] if the folder cannot be read, [`Error::Gguf`] if the file cannot be written,
/// [`Error::Quantize`] for values beyond the type asked for, [`Error::Cancelled`].
pub fn hf_to_gguf(
    folder: &Path,
    out: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Report, Error> {
    let model = HfModel::open(folder)?;
    Model::check(model.config(), &model)?;
    let (arch, config) = (model.arch(), model.config());
    let names = model.names();
    let mut notes = Vec::new();
    for unused in model.unused() {
        tracing::debug!("{unused} is not used by {}", arch.gguf_name());
    }
    let mut described = Vec::with_capacity(names.len());
    for name in &names {
        let found = model.describe(name)?;
        described.push(found.ok_or_else(|| missing(name))?);
    }
    // The first matrix decides for a checkpoint of several types.
    let matrix = described.iter().find(|(shape, _)| shape.len() > 1);
    let stored = matrix.map_or(DType::F32, |&(_, dtype)| dtype);
    let dtype = output_type(options, stored)?;
    let file_type = match dtype {
        DType::F32 => FileType::F32,
        DType::BF16 => FileType::BF16,
        _ => FileType::F16,
    };

    let shapes: Vec<(Vec<usize>, DType)> = names
        .iter()
        .zip(described)
        .map(|(name, (shape, _))| {
            let dtype = gguf_dtype(name, shape.len(), dtype);
            (shape, dtype)
        })
        .collect();
    let mut meta = Metadata::default();
    meta.set("general.architecture", arch.gguf_name());
    meta.set("general.type", "model");
    meta.set("general.name", options.name.clone().unwrap_or_else(|| name_of(folder)));
    meta.set("general.size_label", size_label(config, &names, &shapes));
    let tables = match config {
        ModelConfig::Decoder(c) => metadata::decoder(arch, c, file_type.id(), &mut meta),
        ModelConfig::Encoder(c) => {
            metadata::encoder(arch, c, file_type.id(), &mut meta);
            if let Some(kind) = pooling(folder) {
                meta.set(format!("{}.pooling_type", arch.gguf_name()), kind);
            }
            Vec::new()
        }
        _ => Vec::new(),
    };
    meta.set("general.quantization_version", QUANTIZATION_VERSION);
    vocabulary(&model, &mut meta, &mut notes)?;

    let mut builder = Builder::with_metadata(meta);
    for (name, table) in &tables {
        builder.tensor(*name, vec![table.len()], DType::F32)?;
    }
    for (name, (shape, dtype)) in names.iter().zip(&shapes) {
        builder.tensor(name.as_str(), shape.as_slice(), *dtype)?;
    }
    let mut writer = builder.create(out)?;
    let mut report = Report { notes, ..Report::default() };
    let of = names.len() + tables.len();
    let mut write = |name: &str, bytes: &[u8]| -> Result<(), Error> {
        writer.tensor(name, bytes)?;
        report.tensors += 1;
        report.bytes += bytes.len() as u64;
        let step = Step { tensor: name, done: report.tensors, of, bytes: report.bytes };
        if progress(step).is_break() { Err(Error::Cancelled) } else { Ok(()) }
    };
    for (name, table) in &tables {
        let bytes: Vec<u8> = table.iter().flat_map(|v| v.to_le_bytes()).collect();
        write(name, &bytes)?;
    }
    let layout = Layout::new(arch, config, Direction::ToGguf);
    let work = Work::threads(options.threads);
    for (name, (_, dtype)) in names.iter().zip(&shapes) {
        let tensor = model.stored(name)?.ok_or_else(|| missing(name))?;
        write(name, &layout.convert(name, &tensor, *dtype, work)?)?;
    }
    writer.commit()?;
    Ok(report)
}

fn missing(name: &str) -> model::Error {
    model::Error::MissingTensor { name: name.to_owned() }
}

/// The vocabulary as metadata, filled up to as many tokens as the embedding has rows.
fn vocabulary(model: &HfModel, meta: &mut Metadata, notes: &mut Vec<String>) -> Result<(), Error> {
    let folder = model.folder();
    let rows = match model.config() {
        ModelConfig::Decoder(c) => c.vocab_size,
        ModelConfig::Encoder(c) => c.vocab_size,
        _ => 0,
    };
    let tokenizer = match Tokenizer::from_folder(folder) {
        Ok(tokenizer) => tokenizer,
        Err(tokenizer::Error::NoTokenizer { .. }) => {
            notes.push(format!("no tokenizer in {}: the file has none", folder.display()));
            // What the configuration says of the roles of tokens is kept.
            for (key, role) in TOKEN_KEYS.iter().zip(["bos", "eos", "padding"]) {
                if let Some(id) = token_id(model, key, rows) {
                    meta.set(format!("tokenizer.ggml.{role}_token_id"), id);
                }
            }
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    };
    let tokens = tokenizer.vocab_size();
    if tokens < rows {
        notes.push(format!("{} tokens [PADn] fill the vocabulary up to {rows}", rows - tokens));
    }
    if tokens > rows {
        notes.push(format!("{} tokens beyond the model's {rows} are left out", tokens - rows));
    }
    let mut vocabulary = tokenizer.to_gguf_vocabulary(Some(rows))?;
    // What the files of the tokenizer leave open, the configuration may say.
    let special = &mut vocabulary.special;
    for (key, id) in TOKEN_KEYS.iter().zip([&mut special.bos, &mut special.eos, &mut special.pad]) {
        *id = id.or_else(|| token_id(model, key, rows));
    }
    vocabulary.write_gguf(meta);
    Ok(())
}

/// An id that `config.json` gives; the first of several.
fn token_id(model: &HfModel, key: &str, rows: usize) -> Option<u32> {
    let value = model.json().get(key)?;
    let value = value.as_array().and_then(|list| list.first()).unwrap_or(value);
    value.as_u64().filter(|id| *id < rows as u64).map(|id| id as u32)
}

/// `pooling_type` of a sentence-transformers folder: 1 mean, 2 first token, 3 last.
fn pooling(folder: &Path) -> Option<u32> {
    let read =
        |path: &Path| -> Option<Value> { serde_json::from_slice(&std::fs::read(path).ok()?).ok() };
    let modules = read(&folder.join("modules.json"))?;
    let is_pooling = |m: &&Value| m["type"].as_str().is_some_and(|t| t.ends_with("Pooling"));
    let path = modules.as_array()?.iter().find(is_pooling)?["path"].as_str()?;
    let plain = !path.is_empty() && !path.contains(['/', '\\', ':']) && path != "..";
    let config = read(&folder.join(plain.then_some(path)?).join("config.json"))?;
    let flag = |key: &str| config[key].as_bool().unwrap_or(false);
    let mode = config["pooling_mode"].as_str().unwrap_or_default();
    match () {
        () if flag("pooling_mode_mean_tokens") || mode == "mean" => Some(1),
        () if flag("pooling_mode_cls_token") || mode == "cls" => Some(2),
        () if flag("pooling_mode_lasttoken") || mode == "lasttoken" => Some(3),
        () => None,
    }
}

/// A name from that of a folder, as llama.cpp's converter makes it: words apart, and a capital at
/// the beginning of those without any, but for versions and sizes.
fn name_of(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = full.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let number = |w: &str| w.starts_with(|c: char| c.is_ascii_digit());
    let word = |w: &str| {
        let lower = w.contains(char::is_lowercase) && !w.contains(char::is_uppercase);
        if !lower || number(w) || w.strip_prefix('v').is_some_and(number) {
            return w.to_owned();
        }
        let mut chars = w.chars();
        let first = chars.next().map(char::to_uppercase);
        first.into_iter().flatten().chain(chars).collect()
    };
    let words = name.split(['-', '_', ' ']).filter(|w| !w.is_empty()).map(word);
    words.collect::<Vec<_>>().join(" ")
}

/// `5.8M`, or `8x7B` for experts, as llama.cpp's converter counts.
fn size_label(config: &ModelConfig, names: &[String], shapes: &[(Vec<usize>, DType)]) -> String {
    let experts = match config {
        ModelConfig::Decoder(c) => c.experts.as_ref().map_or(0, |e| e.n_experts),
        _ => 0,
    };
    let count = |(name, (shape, _)): (&String, &(Vec<usize>, DType))| {
        let all: usize = shape.iter().product();
        if name.contains("_exps.") { all / experts.max(1) } else { all }
    };
    let n = names.iter().zip(shapes).map(count).sum::<usize>() as f64;
    let (scaled, suffix) = match n {
        n if n > 1e12 => (n * 1e-12, "T"),
        n if n > 1e9 => (n * 1e-9, "B"),
        n if n > 1e6 => (n * 1e-6, "M"),
        n => (n * 1e-3, "K"),
    };
    let whole = format!("{}", scaled.round_ties_even());
    let digits = 2usize.saturating_sub(whole.trim_start_matches('0').len());
    let size = format!("{scaled:.digits$}{suffix}");
    if experts > 0 { format!("{experts}x{size}") } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_are_as_llama_cpp_makes_them() {
        assert_eq!(name_of(Path::new("/nowhere/bard")), "Bard");
        assert_eq!(name_of(Path::new("/nowhere/tiny-llama_1.1B-v2b")), "Tiny Llama 1.1B v2b");
        let shapes = |n| vec![(vec![n], DType::F32)];
        let config =
            model::arch::hf::config(serde_json::json!({"model_type": "gpt2"}).as_object().unwrap());
        let (_, config) = config.unwrap();
        let names = [String::from("x")];
        assert_eq!(size_label(&config, &names, &shapes(5_777_664)), "5.8M");
        assert_eq!(size_label(&config, &names, &shapes(124_000_000)), "124M");
        assert_eq!(size_label(&config, &names, &shapes(1_100_000_000)), "1.1B");
        assert_eq!(size_label(&config, &names, &shapes(400)), "0.40K");
    }
}

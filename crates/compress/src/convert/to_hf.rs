//! A GGUF file to a Hugging Face folder.

use std::fs::File;
use std::path::Path;

use gguf::Metadata;
use model::arch::Arch;
use model::arch::names::GgufName;
use model::config::{Position, RopeScaling};
use model::rope_scaling::llama3_factors;
use model::weights::GgufModel;
use model::{Model, ModelConfig};
use quant_core::Work;
use serde_json::{Value, json};
use tensor::{DType, Tensor};
use tokenizer::Vocabulary;

use super::config_json::{self, Facts, TOKEN_KEYS};
use super::layout::{Direction, Layout};
use super::shards::{Declared, SHARD_BYTES, Shards, write_json};
use super::{Options, Report, output_type};
use crate::{Error, Progress, Step};

/// How tensors of the folder are made from one of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// `[in, out]` in the folder.
    Transposed,
    /// One tensor an expert.
    Experts,
    /// Several tensors of the file behind each other, of which these follow.
    Fused(Vec<String>),
}

/// One or more tensors of the folder.
struct Plan {
    gguf: String,
    hf: Vec<String>,
    part: Part,
    /// Of each of them.
    shape: Vec<usize>,
}

/// Writes the model in the GGUF file `file` as the Hugging Face folder `out`.
///
/// Quantized tensors are decoded. The folder appears when it is whole.
///
/// # Errors
/// [`Error::OutputExists`], [`Error::Model`] if the file cannot be read, [`Error::Io`] if the folder
/// cannot be written, [`Error::Quantize`] for values beyond the type asked for, [`Error::Cancelled`].
pub fn gguf_to_hf(
    file: &Path,
    out: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Report, Error> {
    to_hf(file, out, options, SHARD_BYTES, progress)
}

fn to_hf(
    file: &Path,
    out: &Path,
    options: &Options,
    shard_bytes: u64,
    progress: Progress<'_>,
) -> Result<Report, Error> {
    if out.exists() {
        return Err(Error::OutputExists { path: out.to_owned() });
    }
    let model = GgufModel::open(file)?;
    Model::check(model.config(), &model)?;
    let mut report = Report::default();
    let dtype = output_type(options, stored_type(&model))?;
    let plans = plans(&model, &mut report.notes);
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".partial-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o777));
    }
    let folder = builder.tempdir_in(parent).map_err(Error::io(parent))?;

    write_configuration(&model, dtype, folder.path())?;
    write_tokenizer(&model, folder.path(), &mut report.notes)?;
    let declared = plans.iter().flat_map(|p| {
        p.hf.iter().map(|name| Declared { name: name.clone(), dtype, shape: p.shape.clone() })
    });
    let mut shards = Shards::new(folder.path(), declared.collect(), shard_bytes);
    let layout = Layout::new(model.arch(), model.config(), Direction::ToHf);
    let of = plans.iter().map(|p| p.hf.len()).sum();
    for plan in &plans {
        let bytes = converted(&model, plan, &layout, dtype, Work::threads(options.threads))?;
        for (name, bytes) in plan.hf.iter().zip(bytes.chunks_exact(bytes.len() / plan.hf.len())) {
            shards.write(bytes)?;
            report.tensors += 1;
            report.bytes += bytes.len() as u64;
            let step = Step { tensor: name, done: report.tensors, of, bytes: report.bytes };
            if progress(step).is_break() {
                return Err(Error::Cancelled);
            }
        }
    }
    shards.finish()?;
    let sync = |path: &Path| File::open(path).and_then(|f| f.sync_all()).map_err(Error::io(path));
    sync(folder.path())?;
    std::fs::rename(folder.path(), out).map_err(Error::io(out))?;
    // It has another name now: nothing is left to remove.
    let _ = folder.keep();
    sync(parent)?;
    Ok(report)
}

/// The type of the file's matrices; that of a quantized one if there is any.
fn stored_type(model: &GgufModel) -> DType {
    let matrices = model.file().tensors().iter().filter(|t| t.shape.len() > 1).map(|t| t.dtype);
    matrices.max_by_key(|t| (t.is_quantized(), *t != DType::F32)).unwrap_or(DType::F32)
}

/// What becomes of each tensor of the file, in its order.
fn plans(model: &GgufModel, notes: &mut Vec<String>) -> Vec<Plan> {
    let names = model.arch().names();
    let mut plans = Vec::new();
    for info in model.file().tensors() {
        let parsed = GgufName::parse(&info.name);
        let mut part = Part::Whole;
        let mut shape = info.shape.clone();
        let found = parsed.and_then(|name| names.find(name).map(|line| (name, line)));
        let found = found.or_else(|| {
            // Projections that the folder has in one piece, and the file apart.
            let (name, fused, rest) = match parsed? {
                n @ GgufName { kind: "attn_q", .. } => (n, "attn_qkv", &["attn_k", "attn_v"][..]),
                _ => return None,
            };
            let line = names.find(name.with_kind(fused))?;
            let rest: Vec<String> = rest.iter().map(|k| name.with_kind(k).to_string()).collect();
            for other in &rest {
                let other = &model.file().tensor(other)?.shape;
                if other.get(1..) != shape.get(1..) {
                    return None;
                }
                shape[0] += other[0];
            }
            part = Part::Fused(rest);
            Some((name, line))
        });
        let Some((name, line)) = found else {
            let fused = parsed.is_some_and(|n| {
                matches!(n.kind, "attn_k" | "attn_v")
                    && names.find(n.with_kind("attn_qkv")).is_some()
            });
            if !info.name.starts_with("rope_f") && !fused {
                notes.push(format!("left out: '{}', which a folder does not have", info.name));
            }
            continue;
        };
        let path = names.hf_path(names.model_path, name.layer, line.hf[0]);
        let path = format!("{path}.{}", name.suffix);
        let hf = match path.split_once('*') {
            Some((before, after)) if shape.len() == 3 => {
                part = Part::Experts;
                let n = shape.remove(0);
                (0..n).map(|i| format!("{before}{i}{after}")).collect()
            }
            _ => vec![path],
        };
        if line.transposed && shape.len() == 2 && part == Part::Whole {
            part = Part::Transposed;
            shape.reverse();
        }
        plans.push(Plan { gguf: info.name.clone(), hf, part, shape });
    }
    plans
}

/// The data of a plan's tensors, one behind the other.
fn converted(
    model: &GgufModel,
    plan: &Plan,
    layout: &Layout,
    dtype: DType,
    work: Work<'_>,
) -> Result<Vec<u8>, Error> {
    let one = |name: &str| -> Result<(Tensor, Vec<u8>), Error> {
        let tensor = model.stored(name)?;
        let tensor = tensor.ok_or_else(|| model::Error::MissingTensor { name: name.to_owned() })?;
        let bytes = layout.convert(name, &tensor, dtype, work)?;
        Ok((tensor, bytes))
    };
    let (tensor, mut bytes) = one(&plan.gguf)?;
    match &plan.part {
        Part::Whole | Part::Experts => Ok(bytes),
        Part::Transposed => Ok(transposed(&bytes, tensor.rows(), tensor.cols())),
        Part::Fused(rest) => {
            for name in rest {
                bytes.extend(one(name)?.1);
            }
            Ok(bytes)
        }
    }
}

fn transposed(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let size = bytes.len() / rows / cols;
    let mut out = Vec::with_capacity(bytes.len());
    for c in 0..cols {
        for r in 0..rows {
            out.extend_from_slice(&bytes[(r * cols + c) * size..][..size]);
        }
    }
    out
}

/// Writes `config.json` and, for decoders, `generation_config.json`.
fn write_configuration(model: &GgufModel, dtype: DType, folder: &Path) -> Result<(), Error> {
    let meta = model.file().metadata();
    let mut config = model.config().clone();
    let arch = match model.arch() {
        // A window is what tells Mistral from Llama; one that not all layers have is neither's.
        Arch::Mistral if has_biases(model, "attn_q") => Arch::Llama,
        arch => arch,
    };
    recover_llama3(meta, arch, &mut config)?;
    let ids = ["bos", "eos", "padding"].map(|role| format!("tokenizer.ggml.{role}_token_id"));
    let [bos, eos, pad] = ids.map(|key| meta.optional::<u32>(&key));
    let tokens = [bos?, eos?, pad?];
    let facts = Facts {
        arch,
        dtype,
        attention_bias: has_biases(model, "attn_q"),
        ffn_bias: has_biases(model, "ffn_up"),
        tokens,
    };
    let json = config_json::config(&facts, &config);
    write_json(&folder.join("config.json"), &Value::Object(json))?;
    if let ModelConfig::Decoder(_) = &config {
        let mut json = serde_json::Map::new();
        json.insert("_from_model_config".to_owned(), json!(true));
        let ids = TOKEN_KEYS.iter().zip(tokens).filter(|(_, id)| id.is_some());
        json.extend(ids.map(|(key, id)| ((*key).to_owned(), json!(id))));
        write_json(&folder.join("generation_config.json"), &Value::Object(json))?;
    }
    Ok(())
}

/// Writes the files of the tokenizer, if the file has one that a folder can hold.
fn write_tokenizer(model: &GgufModel, folder: &Path, notes: &mut Vec<String>) -> Result<(), Error> {
    let meta = model.file().metadata();
    if !meta.contains("tokenizer.ggml.tokens") {
        notes.push("no tokenizer in the file: the folder has none".to_owned());
        return Ok(());
    }
    match Vocabulary::from_gguf(meta).and_then(|v| v.to_hugging_face()) {
        Ok(files) => {
            for (name, content) in files {
                let path = folder.join(name);
                files::write_atomically(&path, &content).map_err(Error::io(path))?;
            }
        }
        Err(e) => notes.push(format!("the folder has no tokenizer: {e}")),
    }
    Ok(())
}

fn has_biases(model: &GgufModel, kind: &str) -> bool {
    model.file().tensor(&format!("blk.0.{kind}.bias")).is_some()
}

/// Finds what a table of divisors was computed from: the keys of our own, or Llama 3.1's parameters
/// as they were published.
fn recover_llama3(meta: &Metadata, arch: Arch, config: &mut ModelConfig) -> Result<(), Error> {
    let ModelConfig::Decoder(c) = config else { return Ok(()) };
    let Position::Rotary { global, .. } = &mut c.position else { return Ok(()) };
    let RopeScaling::Factors(table) = &global.source.scaling else { return Ok(()) };
    let table = table.clone();
    let largest = f64::from(table.iter().copied().fold(1.0, f32::max));
    let key = |name: &str| format!("{}.rope.llama3.{name}", arch.gguf_name());
    let number = |name: &str, default: f64| -> Result<f64, Error> {
        Ok(meta.optional::<f32>(&key(name))?.map_or(default, f64::from))
    };
    let context = meta.optional::<usize>(&key("original_context_length"))?.unwrap_or(8192);
    let candidate = RopeScaling::Llama3 {
        factor: number("factor", largest)?,
        low_freq_factor: number("low_freq_factor", 1.0)?,
        high_freq_factor: number("high_freq_factor", 4.0)?,
        original_context: context,
    };
    let mut source = global.source.clone();
    source.scaling = candidate;
    let same = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b;
    if llama3_factors(&source).iter().zip(&table).all(same) {
        global.source = source;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_exchanges_rows_and_columns() {
        assert_eq!(transposed(&[0, 1, 2, 3, 4, 5], 2, 3), [0, 3, 1, 4, 2, 5]);
        assert_eq!(transposed(&[0, 0, 1, 1, 2, 2, 3, 3], 2, 2), [0, 0, 2, 2, 1, 1, 3, 3]);
    }
}

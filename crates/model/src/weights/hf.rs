//! The weights of a Hugging Face folder: `model.safetensors`, or the shards that
//! `model.safetensors.index.json` lists.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use files::MappedFile;
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value};
use tensor::{Compute, DType, Tensor};

use super::WeightSource;
use super::pairs::Pairs;
use super::safetensors::{self as container, Entry};
use super::split::Parts;
use crate::arch::names::{GgufName, Name};
use crate::arch::{self, Arch};
use crate::{Error, ModelConfig};

/// An index of shards has a line a tensor; larger files are none.
const MAX_JSON: u64 = 64 << 20;
/// Configurations are small; a parsed value takes a hundred bytes.
const MAX_VALUES: usize = 1 << 16;

/// An opened Hugging Face folder.
///
/// Tensors go by their names in GGUF, but in their own layout: rows of queries and keys in the
/// order of half-split rotary embeddings, norm weights as stored.
#[derive(Debug)]
pub struct HfModel {
    folder: PathBuf,
    json: Map<String, Value>,
    arch: Arch,
    config: ModelConfig,
    parts: Parts,
    /// The path of the model's own tensors, `model.` for example.
    base: String,
    files: Vec<MappedFile>,
    tensors: HashMap<String, Place>,
}

/// Where a tensor of the checkpoint lies.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    entry: Entry,
}

impl HfModel {
    /// Opens a folder: reads `config.json` and the headers of the weights.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], those of [`arch::hf::config`], and what is wrong with the
    /// files of weights.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let json = read_config(&folder.join("config.json"))?;
        let (arch, config) = arch::hf::config(&json)?;
        let parts = Parts::new(arch, &config);
        let (files, tensors) = open_weights(folder)?;
        let anchor = format!("{}.weight", arch.names().model[0].hf[0]);
        let base = base(&tensors, &anchor).ok_or(Error::MissingTensor { name: anchor })?;
        Ok(Self { folder: folder.to_owned(), json, arch, config, parts, base, files, tensors })
    }

    /// Its architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `config.json`.
    pub fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// The names in GGUF of the tensors that are there, in the order of the checkpoint.
    pub fn names(&self) -> Vec<String> {
        let n_layers = match &self.config {
            ModelConfig::Decoder(c) => c.n_layers,
            ModelConfig::Encoder(c) => c.n_layers,
        };
        let mut names: Vec<_> = self
            .arch
            .names()
            .gguf(n_layers)
            .filter_map(|name| {
                let found = self.find(name)?;
                let place = &self.tensors[&found.paths[0]];
                // Halves of one tensor: the order of their names decides.
                Some(((place.file, place.entry.range.start), name.to_string()))
            })
            .collect();
        names.sort();
        names.into_iter().map(|(_, name)| name).collect()
    }

    /// The names, in the checkpoint, of the tensors that no name in GGUF stands for.
    pub fn unused(&self) -> Vec<&str> {
        let n_layers = match &self.config {
            ModelConfig::Decoder(c) => c.n_layers,
            ModelConfig::Encoder(c) => c.n_layers,
        };
        let mut left: BTreeMap<&str, ()> = self.tensors.keys().map(|k| (k.as_str(), ())).collect();
        for name in self.arch.names().gguf(n_layers) {
            for path in self.find(name).into_iter().flat_map(|f| f.paths) {
                left.remove(path.as_str());
            }
        }
        left.into_keys().collect()
    }

    /// The tensor as GGUF files have it (fused projections in one piece, linear weights `[out, in]`,
    /// experts together), but for the layout.
    ///
    /// # Errors
    /// [`Error::ElementType`] for elements that are no floating-point numbers of 16 bits or more.
    pub fn stored(&self, name: &str) -> Result<Option<Tensor>, Error> {
        let Some(parsed) = GgufName::parse(name) else { return Ok(None) };
        let Some(found) = self.find(parsed) else { return Ok(None) };
        let first = self.mapped(&found.paths[0])?;
        let tensor = match found.how {
            How::AsIs => first,
            How::Transposed if first.shape().dims().len() == 2 => transposed(&first)?,
            How::Transposed => first,
            How::Experts => {
                let tensors: Result<Vec<_>, _> =
                    found.paths.iter().map(|p| self.mapped(p)).collect();
                stacked(&found.paths, &tensors?)?
            }
            How::Half(half) => half_rows(&first, half, &found.paths[0])?,
        };
        // Nothing computes in double precision.
        Ok(Some(if tensor.dtype() == DType::F64 { tensor.to_f32()? } else { tensor }))
    }

    /// The shape and the type of what [`HfModel::stored`] gives, without reading it.
    ///
    /// # Errors
    /// [`Error::ElementType`], as there.
    pub fn describe(&self, name: &str) -> Result<Option<(Vec<usize>, DType)>, Error> {
        let Some(parsed) = GgufName::parse(name) else { return Ok(None) };
        let Some(found) = self.find(parsed) else { return Ok(None) };
        let first = self.mapped(&found.paths[0])?;
        let mut shape = first.shape().dims().to_vec();
        match found.how {
            How::AsIs => {}
            How::Transposed => shape.reverse(),
            How::Experts => shape.insert(0, found.paths.len()),
            How::Half(_) => {
                if let [_, rows, _] = shape.as_mut_slice() {
                    *rows /= 2;
                }
            }
        }
        let dtype = if first.dtype() == DType::F64 { DType::F32 } else { first.dtype() };
        Ok(Some((shape, dtype)))
    }

    /// How a tensor of GGUF is made from those of the checkpoint, if they are there.
    fn find(&self, name: GgufName<'_>) -> Option<Found> {
        let names = self.arch.names();
        let line = names.find(name)?;
        if name.kind == "output" && self.tied() {
            return None;
        }
        let there = |path: String| self.tensors.contains_key(&path).then_some(path);
        for hf in line.hf {
            let path = format!("{}.{}", names.hf_path(&self.base, name.layer, hf), name.suffix);
            if let Some((before, after)) = path.split_once('*') {
                let one = |i: usize| there(format!("{before}{i}{after}"));
                let n = self.n_experts();
                if let Some(paths) = (0..n).map(one).collect::<Option<Vec<_>>>() {
                    return (n > 0).then_some(Found { paths, how: How::Experts });
                }
                if let Some(found) = self.find_stacked(before, line, name.suffix) {
                    return Some(found);
                }
                continue;
            }
            let candidates = [Some(path.clone()), self.outside(hf, &path), old_norm(&path)];
            if let Some(path) = candidates.into_iter().flatten().find_map(there) {
                let transposed = line.transposed && name.suffix == "weight";
                let how = if transposed { How::Transposed } else { How::AsIs };
                return Some(Found { paths: vec![path], how });
            }
        }
        None
    }

    /// Experts that are kept together, gates and ups in one tensor (transformers 5 in memory).
    fn find_stacked(&self, before: &str, line: &Name, suffix: &str) -> Option<Found> {
        let (kind, how) = match line.gguf {
            "ffn_gate_exps" => ("gate_up_proj", How::Half(0)),
            "ffn_up_exps" => ("gate_up_proj", How::Half(1)),
            _ => ("down_proj", How::AsIs),
        };
        let names = [format!("{before}{kind}"), format!("{before}{kind}.{suffix}")];
        let weight = suffix == "weight";
        let path = names.into_iter().find(|p| weight && self.tensors.contains_key(p))?;
        Some(Found { paths: vec![path], how })
    }

    /// Where a tensor outside of the model's path stands if the model is a part of a larger one.
    fn outside(&self, hf: &str, path: &str) -> Option<String> {
        let outer = self.base.strip_suffix("model.").unwrap_or(&self.base);
        hf.starts_with('/').then(|| format!("{outer}{path}"))
    }

    fn tied(&self) -> bool {
        matches!(&self.config, ModelConfig::Decoder(c) if c.tied_embeddings)
    }

    fn n_experts(&self) -> usize {
        match &self.config {
            ModelConfig::Decoder(c) => c.experts.as_ref().map_or(0, |e| e.n_experts),
            ModelConfig::Encoder(_) => 0,
        }
    }

    /// A tensor of the checkpoint, by its own name.
    fn mapped(&self, name: &str) -> Result<Tensor, Error> {
        let place =
            self.tensors.get(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
        let dtype = match place.entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F64 => DType::F64,
            other => {
                let dtype = format!("{other:?}");
                return Err(Error::ElementType { name: name.to_owned(), dtype });
            }
        };
        let (file, range) = (self.files[place.file].clone(), place.entry.range.clone());
        Ok(Tensor::mapped(dtype, place.entry.shape.as_slice(), file, range)?)
    }
}

impl WeightSource for HfModel {
    fn get(&self, name: &str) -> Result<Option<Tensor>, Error> {
        self.parts.get(name, |name| self.stored(name))
    }

    /// Plain weights of bf16, as far as they are mapped: what is put together from several tensors would be
    /// made twice, and held twice.
    fn may_gain_from_repacking(&self, compute: &Compute) -> bool {
        let experts = matches!(&self.config, ModelConfig::Decoder(c) if c.experts.is_some());
        compute.gains_from_interleaving(DType::BF16)
            && !experts
            && self.tensors.values().any(|place| place.entry.dtype == Dtype::BF16)
    }
}

/// How a tensor of GGUF is made.
struct Found {
    /// Names in the checkpoint.
    paths: Vec<String>,
    how: How,
}

enum How {
    AsIs,
    /// `[in, out]` in the checkpoint.
    Transposed,
    /// One tensor an expert.
    Experts,
    /// The first or second half of the rows of each expert.
    Half(usize),
}

/// Reads a file of JSON that is not too large for what it should be.
fn read_json(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let len = std::fs::metadata(path).map_err(io)?.len();
    if len > MAX_JSON {
        return Err(io(too_many(len, "bytes")));
    }
    std::fs::read(path).map_err(io)
}

fn too_many(n: impl std::fmt::Display, what: &str) -> std::io::Error {
    let reason = format!("{n} {what} are too many for a configuration");
    std::io::Error::new(std::io::ErrorKind::InvalidData, reason)
}

/// Reads a configuration.
fn read_config(path: &Path) -> Result<Map<String, Value>, Error> {
    let bytes = read_json(path)?;
    let values = bytes.iter().filter(|b| matches!(b, b',' | b'[' | b'{')).count();
    if values > MAX_VALUES {
        return Err(Error::Io { path: path.to_owned(), source: too_many(values, "values") });
    }
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// The shard of each tensor.
    weight_map: Option<Pairs<String>>,
}

type Weights = (Vec<MappedFile>, HashMap<String, Place>);

fn open_weights(folder: &Path) -> Result<Weights, Error> {
    let index = folder.join("model.safetensors.index.json");
    let single = folder.join("model.safetensors");
    let mut tensors = HashMap::new();
    if single.exists() || !index.exists() {
        if !single.exists() {
            return Err(Error::NoWeights { path: folder.to_owned() });
        }
        let (file, entries) = container::open(&single)?;
        for entry in entries {
            tensors.insert(entry.name.clone(), Place { file: 0, entry });
        }
        return Ok((vec![file], tensors));
    }
    let mut files = Vec::new();
    for (shard, names) in shards(&index)? {
        let (file, entries) = container::open(&folder.join(&shard))?;
        let mut entries: HashMap<String, Entry> =
            entries.into_iter().map(|e| (e.name.clone(), e)).collect();
        for name in names {
            let Some(entry) = entries.remove(&name) else {
                return Err(Error::NotInShard { path: folder.join(&shard), name });
            };
            tensors.insert(name, Place { file: files.len(), entry });
        }
        files.push(file);
    }
    Ok((files, tensors))
}

/// The shards that an index lists, each with its tensors.
fn shards(index: &Path) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let Index { weight_map } = serde_json::from_slice(&read_json(index)?)
        .map_err(|source| Error::Json { path: index.to_owned(), source })?;
    let map = weight_map.ok_or_else(|| Error::MissingParameter { key: "weight_map".to_owned() })?;
    if let Some(name) = map.duplicate() {
        return Err(Error::RepeatedTensor { path: index.to_owned(), name: name.to_owned() });
    }
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, shard) in map.0 {
        // A shard lies in the folder itself: no path, no parent, no drive.
        let mut parts = Path::new(&shard).components();
        let one = matches!(parts.next(), Some(Component::Normal(_)));
        if !one || parts.next().is_some() || shard.contains(['/', '\\', ':', '\0']) {
            let shard = shard.chars().take(100).collect();
            return Err(Error::ShardPath { path: index.to_owned(), shard });
        }
        shards.entry(shard).or_default().push(name);
    }
    Ok(shards)
}

/// What stands before `anchor` in the checkpoint's names: the shortest, if there are several.
fn base(tensors: &HashMap<String, Place>, anchor: &str) -> Option<String> {
    tensors
        .keys()
        .filter_map(|name| name.strip_suffix(anchor))
        .filter(|base| base.is_empty() || base.ends_with('.'))
        .min_by_key(|base| (base.len(), base.to_string()))
        .map(str::to_owned)
}

/// The names that old checkpoints of BERT have for layer norms.
fn old_norm(path: &str) -> Option<String> {
    let old = |new: &str, old: &str| path.strip_suffix(new).map(|p| format!("{p}{old}"));
    old("LayerNorm.weight", "LayerNorm.gamma").or_else(|| old("LayerNorm.bias", "LayerNorm.beta"))
}

/// A matrix with rows and columns exchanged.
fn transposed(tensor: &Tensor) -> Result<Tensor, Error> {
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let size = tensor.dtype().block_bytes();
    let bytes = tensor.bytes()?;
    let mut out = Vec::with_capacity(bytes.len());
    for c in 0..cols {
        for r in 0..rows {
            let at = (r * cols + c) * size;
            out.extend_from_slice(&bytes[at..at + size]);
        }
    }
    Ok(Tensor::from_bytes(tensor.dtype(), [cols, rows], &out)?)
}

/// `[experts, out, in]` of one matrix an expert.
fn stacked(names: &[String], tensors: &[Tensor]) -> Result<Tensor, Error> {
    let first = &tensors[0];
    let mut bytes = Vec::with_capacity(first.byte_len() * tensors.len());
    for (name, t) in names.iter().zip(tensors) {
        if t.shape() != first.shape() {
            let (expected, got) = (first.shape().clone(), t.shape().clone());
            return Err(Error::TensorShape { name: name.clone(), expected, got });
        }
        if t.dtype() != first.dtype() {
            return Err(Error::TensorType { name: name.clone(), dtype: t.dtype() });
        }
        bytes.extend_from_slice(t.bytes()?);
    }
    let mut shape = vec![tensors.len()];
    shape.extend_from_slice(first.shape().dims());
    Ok(Tensor::from_bytes(first.dtype(), shape, &bytes)?)
}

/// `[experts, rows / 2, cols]`: one half of the rows of each expert.
fn half_rows(tensor: &Tensor, half: usize, name: &str) -> Result<Tensor, Error> {
    let &[experts, rows, cols] = tensor.shape().dims() else {
        let got = tensor.shape().clone();
        let expected = [0, 0, 0].into();
        return Err(Error::TensorShape { name: name.to_owned(), expected, got });
    };
    if rows % 2 != 0 {
        let (expected, got) = ([experts, rows + 1, cols].into(), tensor.shape().clone());
        return Err(Error::TensorShape { name: name.to_owned(), expected, got });
    }
    let bytes = tensor.bytes()?;
    let len = bytes.len() / experts / 2;
    let mut out = Vec::with_capacity(bytes.len() / 2);
    for expert in bytes.chunks_exact(2 * len) {
        out.extend_from_slice(&expert[half * len..][..len]);
    }
    Ok(Tensor::from_bytes(tensor.dtype(), [experts, rows / 2, cols], &out)?)
}

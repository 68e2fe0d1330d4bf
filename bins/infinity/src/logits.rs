//! `infinity logits MODEL --tokens IDS.json --out OUT.safetensors`: what the model computes, to be
//! compared with others.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use model::{Batch, ModelConfig, Outputs};
use safetensors::tensor::{Dtype, TensorView};
use tensor::kv::SeqId;
use tensor::{DType, Tensor};

use crate::load;
use crate::options::Hardware;

/// Write the logits of every position (or an encoder's hidden states) to a safetensors file.
#[derive(clap::Args)]
#[command(
    after_help = "Example: infinity logits FOLDER --tokens ids.json --out logits.safetensors\n\
    IDS.json holds a list of token ids, [1, 15043, 3186]. The file gets one f32 tensor: `logits`\n\
    [n, vocabulary], or `last_hidden_state` [n, width] for an encoder. No tokenizer is needed."
)]
pub(crate) struct Args {
    /// A GGUF file, a Hugging Face folder, or ORG/NAME
    model: String,
    /// A JSON file with a list of token ids
    #[arg(long, value_name = "IDS.json")]
    tokens: PathBuf,
    /// The safetensors file to write
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    /// Tokens that enter the model at a time
    #[arg(long, default_value_t = 512, value_name = "N")]
    chunk: usize,
    /// How keys and values are stored: f32, f16, bf16 or q8_0
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    kv_type: DType,
    #[command(flatten)]
    runtime: Hardware,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let ids = read_ids(&args.tokens)?;
    if args.chunk == 0 {
        bail!("--chunk 0: at least one token must enter the model at a time");
    }
    let loaded = load::model(&args.model, &args.runtime)?;
    let (name, values) = match loaded.model.config() {
        ModelConfig::Encoder(_) => ("last_hidden_state", loaded.model.encode(&[&ids])?),
        _ => ("logits", decode(&loaded.model, &ids, args)?),
    };
    let shape = values.shape().dims().to_vec();
    let view = TensorView::new(Dtype::F32, shape.clone(), values.bytes()?)?;
    let bytes = safetensors::serialize([(name, view)], None)?;
    files::write_atomically(&args.out, &bytes).with_context(|| args.out.display().to_string())?;
    println!("{}: {name} {shape:?}", args.out.display());
    args.runtime.tell(loaded.model.compute().profile())
}

fn decode(model: &model::Model, ids: &[u32], args: &Args) -> Result<Tensor> {
    let mut cache = model.new_cache(args.kv_type, ids.len())?;
    let (mut all, mut vocab) = (Vec::new(), 0);
    for chunk in ids.chunks(args.chunk) {
        let mut batch = Batch::new();
        batch.extend(SeqId(0), chunk);
        let out = model.forward(&batch, &mut cache, &Outputs::all_logits(&batch))?;
        vocab = out.logits.cols();
        all.extend_from_slice(out.logits.as_f32()?);
    }
    Ok(Tensor::from_vec([ids.len(), vocab], all)?)
}

/// A list of ids, or a list with one list in it.
pub(crate) fn read_ids(path: &std::path::Path) -> Result<Vec<u32>> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Ids {
        Flat(Vec<u32>),
        Nested(Vec<Vec<u32>>),
    }
    let text = match path.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()).context("standard input")?,
        _ => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
    };
    let ids = match serde_json::from_str(&text) {
        Ok(Ids::Flat(ids)) => ids,
        Ok(Ids::Nested(mut lists)) if lists.len() == 1 => lists.remove(0),
        _ => bail!("{}: expected a JSON list of token ids, [1, 15043, 3186]", path.display()),
    };
    if ids.is_empty() {
        bail!("{}: the list of token ids is empty", path.display());
    }
    Ok(ids)
}

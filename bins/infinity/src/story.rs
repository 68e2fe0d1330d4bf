//! `infinity` without a command: the main job on the embedded model, told step by step.
//!
//! A small trained Llama is quantized, each file generates from the same prompt and is measured on
//! text that the model has not seen.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use compress::QuantizeOptions;
use eval::{ModelLogits, Protocol, Task};
use model::Model;
use quant_core::FileType;
use sampling::{Sampler, SamplingParams};
use tensor::{Compute, DType};
use tokenizer::{EncodeOptions, Tokenizer};

use crate::session::{Generated, Limits as Until, Session};

const MODEL: &[u8] = include_bytes!("../../../assets/bard-f16.gguf");
const TEXT: &str = include_str!("../../../assets/shakespeare-heldout.txt");
const PROMPT: &str = "ROMEO:";
/// The windows that the model was trained on.
const CONTEXT: usize = 256;
/// Windows of the held-out text that are measured: enough for an error of 3 %, and quick.
const WINDOWS: usize = 40;

/// One line of the final table.
struct Measured {
    name: String,
    bytes: u64,
    load_ms: f64,
    perplexity: f64,
    error: f64,
    rate: f64,
}

pub(crate) fn run() -> Result<()> {
    let folder = tempfile::tempdir().context("a temporary folder")?;
    println!(
        "Infinity makes language models smaller and faster. Here is the whole way, on a small model\n\
        that this program carries: bard, a Llama of 5.8 M parameters trained on Shakespeare.\n"
    );

    println!("1. Unpack the model as GGUF, f16.");
    let f16 = folder.path().join("bard-F16.gguf");
    files::write_atomically(&f16, MODEL).context("unpack the embedded model")?;
    describe(&f16)?;

    println!("\n2. Quantize it.");
    let mut files = vec![("F16".to_owned(), f16.clone())];
    for name in ["Q8_0", "Q4_K_M"] {
        files.push((name.to_owned(), quantize(&f16, folder.path(), name)?));
    }

    println!("\n3. Let each continue \"{PROMPT}\", always taking the most probable token.");
    let mut table = Vec::new();
    for (name, path) in &files {
        table.push(measure(name, path)?);
    }

    println!(
        "\n4. What it cost, on held-out text (perplexity by llama.cpp's protocol, context {CONTEXT}).\n"
    );
    print(&table);
    println!(
        "\nOn your own model: infinity quantize MODEL.gguf OUT.gguf Q4_K_M; infinity --help shows the rest."
    );
    Ok(())
}

fn describe(path: &Path) -> Result<()> {
    let file = gguf::Gguf::open(path)?;
    println!(
        "   {} tensors, {} metadata keys, {:.1} MB",
        file.tensors().len(),
        file.metadata().len(),
        file.file_bytes() as f64 / 1e6
    );
    Ok(())
}

fn quantize(from: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
    let to = folder.join(format!("bard-{name}.gguf"));
    let start = Instant::now();
    let file_type: FileType = name.parse()?;
    let input = gguf::Gguf::open(from)?;
    let go = &mut |_: &_, _| ControlFlow::Continue(());
    let report = compress::quantize(&input, &to, file_type, &QuantizeOptions::default(), go)?;
    println!(
        "   {name}: {:.1} MB -> {:.1} MB, {:.2} bits a weight, in {:.1} s",
        report.bytes_before() as f64 / 1e6,
        report.bytes_after() as f64 / 1e6,
        report.bits_per_weight(),
        start.elapsed().as_secs_f64()
    );
    Ok(to)
}

fn measure(name: &str, path: &Path) -> Result<Measured> {
    let start = Instant::now();
    let model = Model::open(path)?.with_compute(Compute::cpu());
    let tokenizer = Tokenizer::from_path(path)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let sample = generate(&model, &tokenizer)?;
    println!("   {name}:");
    for line in format!("{PROMPT}{}", sample.text).lines().take(6) {
        println!("     | {line}");
    }
    let tokens =
        tokenizer.encode(TEXT, EncodeOptions { add_special: true, parse_special: false })?;
    let task = Task {
        tokens: &tokens[..tokens.len().min(WINDOWS * CONTEXT)],
        protocol: Protocol::LlamaCpp { context: CONTEXT },
        bos: tokenizer.bos().filter(|_| tokenizer.add_bos()),
        tokenizer: "bard",
        limits: eval::Limits::default(),
    };
    let figure = eval::perplexity(&mut ModelLogits::new(&model)?, &task, &mut |_| {})?.perplexity;
    Ok(Measured {
        name: name.to_owned(),
        bytes: std::fs::metadata(path)?.len(),
        load_ms,
        perplexity: figure.value,
        error: figure.error,
        rate: sample.decode_rate(),
    })
}

fn generate(model: &Model, tokenizer: &Tokenizer) -> Result<Generated> {
    let ids =
        tokenizer.encode(PROMPT, EncodeOptions { add_special: true, parse_special: false })?;
    let mut sampler = Sampler::new(SamplingParams::greedy())?;
    let limits = Until { max_tokens: 96, ignore_eos: false, interrupted: &|| false };
    let mut session = Session::new(model, DType::F16, None)?;
    session.generate(tokenizer, &ids, &mut sampler, &limits, &mut |_| Ok(()))
}

fn print(table: &[Measured]) {
    println!("| format | MB   | load ms | perplexity      | of F16 | tokens/s |");
    println!("|--------|------|---------|-----------------|--------|----------|");
    for m in table {
        println!(
            "| {:6} | {:4.1} | {:7.1} | {:6.2} +/- {:4.2} | {:6.4} | {:8.0} |",
            m.name,
            m.bytes as f64 / 1e6,
            m.load_ms,
            m.perplexity,
            m.error,
            m.perplexity / table[0].perplexity,
            m.rate
        );
    }
}

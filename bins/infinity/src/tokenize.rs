//! `infinity tokenize` and `infinity detokenize`: text to token ids and back.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tokenizer::{DecodeOptions, EncodeOptions};

use crate::load;
use crate::logits::read_ids;

/// Turn a text into token ids.
#[derive(clap::Args)]
#[command(after_help = "Example: infinity tokenize model.gguf --file text.txt --json")]
pub(crate) struct Tokenize {
    /// A GGUF file, a Hugging Face folder, or ORG/NAME
    model: String,
    /// A file with the text, - for standard input (the default)
    #[arg(long, value_name = "TEXT", default_value = "-")]
    file: PathBuf,
    /// The text itself
    #[arg(long, conflicts_with = "file")]
    text: Option<String>,
    /// Add BOS and EOS as the vocabulary's rules say
    #[arg(long)]
    add_special: bool,
    /// Read control tokens such as <|im_start|> in the text as what they stand for
    #[arg(long)]
    parse_special: bool,
    /// Print a JSON list of the ids
    #[arg(long)]
    json: bool,
}

pub(crate) fn tokenize(args: &Tokenize) -> Result<()> {
    let tokenizer = load::tokenizer(&load::resolve(&args.model)?)?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None if args.file.to_str() == Some("-") => {
            std::io::read_to_string(std::io::stdin()).context("standard input")?
        }
        None => {
            let bytes =
                std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
            String::from_utf8(bytes)
                .with_context(|| format!("{}: the text is not UTF-8", args.file.display()))?
        }
    };
    let options =
        EncodeOptions { add_special: args.add_special, parse_special: args.parse_special };
    let ids = tokenizer.encode(&text, options)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&ids)?)?;
        return Ok(());
    }
    for id in ids {
        let piece =
            tokenizer.decode(&[id], DecodeOptions { skip_special: false, ..Default::default() })?;
        writeln!(out, "{id:>7} {piece:?}")?;
    }
    Ok(())
}

/// Turn token ids into text.
#[derive(clap::Args)]
#[command(after_help = "Example: infinity detokenize model.gguf --tokens ids.json")]
pub(crate) struct Detokenize {
    /// A GGUF file, a Hugging Face folder, or ORG/NAME
    model: String,
    /// A JSON file with a list of token ids, - for standard input (the default)
    #[arg(long, alias = "file", value_name = "IDS.json", default_value = "-")]
    tokens: PathBuf,
    /// Leave control tokens out of the text
    #[arg(long)]
    skip_special: bool,
    /// Print a JSON string
    #[arg(long)]
    json: bool,
}

pub(crate) fn detokenize(args: &Detokenize) -> Result<()> {
    let tokenizer = load::tokenizer(&load::resolve(&args.model)?)?;
    let options = DecodeOptions { skip_special: args.skip_special, ..Default::default() };
    let text = tokenizer.decode(&read_ids(&args.tokens)?, options)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&text)?)?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}

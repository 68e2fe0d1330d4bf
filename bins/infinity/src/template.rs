//! `infinity template MODEL_OR_JINJA --request FILE.json`: the prompt that a chat request becomes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use tokenizer::template::{self, ChatTemplate};

use crate::load;

/// Print the prompt that a chat request becomes.
#[derive(clap::Args)]
#[command(after_help = "Example: infinity template model.gguf --request request.json\n\
    The request holds `messages`, and if wanted `tools`, `add_generation_prompt` and any other\n\
    variable of the template. The prompt is printed as it is, without a newline at the end.")]
pub(crate) struct Args {
    /// A Jinja file, or a model that has a template
    #[arg(value_name = "MODEL_OR_JINJA")]
    source: String,
    /// A JSON file with the request, - for standard input
    #[arg(long, value_name = "FILE.json")]
    request: PathBuf,
    /// Print a JSON string
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let text = match args.request.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()).context("standard input")?,
        _ => std::fs::read_to_string(&args.request)
            .with_context(|| args.request.display().to_string())?,
    };
    let mut request: Value = serde_json::from_str(&text)
        .with_context(|| format!("{}: no JSON request", args.request.display()))?;
    let path = Path::new(&args.source);
    let template = if is_jinja(path) {
        let source = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        ChatTemplate::new(&source)?
    } else {
        let tokenizer = load::tokenizer(&load::resolve(&args.source)?)?;
        // What the request does not set, the vocabulary knows.
        if let Some(object) = request.as_object_mut() {
            for (key, token) in template::special_tokens(&tokenizer) {
                object.entry(key).or_insert(token);
            }
        }
        ChatTemplate::of(&tokenizer, &request)?.context("this model has no chat template")?
    };
    let prompt = template.render(&request)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&prompt)?)?;
    } else {
        out.write_all(prompt.as_bytes())?;
    }
    Ok(())
}

/// A file that is neither a model nor a tokenizer is taken as a template.
fn is_jinja(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    path.is_file() && !matches!(extension, Some("gguf" | "json" | "model"))
}

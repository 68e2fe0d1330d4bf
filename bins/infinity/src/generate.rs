//! `infinity generate MODEL --prompt TEXT`: text as it comes.

use std::io::{IsTerminal, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use sampling::Sampler;
use tokenizer::EncodeOptions;

use crate::load;
use crate::options::{Runtime, Sampling};
use crate::session::{Generated, Limits, Session};

/// Continue a text.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  infinity generate model.gguf --prompt \"The king\" --temperature 0\n  \
    infinity generate FOLDER --prompt-file story.txt --max-tokens 500 --seed 1\n\
    Ctrl-C ends the text cleanly."
)]
pub(crate) struct Args {
    /// A GGUF file, a Hugging Face folder, or ORG/NAME
    model: String,
    /// The text to continue (default: standard input)
    #[arg(short, long, conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// A file with the text to continue
    #[arg(short = 'f', long, value_name = "FILE")]
    prompt_file: Option<std::path::PathBuf>,
    /// How many tokens at most
    #[arg(short = 'n', long, alias = "n-predict", default_value_t = 256, value_name = "N")]
    max_tokens: usize,
    /// Positions to provide for (default: what the model was made for)
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,
    /// Read control tokens such as <|im_start|> in the prompt as what they stand for
    #[arg(long)]
    parse_special: bool,
    /// Add no BOS token
    #[arg(long)]
    no_bos: bool,
    /// Go on after an end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Print the prompt before its continuation
    #[arg(long)]
    echo: bool,
    /// Print one JSON object at the end in place of the text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    runtime: Runtime,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let prompt = prompt(args)?;
    let mut sampler = Sampler::new(args.sampling.params())?;
    let loaded = load::model(&args.model, &args.runtime.hardware)?;
    let tokenizer = load::tokenizer(&loaded.path)?;
    let options = EncodeOptions { add_special: !args.no_bos, parse_special: args.parse_special };
    let ids = tokenizer.encode(&prompt, options)?;
    let mut session = Session::new(&loaded.model, args.runtime.kv_type, args.context)?;
    let stop = interrupt()?;
    let limits = Limits {
        max_tokens: args.max_tokens,
        ignore_eos: args.ignore_eos,
        interrupted: &|| stop.load(Ordering::Relaxed),
    };
    let mut out = std::io::stdout().lock();
    if args.echo && !args.json {
        write!(out, "{prompt}")?;
    }
    let quiet = args.json;
    let mut print = |piece: &str| {
        if !quiet {
            out.write_all(piece.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    };
    let done = session.generate(&tokenizer, &ids, &mut sampler, &limits, &mut print)?;
    if args.json {
        writeln!(out, "{}", report(&done, &ids, &sampler, loaded.took.as_secs_f64()))?;
    } else {
        writeln!(out)?;
        if std::io::stderr().is_terminal() {
            eprintln!("{}", summary(&done, sampler.seed()));
        }
    }
    args.runtime.hardware.tell(loaded.model.compute().profile())
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program.
pub(crate) fn interrupt() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })
    .context("Ctrl-C cannot be watched")?;
    Ok(flag)
}

pub(crate) fn summary(done: &Generated, seed: u64) -> String {
    format!(
        "[{} prompt tokens at {:.1}/s, {} tokens at {:.1}/s, seed {seed}, {:?}]",
        done.prompt_tokens,
        done.prefill_rate(),
        done.ids.len(),
        done.decode_rate(),
        done.finish
    )
}

fn report(done: &Generated, prompt: &[u32], sampler: &Sampler, load: f64) -> serde_json::Value {
    serde_json::json!({
        "text": done.text,
        "ids": done.ids,
        "prompt_ids": prompt,
        "finish_reason": done.finish,
        "seed": sampler.seed(),
        "load_seconds": load,
        "prefill_tokens_per_second": done.prefill_rate(),
        "decode_tokens_per_second": done.decode_rate(),
    })
}

fn prompt(args: &Args) -> Result<String> {
    match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) => {
            std::fs::read_to_string(path).with_context(|| path.display().to_string())
        }
        (None, None) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            Ok(text)
        }
    }
}

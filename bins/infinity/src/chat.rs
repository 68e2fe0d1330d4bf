//! `infinity chat MODEL`: a conversation in the model's own template.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use sampling::Sampler;
use serde_json::{Value, json};
use tokenizer::template::ChatTemplate;

use crate::generate::{interrupt, summary};
use crate::load;
use crate::options::{Runtime, Sampling};
use crate::session::{Finish, Limits, Session};

/// Talk with a model that has a chat template.
#[derive(clap::Args)]
#[command(after_help = "Example: infinity chat model.gguf --system \"You are terse.\"\n\
    One line is one message; /reset begins anew, /exit or end of input leaves, Ctrl-C ends an answer.")]
pub(crate) struct Args {
    /// A GGUF file, a Hugging Face folder, or ORG/NAME
    model: String,
    /// What the model is told before the first message
    #[arg(long)]
    system: Option<String>,
    /// How many tokens an answer has at most
    #[arg(short = 'n', long, default_value_t = 1024, value_name = "N")]
    max_tokens: usize,
    /// Positions to provide for (default: what the model was made for)
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,
    /// A Jinja file in place of the model's own template
    #[arg(long, value_name = "FILE")]
    chat_template: Option<std::path::PathBuf>,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    runtime: Runtime,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let loaded = load::model(&args.model, &args.runtime.hardware)?;
    let tokenizer = load::tokenizer(&loaded.path)?;
    let template = match &args.chat_template {
        Some(path) => {
            let source =
                std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            ChatTemplate::new(&source)?
        }
        None => ChatTemplate::of(&tokenizer, &Value::Null)?.context(
            "this model has no chat template; use `infinity generate`, or name one with --chat-template",
        )?,
    };
    let mut sampler = Sampler::new(args.sampling.params())?;
    let stop = interrupt()?;
    let terminal = std::io::stdin().is_terminal();
    let mut out = std::io::stdout().lock();
    let begin = || -> Vec<Value> {
        args.system.iter().map(|s| json!({ "role": "system", "content": s })).collect()
    };
    let mut messages = begin();
    // What the model has seen: a further turn feeds only what is new.
    let mut session = Session::new(&loaded.model, args.runtime.kv_type, args.context)?;
    let mut seen: Vec<u32> = Vec::new();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if terminal {
            write!(out, "> ")?;
            out.flush()?;
        }
        let Some(line) = lines.next() else { break };
        let line = line.context("standard input")?;
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => break,
            "/reset" => {
                messages = begin();
                continue;
            }
            text => messages.push(json!({ "role": "user", "content": text })),
        }
        stop.store(false, Ordering::SeqCst);
        let request = json!({ "messages": messages, "add_generation_prompt": true });
        let ids = template.render_and_encode(&request, &tokenizer)?;
        let common = seen.iter().zip(&ids).take_while(|(a, b)| a == b).count().min(ids.len() - 1);
        session.truncate(common)?;
        let limits = Limits {
            max_tokens: args.max_tokens,
            ignore_eos: false,
            interrupted: &|| stop.load(Ordering::Relaxed),
        };
        let mut print = |piece: &str| {
            out.write_all(piece.as_bytes())?;
            Ok(out.flush()?)
        };
        let done =
            session.generate(&tokenizer, &ids[common..], &mut sampler, &limits, &mut print)?;
        writeln!(out)?;
        if terminal {
            eprintln!("{}", summary(&done, sampler.seed()));
        }
        if done.finish == Finish::Context {
            eprintln!("the context is full; /reset begins anew");
        }
        seen = ids;
        seen.extend(&done.ids);
        seen.truncate(session.len());
        messages.push(json!({ "role": "assistant", "content": done.text }));
    }
    args.runtime.hardware.tell(loaded.model.compute().profile())
}

//! `infinity pull ORG/NAME`: a model from the Hugging Face hub into the cache that other tools use.
//!
//! `HF_ENDPOINT` names another hub, `HF_HOME` another cache, `HF_TOKEN` grants access to gated
//! models. A download that was interrupted goes on where it stopped.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Download a model from the Hugging Face hub.
#[derive(clap::Args)]
#[command(after_help = "Example: infinity pull HuggingFaceTB/SmolLM2-135M-Instruct\n\
    A repository of GGUF files: infinity pull ORG/NAME --include Q4_K_M")]
pub(crate) struct Args {
    /// The model, as ORG/NAME
    model: String,
    /// Branch, tag or commit
    #[arg(long, default_value = "main")]
    revision: String,
    /// Only weight files whose names contain this (repeatable); needed where a repository holds
    /// several GGUF files
    #[arg(long, value_name = "TEXT")]
    include: Vec<String>,
    /// Print the folder and the files as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !is_model_name(&args.model) {
        bail!("'{}' is no model name: expected ORG/NAME", args.model);
    }
    let repo = Repo::with_revision(args.model.clone(), RepoType::Model, args.revision.clone());
    let api = api()?.repo(repo);
    let info = api.info().map_err(|e| explain(&e, &args.model))?;
    let names: Vec<&str> = info.siblings.iter().map(|s| s.rfilename.as_str()).collect();
    let wanted = wanted(&names, &args.include)?;
    let mut folder = None;
    let mut paths = Vec::new();
    for (i, name) in wanted.iter().enumerate() {
        let bar = Bar::new(i + 1, wanted.len());
        let path = api
            .download_with_progress(name, bar)
            .map_err(|e| explain(&e, &args.model))
            .with_context(|| format!("{name}; what has arrived is kept, run the command again"))?;
        if folder.is_none() {
            let depth = Path::new(name).components().count();
            folder = path.ancestors().nth(depth).map(Path::to_owned);
        }
        paths.push(path);
    }
    let folder = folder.context("the repository has no files to download")?;
    if args.json {
        println!("{}", serde_json::json!({ "folder": folder, "files": paths }));
    } else {
        println!("{}", folder.display());
    }
    Ok(())
}

/// The file or folder in the cache that `ORG/NAME` stands for, if it was pulled.
pub(crate) fn cached(name: &str) -> Option<PathBuf> {
    if !is_model_name(name) || !has_cache_folder() {
        return None;
    }
    let repo = Cache::from_env().model(name.to_owned());
    if let Some(config) = repo.get("config.json") {
        return config.parent().map(Path::to_owned);
    }
    // A repository of GGUF files: the one that was pulled.
    let refs = Cache::from_env().path().join(format!("models--{}", name.replace('/', "--")));
    let commit = std::fs::read_to_string(refs.join("refs").join("main")).ok()?;
    let entries = std::fs::read_dir(repo.pointer_path(commit.trim())).ok()?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "gguf"))
        .collect();
    found.sort();
    found.into_iter().next()
}

/// Whether `name` has the form ORG/NAME.
pub(crate) fn is_model_name(name: &str) -> bool {
    let part = |p: &str| {
        let ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !p.is_empty() && !p.starts_with('.') && p.chars().all(ok)
    };
    name.split_once('/').is_some_and(|(org, model)| part(org) && part(model))
}

fn has_cache_folder() -> bool {
    std::env::var_os("HF_HOME").is_some() || std::env::home_dir().is_some()
}

fn api() -> Result<Api> {
    if !has_cache_folder() {
        bail!("there is no home folder to cache models in; set HF_HOME to a folder");
    }
    let mut builder = ApiBuilder::from_env().with_retries(3);
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    builder.build().context("the hub's client does not start")
}

/// The hub's answer as one line that says what to do.
fn explain(e: &ApiError, model: &str) -> anyhow::Error {
    let text = e.to_string();
    let hint = if text.contains("404") {
        "no such model or revision; check the name"
    } else if text.contains("401") || text.contains("403") {
        "not allowed; accept the model's terms on the hub and set HF_TOKEN"
    } else if text.contains("lock") {
        "another download of the same file is under way"
    } else {
        "is the hub reachable? HF_ENDPOINT names another"
    };
    anyhow::anyhow!("{model}: {} ({hint})", text.replace('\n', " "))
}

/// Which files make the model: configuration, tokenizer, and one kind of weights.
fn wanted<'a>(names: &[&'a str], include: &[String]) -> Result<Vec<&'a str>> {
    let safe = |n: &&&str| Path::new(**n).components().all(|c| matches!(c, Component::Normal(_)));
    let names: Vec<&str> = names.iter().filter(safe).copied().collect();
    let top = |n: &str| !n.contains('/');
    let chosen = |n: &str| include.is_empty() || include.iter().any(|i| n.contains(i.as_str()));
    let with = |suffix: &str| -> Vec<&'a str> {
        names.iter().copied().filter(|n| n.ends_with(suffix) && chosen(n)).collect()
    };
    let (safetensors, gguf) = (with(".safetensors"), with(".gguf"));
    let weights = match (safetensors.is_empty(), gguf.len()) {
        (false, _) => safetensors.into_iter().filter(|n| top(n)).collect(),
        (true, 0) => bail!("the repository has no safetensors and no GGUF weights that match"),
        (true, n) if n > 1 && !is_split(&gguf) => {
            bail!("choose one of {n} GGUF files with --include TEXT: {}", gguf.join(", "))
        }
        _ => gguf,
    };
    let small = [".json", ".model", ".txt", ".jinja"];
    let mut files: Vec<&str> =
        names.into_iter().filter(|n| top(n) && small.iter().any(|s| n.ends_with(s))).collect();
    files.extend(weights);
    Ok(files)
}

/// Whether the names are the parts of one split file.
fn is_split(names: &[&str]) -> bool {
    let stem = |n: &&str| {
        n.rsplit_once("-of-").and_then(|(s, _)| s.rsplit_once('-')).map(|p| p.0.to_owned())
    };
    let first = names.first().and_then(stem);
    first.is_some() && names.iter().all(|n| stem(n) == first)
}

/// One file's progress on standard error.
struct Bar {
    bar: ProgressBar,
    prefix: String,
}

impl Bar {
    fn new(number: usize, of: usize) -> Self {
        let style = "{prefix} {msg:30!} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template(style).expect("the template is a constant"));
        Self { bar, prefix: format!("{number}/{of}") }
    }
}

impl Progress for Bar {
    fn init(&mut self, size: usize, filename: &str) {
        self.bar.reset();
        self.bar.set_length(size as u64);
        self.bar.set_prefix(self.prefix.clone());
        self.bar.set_message(filename.to_owned());
    }
    fn update(&mut self, size: usize) {
        self.bar.inc(size as u64);
    }
    fn finish(&mut self) {
        self.bar.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_two_plain_parts() {
        assert!(is_model_name("org/name-1.5_x"));
        for bad in ["name", "a/b/c", "../x", "a/..", "/a", "a/", "a/b c", "./model"] {
            assert!(!is_model_name(bad), "{bad}");
        }
    }

    #[test]
    fn one_kind_of_weights_is_chosen() {
        let names = [
            "README.md",
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "original/model.safetensors",
            "tokenizer.json",
            "../evil.json",
        ];
        assert_eq!(
            wanted(&names, &[]).unwrap(),
            ["config.json", "tokenizer.json", "model.safetensors"]
        );
        let gguf = ["a-Q4_K_M.gguf", "a-Q8_0.gguf"];
        assert!(wanted(&gguf, &[]).unwrap_err().to_string().contains("--include"));
        assert_eq!(wanted(&gguf, &["Q8_0".into()]).unwrap(), ["a-Q8_0.gguf"]);
        let split = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"];
        assert_eq!(wanted(&split, &[]).unwrap(), split);
        assert!(wanted(&["README.md"], &[]).is_err());
    }
}

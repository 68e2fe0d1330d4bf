//! Options that several commands share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use model::Repack;
use sampling::{PenaltyWindow, SamplingParams};
use tensor::{Activations, Compute, DType, Device, Profile};

use crate::{cache, flame};

/// What a model runs on.
#[derive(clap::Args, Clone)]
pub(crate) struct Hardware {
    /// Threads (default: INFINITY_THREADS, or one a core that may be used)
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// What activations are rounded to when they meet weights: int8 (as llama.cpp: int8 where weights
    /// are quantized, bf16 where they are bf16), bf16 (the same, and f16 weights become bf16 too), or
    /// f32 (nothing is rounded; slower)
    #[arg(long, default_value = "int8", value_name = "TYPE")]
    activations: Activations,
    /// The same as --activations f32
    #[arg(long, conflicts_with = "activations")]
    exact: bool,
    /// Repack quantized weights, and bf16 ones where the processor has AMX, into memory of their own for
    /// faster products: auto (while there is memory), always, or never (they stay in the mapped file)
    #[arg(long, default_value = "auto", value_name = "WHEN")]
    repack: Repack,
    /// Keep repacked weights of a GGUF file in a file of the same size in DIR, and map it at the next
    /// start (default DIR: see infinity cache)
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    repack_cache: Option<Option<PathBuf>>,
    /// Read all weights into memory before anything else, and show how far it is
    #[arg(long)]
    warm_up: bool,
    /// Show at the end where the time went, by operation (on a GPU by kernel, too), or write it to FILE: .svg as a flame
    /// graph, else for a trace viewer (chrome://tracing, Perfetto). Where several models are served,
    /// each has a file of its own: FILE.NAME.json
    #[arg(long, value_name = "FILE.json|FILE.svg", num_args = 0..=1, require_equals = true)]
    profile: Option<Option<PathBuf>>,
}

impl Hardware {
    pub(crate) fn compute(&self) -> Result<Compute> {
        let activations = if self.exact { Activations::F32 } else { self.activations };
        let mut compute = Compute::on(self.device)?.with_activations(activations);
        if let Some(n) = self.threads {
            if n == 0 {
                bail!("--threads 0: at least one thread is needed");
            }
            compute = compute.with_threads(n);
        }
        if self.profile.is_some() {
            compute = compute.with_profile(Profile::on());
        }
        Ok(compute)
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// The same, with a model that is mapped and no more.
    pub(crate) fn mapped(&self) -> Self {
        Self { repack: Repack::Never, repack_cache: None, warm_up: false, ..self.clone() }
    }

    /// How a model is loaded.
    pub(crate) fn loading(&self) -> Result<Loading> {
        let cache = match &self.repack_cache {
            Some(_) if self.repack == Repack::Never => {
                bail!("--repack never leaves nothing to keep; leave out --repack-cache")
            }
            Some(Some(folder)) => Some(folder.clone()),
            Some(None) => Some(cache::folder()?),
            None => None,
        };
        Ok(Loading { repack: self.repack, cache, warm_up: self.warm_up })
    }

    /// Shows or writes what `--profile` asked for.
    pub(crate) fn tell(&self, profile: &Profile) -> Result<()> {
        match &self.profile {
            None => {}
            Some(None) => eprint!("{}", profile.table()),
            Some(Some(path)) => write(profile, path)?,
        }
        self.tell_device()
    }

    /// Shows where a GPU's time went.
    fn tell_device(&self) -> Result<()> {
        if self.profile.is_some()
            && let Some(profile) = self.device.stop_profile()?
        {
            eprint!("\n{}, by kernel:\n{profile}", self.device);
        }
        Ok(())
    }

    /// The same for several models, each by its name; without those that nobody asked for anything.
    pub(crate) fn tell_each(&self, profiles: &[(String, Profile)]) -> Result<()> {
        let mut written = Vec::new();
        let ran = |profile: &Profile| !profile.table().lines.is_empty();
        for (name, profile) in profiles.iter().filter(|(_, profile)| ran(profile)) {
            match &self.profile {
                None => {}
                Some(None) => eprint!("{name}:\n{}", profile.table()),
                Some(Some(path)) => {
                    let mut nth = 1;
                    while written.contains(&path_of(path, name, nth)) {
                        nth += 1;
                    }
                    let own = path_of(path, name, nth);
                    write(profile, &own)?;
                    written.push(own);
                }
            }
        }
        self.tell_device()
    }
}

fn write(profile: &Profile, path: &Path) -> Result<()> {
    let written = match path.extension() {
        Some(svg) if svg == "svg" => match flame::svg(&profile.table()) {
            Some(svg) => svg,
            None => bail!("nothing ran that a profile could show"),
        },
        _ => profile.chrome_trace(),
    };
    files::write_atomically(path, written.as_bytes()).with_context(|| path.display().to_string())
}

/// The file of a model beside those of others: `trace.NAME.json`, and `trace.NAME.2.json` for one that
/// was loaded again.
fn path_of(path: &Path, model: &str, nth: usize) -> PathBuf {
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(model.chars().map(plain).collect::<String>());
    if nth > 1 {
        name.push(format!(".{nth}"));
    }
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// How a model is loaded, as the command line says it.
pub(crate) struct Loading {
    pub(crate) repack: Repack,
    /// Where repacked weights are kept.
    pub(crate) cache: Option<PathBuf>,
    pub(crate) warm_up: bool,
}

/// How a model that generates is run.
#[derive(clap::Args, Clone)]
pub(crate) struct Runtime {
    #[command(flatten)]
    pub(crate) hardware: Hardware,
    /// How keys and values are stored: f16, bf16, f32, q8_0 or q4_0
    #[arg(long, default_value = "f16", value_name = "TYPE")]
    pub(crate) kv_type: DType,
}

/// How a token is chosen.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct Sampling {
    /// 0 takes the most probable token each time
    #[arg(long, alias = "temp", default_value_t = 0.8, value_name = "T")]
    temperature: f32,
    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, default_value_t = 40, value_name = "K")]
    top_k: usize,
    /// Keep the most probable tokens that sum to P
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    top_p: f32,
    /// Keep tokens at least P times as probable as the most probable one
    #[arg(long, default_value_t = 0.05, value_name = "P")]
    min_p: f32,
    /// Keep the most typical tokens that sum to P
    #[arg(long, alias = "typical", default_value_t = 1.0, value_name = "P")]
    typical_p: f32,
    /// Over 1: tokens already seen become less probable
    #[arg(long, alias = "repeat-penalty", default_value_t = 1.0, value_name = "R")]
    repetition_penalty: f32,
    /// How many of the last tokens the repetition penalty sees (default: all)
    #[arg(long, value_name = "N")]
    repeat_last_n: Option<usize>,
    /// Taken from the logit of tokens already generated
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true, value_name = "X")]
    presence_penalty: f32,
    /// Taken from a token's logit each time it was generated
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true, value_name = "X")]
    frequency_penalty: f32,
    /// Added to the logit of a token id (repeatable): ID=BIAS
    #[arg(long, value_name = "ID=BIAS", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same text
    #[arg(long, short)]
    seed: Option<u64>,
}

impl Sampling {
    pub(crate) fn params(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty,
            penalty_window: self.repeat_last_n.map_or(PenaltyWindow::All, PenaltyWindow::Last),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
        }
    }
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, b)| Some((id.parse().ok()?, b.parse().ok()?)));
    parsed.ok_or_else(|| format!("'{text}': expected ID=BIAS, for example 42=-5"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_has_a_file_of_its_own() {
        let of = |path: &str, model, nth| path_of(Path::new(path), model, nth);
        assert_eq!(of("a/trace.json", "chat", 1), Path::new("a/trace.chat.json"));
        assert_eq!(of("a/trace.json", "chat", 2), Path::new("a/trace.chat.2.json"));
        assert_eq!(of("flame.svg", "Org/Name-1.5", 1), Path::new("flame.Org-Name-1.5.svg"));
        assert_eq!(of("trace", "../../x", 1), Path::new("trace...-..-x"));
    }
}

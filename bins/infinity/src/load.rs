//! MODEL as users name it, to a model and its tokenizer.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::{LoadOptions, LoadProgress, LoadStage, Model};
use tokenizer::Tokenizer;

use crate::options::{Hardware, Loading};
use crate::pull;

/// The file or folder that a user's MODEL names.
pub(crate) fn resolve(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    if pull::is_model_name(name) {
        return pull::cached(name).with_context(|| {
            format!(
                "there is no file '{name}', and no such model was pulled; run: infinity pull {name}"
            )
        });
    }
    bail!("there is no file or folder '{name}'")
}

/// A model ready to run.
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) model: Model,
    pub(crate) took: Duration,
}

pub(crate) fn model(name: &str, hardware: &Hardware) -> Result<Loaded> {
    let path = resolve(name)?;
    let start = Instant::now();
    let Loading { repack, cache, warm_up } = hardware.loading()?;
    let mut shown = Shown::new();
    let progress = &mut |p: LoadProgress| shown.update(p);
    let cache = cache.as_deref();
    let options = LoadOptions { repack, cache, warm_up, progress: Some(progress) };
    let model = Model::open_with(&path, hardware.compute()?, options)
        .with_context(|| path.display().to_string())?;
    shown.finish();
    Ok(Loaded { path, model, took: start.elapsed() })
}

/// A bar on standard error for loading that takes long, and a line for a warm-up, which was asked for.
struct Shown {
    stage: Option<LoadStage>,
    /// When the stage began, and when it was heard of last.
    began: Instant,
    last: Instant,
    warmed_up: Option<(u64, Duration)>,
    bar: Option<ProgressBar>,
}

impl Shown {
    /// What is over sooner needs no bar.
    const PATIENCE: Duration = Duration::from_millis(500);

    fn new() -> Self {
        let now = Instant::now();
        Self { stage: None, began: now, last: now, warmed_up: None, bar: None }
    }

    fn update(&mut self, p: LoadProgress) {
        if self.stage.replace(p.stage) != Some(p.stage) {
            self.finish_bar();
            self.began = self.last;
        }
        self.last = Instant::now();
        let took = self.last - self.began;
        if p.stage == LoadStage::WarmUp {
            self.warmed_up = Some((p.done, took));
        }
        if took >= Self::PATIENCE {
            let bar = self.bar.get_or_insert_with(|| {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                let style = "{msg:12} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                bar.set_style(
                    ProgressStyle::with_template(style).expect("the template is a constant"),
                );
                bar
            });
            bar.set_message(match p.stage {
                LoadStage::Repack => "repacking",
                LoadStage::WarmUp => "warming up",
            });
            bar.set_length(p.total);
            bar.set_position(p.done);
        }
    }

    fn finish_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn finish(mut self) {
        self.finish_bar();
        if let Some((bytes, took)) = self.warmed_up {
            let (mb, s) = (bytes as f64 / 1e6, took.as_secs_f64());
            eprintln!("[warmed up {mb:.0} MB in {s:.2} s, {:.1} GB/s]", mb / 1e3 / s.max(1e-9));
        }
    }
}

pub(crate) fn tokenizer(path: &Path) -> Result<Tokenizer> {
    Tokenizer::from_path(path).with_context(|| path.display().to_string())
}

//! `infinity serve MODEL`: the OpenAI API.

mod memory;
mod traces;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use engine::{Engine, EngineConfig, ModelSpec, Models};
use files::units::{gigabytes, parse_bytes};
use paged_kv::{EvictionPolicy, KvCacheConfig};
use scheduler::Preemption;
use serve::http::{self, ApiKey, HttpConfig, Rate, TlsFiles};
use serve::metrics::{self, EngineMetrics};
use tensor::Profile;

use crate::load;
use crate::options::Runtime;
use memory::KvSizes;
use traces::Traces;

/// Serve models to many users at once, as OpenAI's API.
#[derive(clap::Args, Clone)]
#[command(after_help = "Examples:\n  infinity serve model.gguf\n  \
    infinity serve --model chat=chat-q4.gguf --model embed=minilm/ --memory 12GB\n  \
    infinity serve model.gguf --host 0.0.0.0 --api-key alice=SECRET --tls-cert c.pem --tls-key k.pem\n\n\
    Then, for example:\n  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\\n    \
    -d '{\"model\": \"model\", \"prompt\": \"Once upon a time\", \"max_tokens\": 32}'\n\
    and http://127.0.0.1:8000/ in a browser. Ctrl-C or SIGTERM lets the requests that run end first.")]
pub(crate) struct Args {
    /// A GGUF file, a Hugging Face folder, or ORG/NAME
    #[arg(required_unless_present = "models", conflicts_with = "models")]
    model: Option<String>,
    /// A model and the name that requests use (repeatable); loaded when it is asked for, unloaded when
    /// others need its place
    #[arg(long = "model", value_name = "NAME=MODEL")]
    models: Vec<Named>,
    /// The name that requests use for MODEL (default: that of its file or folder)
    #[arg(long, conflicts_with = "models")]
    name: Option<String>,
    /// Memory for all models that are loaded at once (default: nine tenths of what is there)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    traces: Traces,
    #[command(flatten)]
    batching: Batching,
    #[command(flatten)]
    runtime: Runtime,
}

#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Network")]
struct Network {
    /// Where to listen; 0.0.0.0 is everywhere
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// 0 takes any that is free
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Who may ask, and as whom (repeatable): KEY, or TENANT=KEY
    #[arg(long, value_name = "KEY", env = "INFINITY_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// A file with such a key a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The certificate chain, in PEM: speak TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// An origin whose pages may ask (repeatable; * for all)
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Requests a second of a key, or of an address where no key is needed
    #[arg(long, value_name = "N")]
    rate_limit: Option<f64>,
    /// A Jinja chat template in place of the models' own
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Bytes of a request
    #[arg(long, default_value = "8MiB", value_name = "SIZE", value_parser = parse_bytes)]
    max_body: u64,
    /// Seconds that requests may go on when the server is told to end
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    drain_timeout: Duration,
}

#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Batching and cache")]
struct Batching {
    /// The most tokens of prompt and answer (default: what the model was made for, if it fits)
    #[arg(short, long, alias = "context", value_name = "N")]
    max_model_len: Option<usize>,
    /// Memory for keys and values of a model (default: for --max-sequences of 4096 tokens each, at most
    /// a third of the memory there is)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    kv_memory: Option<u64>,
    /// More of it, to which sequences move when others need their blocks (default: none; they are
    /// computed again)
    #[arg(long, default_value = "0", value_name = "SIZE", value_parser = parse_bytes)]
    swap_memory: u64,
    /// Positions of a block
    #[arg(long, default_value_t = 16, value_name = "N")]
    block_size: usize,
    /// Do not keep keys and values of requests that are over, for others with the same beginning
    #[arg(long)]
    no_prefix_cache: bool,
    /// Sequences that run at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_sequences: usize,
    /// Rows of a step
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_batch_tokens: usize,
    /// Requests that wait at most; further ones are refused at once
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_waiting: usize,
    /// A request is refused at once if it would have to wait longer than so many seconds
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    max_queue_delay: Duration,
    /// A request that has waited so many seconds is given up
    #[arg(long, default_value = "120", value_name = "SECONDS", value_parser = seconds)]
    queue_timeout: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse().ok().and_then(|s: f64| Duration::try_from_secs_f64(s).ok());
    parsed.ok_or_else(|| format!("'{text}': expected seconds, for example 2.5"))
}

/// `NAME=MODEL`.
#[derive(Clone)]
struct Named {
    name: String,
    model: String,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, model)) if !name.is_empty() && !model.is_empty() => {
                Ok(Self { name: name.to_owned(), model: model.to_owned() })
            }
            _ => Err(format!("'{text}': expected NAME=MODEL, for example chat=model.gguf")),
        }
    }
}

/// The name of a file or folder as that of its model.
fn usual_name(model: &str) -> String {
    let path = Path::new(model);
    if !path.exists() {
        return model.to_owned(); // ORG/NAME
    }
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if full.is_dir() { full.file_name() } else { full.file_stem() };
    name.map_or_else(|| model.to_owned(), |n| n.to_string_lossy().into_owned())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let http = args.network.config()?;
    let kv = args.batching.kv_sizes(&args.runtime);
    let given = match &args.model {
        Some(model) => {
            let name = args.name.clone().unwrap_or_else(|| usual_name(model));
            vec![Named { name, model: model.clone() }]
        }
        None => args.models.clone(),
    };
    let available = args.runtime.hardware.device().available_memory();
    let budget = args.memory.or(available.map(|all| all / 10 * 9)).unwrap_or(u64::MAX);
    let mut specs = Vec::new();
    for Named { name, model } in given {
        let path = load::resolve(&model)?;
        let (config, _) =
            model::weights::open(&path).with_context(|| path.display().to_string())?;
        let bytes = memory::weight_bytes(&path)?.saturating_add(kv.plan(&config, available)?.bytes);
        specs.push(ModelSpec { name, path, bytes });
    }
    let preload = fitting(&specs, budget);
    let http = HttpConfig { preload, tracer: args.traces.tracer()?, ..http };
    let _ = metrics::install();
    let several = specs.len() > 1;
    let profiles = Arc::new(Mutex::new(Vec::new()));
    let loader = {
        let (args, profiles) = (args.clone(), Arc::clone(&profiles));
        Arc::new(move |spec: &ModelSpec| {
            let (engine, profile) = engine_of(&args, kv, spec)?;
            let named = (spec.name.clone(), profile);
            profiles.lock().unwrap_or_else(PoisonError::into_inner).push(named);
            Ok(engine)
        })
    };
    let models = Arc::new(Models::new(specs, budget, loader)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the server's threads")?;
    let scheme = if http.tls.is_some() { "https" } else { "http" };
    let served: Result<()> = runtime.block_on(async {
        let end = http::termination()?;
        let told = |address: SocketAddr| eprintln!("listening on {scheme}://{address}");
        Ok(http::serve(http, models, told, end).await?)
    });
    let profiles = profiles.lock().unwrap_or_else(PoisonError::into_inner);
    match &profiles[..] {
        [(_, profile)] if !several => args.runtime.hardware.tell(profile)?,
        each => args.runtime.hardware.tell_each(each)?,
    }
    served
}

/// The models, in their order, that fit into the budget together.
fn fitting(specs: &[ModelSpec], budget: u64) -> Vec<String> {
    let mut left = budget;
    let fits = specs.iter().take_while(|spec| {
        let fits = spec.bytes <= left;
        left = left.saturating_sub(spec.bytes);
        fits
    });
    fits.map(|spec| spec.name.clone()).collect()
}

/// The engine of a model, and where its time is noted down.
fn engine_of(args: &Args, kv: KvSizes, spec: &ModelSpec) -> Result<(Engine, Profile)> {
    let path = spec.path.to_str().context("a path that is not UTF-8")?;
    let available = args.runtime.hardware.device().available_memory();
    let loaded = load::model(path, &args.runtime.hardware)?;
    let tokenizer = Arc::new(load::tokenizer(&loaded.path)?);
    let plan = kv.plan(loaded.model.config(), available)?;
    let config = args.batching.engine(args.runtime.kv_type, plan);
    let profile = loaded.model.compute().profile().clone();
    let observer = Arc::new(EngineMetrics::new(&spec.name));
    let engine = Engine::start_observed(&*spec.name, loaded.model, tokenizer, config, observer)?;
    eprintln!(
        "{}: {} loaded in {:.1} s, {} tokens of context, {} blocks of {} positions ({})",
        spec.name,
        engine.info().architecture,
        loaded.took.as_secs_f64(),
        engine.info().context_length,
        plan.blocks,
        kv.block_size,
        gigabytes(plan.bytes)
    );
    Ok((engine, profile))
}

impl Network {
    fn config(&self) -> Result<HttpConfig> {
        let address = format!("{}:{}", self.host, self.port);
        let address = address
            .to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next())
            .with_context(|| format!("--host {}: no address of this machine", self.host))?;
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                Some(TlsFiles { certificate: cert.clone(), key: key.clone() })
            }
            _ => None,
        };
        let chat_template = self
            .chat_template
            .as_ref()
            .map(|path| std::fs::read_to_string(path).with_context(|| path.display().to_string()));
        let rate = match self.rate_limit {
            Some(n) if !(n > 0.0 && n.is_finite()) => bail!("--rate-limit {n}: must be above 0"),
            Some(n) => Some(Rate { per_second: n, burst: (2.0 * n).max(1.0) }),
            None => None,
        };
        Ok(HttpConfig {
            address,
            tls,
            api_keys: self.keys()?,
            rate,
            cors_origins: self.cors.clone(),
            chat_template: chat_template.transpose()?,
            max_body: usize::try_from(self.max_body).unwrap_or(usize::MAX),
            drain_timeout: self.drain_timeout,
            ..HttpConfig::default()
        })
    }

    fn keys(&self) -> Result<Vec<ApiKey>> {
        let mut given = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            given.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned));
        }
        let mut keys = Vec::new();
        for (i, text) in given.iter().enumerate() {
            let (tenant, key) = match text.split_once('=') {
                Some((tenant, key)) => (tenant.to_owned(), key.to_owned()),
                None => (format!("key-{}", i + 1), text.clone()),
            };
            if key.is_empty() {
                bail!("an API key is empty; give KEY or TENANT=KEY");
            }
            keys.push(ApiKey { tenant, key });
        }
        Ok(keys)
    }
}

impl Batching {
    fn kv_sizes(&self, runtime: &Runtime) -> KvSizes {
        KvSizes {
            bytes: self.kv_memory,
            swap: self.swap_memory,
            block_size: self.block_size,
            dtype: runtime.kv_type,
            max_model_len: self.max_model_len,
            max_sequences: self.max_sequences,
        }
    }

    fn engine(&self, kv_type: tensor::DType, plan: memory::KvPlan) -> EngineConfig {
        let eviction = match self.no_prefix_cache {
            true => EvictionPolicy::None,
            false => EvictionPolicy::default(),
        };
        EngineConfig {
            kv: KvCacheConfig {
                block_size: self.block_size,
                blocks: plan.blocks,
                host_blocks: plan.host_blocks,
                eviction,
            },
            kv_type,
            max_model_len: self.max_model_len,
            max_sequences: self.max_sequences.max(1),
            max_batch_tokens: self.max_batch_tokens.max(1),
            max_waiting: self.max_waiting,
            max_queue_delay: self.max_queue_delay,
            queue_timeout: self.queue_timeout,
            preemption: match self.swap_memory {
                0 => Preemption::Recompute,
                _ => Preemption::Swap,
            },
            ..EngineConfig::default()
        }
    }
}

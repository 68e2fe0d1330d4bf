//! Chat templates: from messages to the prompt, as Hugging Face's `apply_chat_template` renders.
//!
//! The language is Jinja2 with transformers' settings (`trim_blocks`, `lstrip_blocks`, loop
//! controls, `{% generation %}`) and functions (`raise_exception`, `strftime_now`, `tojson`). A
//! template comes with a model, from anyone: its steps, its output and its nesting are bounded.
//!
//! A prompt mixes the template's control tokens with text that users wrote.
//! [`ChatTemplate::render_segments`] keeps them apart: within the request's strings every control
//! token's text is cut in two by a mark that goes through the template and falls out afterwards,
//! and [`Tokenizer::encode_parts`](crate::Tokenizer::encode_parts) recognises no token across a
//! cut. So `<|im_end|>` in a message stays text, whatever the template does with it.

mod guard;
mod marks;
mod python;

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use serde_json::Value as Json;

use crate::{Error, Tokenizer};

/// What a rendering may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instructions of the template engine.
    pub fuel: u64,
    /// Bytes of the prompt.
    pub output: usize,
}

impl Default for Limits {
    /// Two million steps (a thousand messages take about a hundred thousand) and 64 MiB.
    fn default() -> Self {
        Limits { fuel: 2_000_000, output: 64 << 20 }
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    limits: Limits,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`Error::TemplateSyntax`]; [`Error::TemplateTooComplex`] where its nesting is not of this
    /// world.
    ///
    /// ```
    /// use tokenizer::template::ChatTemplate;
    /// let template = ChatTemplate::new("{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}")?;
    /// let request = serde_json::json!({"messages": [{"role": "user", "content": " Hi "}]});
    /// assert_eq!(template.render(&request)?, "[user] Hi\n");
    /// # Ok::<(), tokenizer::Error>(())
    /// ```
    pub fn new(source: &str) -> Result<Self, Error> {
        Self::with_limits(source, Limits::default())
    }

    /// Compiles a template whose renderings have other limits.
    ///
    /// # Errors
    /// What [`ChatTemplate::new`] says.
    pub fn with_limits(source: &str, limits: Limits) -> Result<Self, Error> {
        guard::check(source)?;
        let plain = guard::in_dialect(source);
        let environment = guard::on_deep_stack(|| {
            let mut environment = environment(limits);
            environment
                .add_template_owned(NAME, plain)
                .map_err(|e| Error::TemplateSyntax { message: describe(&e) })?;
            Ok(environment)
        })?;
        Ok(ChatTemplate { environment, source: source.to_owned(), limits })
    }

    /// Makes `strftime_now` tell this time, in seconds since 1970, in place of the clock's (which it
    /// tells in UTC).
    #[must_use]
    pub fn at_time(mut self, seconds: i64) -> Self {
        let now = move |format: String| python::strftime(&format, seconds);
        self.environment.add_function("strftime_now", now);
        self
    }

    /// The template that a tokenizer has for a request, `None` if it has none: of several named
    /// ones, as transformers does, `tool_use` for a request with tools, `default` otherwise.
    ///
    /// # Errors
    /// What [`ChatTemplate::new`] says.
    pub fn of(tokenizer: &Tokenizer, request: &Json) -> Result<Option<Self>, Error> {
        let has_tools = request.get("tools").is_some_and(|t| !t.is_null());
        Self::source_of(tokenizer, has_tools).map(Self::new).transpose()
    }

    /// The source of that template, for requests with tools or without.
    pub fn source_of(tokenizer: &Tokenizer, has_tools: bool) -> Option<&str> {
        let named = tokenizer.chat_templates().iter().find(|t| has_tools && t.name == "tool_use");
        named.map(|t| t.source.as_str()).or(tokenizer.chat_template())
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for a request: an object with `messages` and, where wanted, `tools`,
    /// `documents`, `add_generation_prompt`, `bos_token`, and any further variables.
    ///
    /// # Errors
    /// [`Error::TemplateRaised`] where the template refuses the request,
    /// [`Error::TemplateRender`] where it fails, [`Error::TemplateTooCostly`] beyond the limits.
    pub fn render(&self, request: &Json) -> Result<String, Error> {
        let Json::Object(request) = request else { return Err(Error::TemplateRequest) };
        let mut context = serde_json::Map::new();
        // What transformers always passes.
        context.insert("tools".to_owned(), Json::Null);
        context.insert("documents".to_owned(), Json::Null);
        context.insert("add_generation_prompt".to_owned(), Json::Bool(false));
        context.extend(request.clone());
        guard::on_deep_stack(|| self.run(&context))
    }

    fn run(&self, context: &serde_json::Map<String, Json>) -> Result<String, Error> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|e| Error::TemplateSyntax { message: describe(&e) })?;
        let mut out = Capped { bytes: Vec::new(), limit: self.limits.output };
        let result = template.render_captured_to(context_of(context), &mut out).map(|_| ());
        match result {
            Ok(()) => Ok(String::from_utf8_lossy(&out.bytes).into_owned()),
            Err(e) => Err(self.failure(&e, out.bytes.len())),
        }
    }

    fn failure(&self, error: &minijinja::Error, written: usize) -> Error {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(cause) = source {
            if let Some(Raised(message)) = cause.downcast_ref::<Raised>() {
                return Error::TemplateRaised { message: message.clone() };
            }
            source = cause.source();
        }
        let costly = |what| Error::TemplateTooCostly { what };
        match error.kind() {
            ErrorKind::OutOfFuel => costly("steps"),
            ErrorKind::WriteFailure if written >= self.limits.output => costly("bytes of output"),
            _ => Error::TemplateRender { message: describe(error) },
        }
    }

    /// The prompt for a request in pieces, between which no control token must be recognised:
    /// within a piece every control token is the template's own.
    ///
    /// The special tokens that the request does not name (`bos_token` and the like) are the
    /// tokenizer's.
    ///
    /// # Errors
    /// What [`ChatTemplate::render`] says.
    pub fn render_segments(
        &self,
        request: &Json,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<String>, Error> {
        let Json::Object(request) = request else { return Err(Error::TemplateRequest) };
        let mark = marks::unused_mark(&self.source, request);
        let mut marked = special_tokens(tokenizer);
        for (key, value) in request {
            // Special tokens that the request names are configuration, not speech.
            let own = key.ends_with("_token") && value.is_string();
            let value = if own { value.clone() } else { marks::marked(value, tokenizer, mark) };
            marked.insert(key.clone(), value);
        }
        let prompt = self.render(&Json::Object(marked))?;
        Ok(prompt.split(mark).map(str::to_owned).collect())
    }

    /// The ids of the prompt for a request: control tokens are recognised in what the template
    /// wrote, never in what the request holds.
    ///
    /// # Errors
    /// What [`ChatTemplate::render`] and [`Tokenizer::encode`] say.
    pub fn render_and_encode(
        &self,
        request: &Json,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, Error> {
        let segments = self.render_segments(request, tokenizer)?;
        let parts: Vec<(&str, bool)> = segments.iter().map(|s| (s.as_str(), true)).collect();
        tokenizer.encode_parts(&parts, false)
    }
}

/// The texts of the special tokens, under the names that templates know them by.
pub fn special_tokens(tokenizer: &Tokenizer) -> serde_json::Map<String, Json> {
    let s = tokenizer.special_ids();
    [
        ("bos_token", s.bos),
        ("eos_token", s.eos),
        ("unk_token", s.unk),
        ("sep_token", s.sep),
        ("pad_token", s.pad),
    ]
    .into_iter()
    .filter_map(|(name, id)| Some((name.to_owned(), tokenizer.token_text(id?).ok()?.into())))
    .collect()
}

fn environment(limits: Limits) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the delimiters are the usual ones"),
    );
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(limits.fuel));
    env.set_recursion_limit(200);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", python::tojson);
    env.add_filter(guard::ITERABLE, python::iterable);
    env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, "the template refuses the request")
            .with_source(Raised(message)))
    });
    env.add_filter("string", |value: Value| python::text(&value));
    env.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Number => Ok(out.write_str(&python::text(value))?),
        _ => minijinja::escape_formatter(out, state, value),
    });
    env.add_test("iterable", python::is_iterable);
    env.add_function("strftime_now", |format: String| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        python::strftime(&format, now)
    });
    env
}

fn context_of(map: &serde_json::Map<String, Json>) -> Value {
    Value::from_pairs(map.iter().map(|(k, v)| (k.as_str(), value_of(v))))
}

/// JSON as the engine's value, keys in order.
fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => items.iter().map(value_of).collect(),
        Json::Object(map) => context_of(map),
    }
}

/// What a template said when it raised an exception.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// An error of the engine in one line, with its place.
fn describe(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

/// A buffer that refuses to grow beyond its limit.
struct Capped {
    bytes: Vec<u8>,
    limit: usize,
}

impl std::io::Write for Capped {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + data.len() > self.limit {
            self.bytes.resize(self.limit, 0);
            return Err(std::io::Error::other("the prompt is too long"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

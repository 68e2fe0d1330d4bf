//! `infinity serve --otlp-endpoint URL`: spans for an OpenTelemetry collector.

use std::sync::Arc;

use anyhow::Result;
use serve::http::Tracer;

/// Where spans go.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Traces")]
pub(super) struct Traces {
    /// Send a span of each generation to the OpenTelemetry collector at URL, by OTLP over HTTP, without
    /// prompts and outputs; OTEL_SERVICE_NAME names the server (default: OTEL_EXPORTER_OTLP_ENDPOINT;
    /// without either there are no traces)
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
}

impl Traces {
    /// Who records requests, where anybody does.
    #[cfg(feature = "otel")]
    pub(super) fn tracer(&self) -> Result<Option<Arc<dyn Tracer>>> {
        let named = |variable| std::env::var_os(variable).is_some_and(|url| !url.is_empty());
        let variables = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        if self.otlp_endpoint.is_none() && !variables.into_iter().any(named) {
            return Ok(None);
        }
        let tracer = serve::otel::OtlpTracer::new(self.otlp_endpoint.as_deref())?;
        Ok(Some(Arc::new(tracer)))
    }

    #[cfg(not(feature = "otel"))]
    pub(super) fn tracer(&self) -> Result<Option<Arc<dyn Tracer>>> {
        if self.otlp_endpoint.is_some() {
            anyhow::bail!("--otlp-endpoint: this program was built without the feature `otel`");
        }
        Ok(None)
    }
}

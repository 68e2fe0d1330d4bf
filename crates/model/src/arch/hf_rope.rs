//! `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (transformers 4).

use super::Arch;
use super::json::{MAX_COUNT, Params, invalid};
use crate::Error;
use crate::config::{RopeParameters, RopeScaling};
use crate::rope_scaling::{longrope_magnitude, yarn_magnitude};

/// What the rotary embedding is computed from besides its own parameters.
pub(crate) struct RopeContext {
    pub(crate) arch: Arch,
    pub(crate) head_dim: usize,
    pub(crate) context_length: usize,
    /// `rope_theta` where the checkpoint states none.
    pub(crate) default_theta: f64,
}

/// The embedding that all layers share.
pub(crate) fn shared(p: &Params<'_>, c: &RopeContext) -> Result<RopeParameters, Error> {
    let own = match p.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => p.object("rope_parameters")?,
    };
    // A checkpoint may state parameters a layer type although its layers are all alike.
    let own = match own {
        Some(o) => o.object("full_attention").ok().flatten().or(Some(o)),
        None => None,
    };
    parse(p, own, c.default_theta, c)
}

/// Those of Gemma 3: layers that see everything, layers with a window.
pub(crate) fn global_and_local(
    p: &Params<'_>,
    c: &RopeContext,
) -> Result<(RopeParameters, RopeParameters), Error> {
    let nested = p.object("rope_parameters")?;
    let of = |kind: &str| match &nested {
        Some(n) => n.object(kind),
        None => Ok(None),
    };
    let global = match p.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => of("full_attention")?,
    };
    let global = parse(p, global, 1_000_000.0, c)?;
    let local = of("sliding_attention")?;
    let theta = match local {
        Some(l) => l.positive("rope_theta")?,
        None => None,
    };
    let theta = match theta {
        Some(theta) => theta,
        None => p.positive("rope_local_base_freq")?.unwrap_or(10_000.0),
    };
    let empty = serde_json::Map::new();
    let local = parse(&Params::new(&empty), local, theta, c)?;
    Ok((global, local))
}

fn parse(
    p: &Params<'_>,
    own: Option<Params<'_>>,
    default_theta: f64,
    c: &RopeContext,
) -> Result<RopeParameters, Error> {
    let empty = serde_json::Map::new();
    let own = own.unwrap_or_else(|| Params::new(&empty));
    let theta = match own.positive("rope_theta")? {
        Some(theta) => theta,
        None => p.positive("rope_theta")?.unwrap_or(default_theta),
    };
    let partial = match own.positive("partial_rotary_factor")? {
        Some(f) => f,
        None => p.positive("partial_rotary_factor")?.unwrap_or(1.0),
    };
    let rotary_dim = (c.head_dim as f64 * partial) as usize;
    if rotary_dim == 0 || rotary_dim > c.head_dim || !rotary_dim.is_multiple_of(2) {
        let expected = format!("an even number of the {} elements of a head to turn", c.head_dim);
        return Err(invalid("partial_rotary_factor", partial, expected));
    }
    let scaling = scaling(p, &own, theta, rotary_dim, c)?;
    Ok(RopeParameters { theta, rotary_dim, scaling })
}

fn scaling(
    p: &Params<'_>,
    own: &Params<'_>,
    theta: f64,
    rotary_dim: usize,
    c: &RopeContext,
) -> Result<RopeScaling, Error> {
    let kind = match own.text("rope_type")? {
        Some(kind) => kind,
        None => own.text("type")?.unwrap_or("default"),
    };
    let required = |key: &str| {
        own.positive(key)?.ok_or_else(|| Error::MissingParameter { key: key.to_owned() })
    };
    let original_context = || -> Result<usize, Error> {
        const KEY: &str = "original_max_position_embeddings";
        let (inner, outer) = (own.count(KEY, MAX_COUNT)?, p.count(KEY, MAX_COUNT)?);
        let default = if c.arch == Arch::Phi3 { 4096 } else { c.context_length };
        let original = outer.or(inner).unwrap_or(default);
        if original < 2 {
            return Err(invalid(KEY, original, "a whole number from 2"));
        }
        Ok(original)
    };
    let extension = |original: usize| -> Result<f64, Error> {
        Ok(own.positive("factor")?.unwrap_or(c.context_length as f64 / original as f64))
    };
    match kind {
        "default" => Ok(RopeScaling::Default),
        "dynamic" => {
            tracing::warn!(
                "dynamic rotary scaling: right up to {} positions, not meant for more",
                c.context_length
            );
            Ok(RopeScaling::Default)
        }
        "linear" => Ok(RopeScaling::Linear { factor: required("factor")? }),
        "llama3" => {
            let low_freq_factor = required("low_freq_factor")?;
            let high_freq_factor = required("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                let expected = format!("more than low_freq_factor ({low_freq_factor})");
                return Err(invalid("high_freq_factor", high_freq_factor, expected));
            }
            let (factor, original_context) = (required("factor")?, original_context()?);
            Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context })
        }
        "su" | "longrope" => longrope(own, rotary_dim, original_context()?, extension),
        "yarn" if c.arch == Arch::Phi3 => longrope(own, rotary_dim, original_context()?, extension),
        "yarn" => {
            if theta <= 1.0 {
                return Err(invalid("rope_theta", theta, "more than 1 for yarn"));
            }
            let original_context = original_context()?;
            let factor = extension(original_context)?;
            let weights = (own.positive("mscale")?, own.positive("mscale_all_dim")?);
            let attention_factor = match (own.positive("attention_factor")?, weights) {
                (Some(f), _) => f,
                (None, (Some(m), Some(all))) => {
                    yarn_magnitude(factor, m) / yarn_magnitude(factor, all)
                }
                _ => yarn_magnitude(factor, 1.0),
            };
            Ok(RopeScaling::Yarn {
                factor,
                original_context,
                attention_factor,
                beta_fast: own.positive("beta_fast")?.unwrap_or(32.0),
                beta_slow: own.positive("beta_slow")?.unwrap_or(1.0),
                truncate: own.flag("truncate")?.unwrap_or(true),
            })
        }
        other => {
            Err(invalid("rope_type", other, "default, linear, dynamic, llama3, yarn or longrope"))
        }
    }
}

fn longrope(
    own: &Params<'_>,
    rotary_dim: usize,
    original_context: usize,
    extension: impl Fn(usize) -> Result<f64, Error>,
) -> Result<RopeScaling, Error> {
    let factors = |key: &str| {
        let list = own.positives(key)?;
        let list = list.ok_or_else(|| Error::MissingParameter { key: key.to_owned() })?;
        if list.len() == rotary_dim / 2 {
            return Ok(list);
        }
        let expected = format!("{} numbers, one a pair of elements", rotary_dim / 2);
        Err(invalid(key, format!("a list of {}", list.len()), expected))
    };
    let attention_factor = match own.positive("attention_factor")? {
        Some(f) => f,
        None => longrope_magnitude(extension(original_context)?, original_context),
    };
    let (short_factor, long_factor) = (factors("short_factor")?, factors("long_factor")?);
    Ok(RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor })
}

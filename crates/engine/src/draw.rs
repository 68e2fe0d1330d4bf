//! Tokens drawn where the logits lie.

use model::{Error, Model};
use sampling::Sampler;
use tensor::{Device, Draw, Tensor};

/// Draws the next token of each row of logits on the GPU that they were left on by
/// [`Outputs::on_device`](model::Outputs::on_device), with the parameters and the random number of the row's sampler,
/// which is told by [`Sampler::drawn`] if the token is taken. `None` for rows without a sampler, for those whose chain
/// needs what only the host knows ([`Sampler::next_draw`]), for logits with no distribution, and for all that lie
/// in this machine's memory: of those [`Sampler::next_token`] makes tokens, or says what is wrong with them.
///
/// The token is that of [`Sampler::next_token`] up to rounding: weights are f32 there and f64 here.
///
/// # Errors
/// What the device says, and [`tensor::Error::Shapes`] for another number of samplers than rows.
pub fn draw(
    model: &Model,
    logits: &Tensor,
    samplers: &[Option<&Sampler>],
) -> Result<Vec<Option<u32>>, Error> {
    let draws: Vec<Option<Draw>> = samplers.iter().map(|s| s.and_then(draw_of)).collect();
    if logits.device() == Device::Cpu || draws.iter().all(Option::is_none) {
        return Ok(vec![None; samplers.len()]);
    }
    let all: Vec<Draw> = draws.iter().map(|draw| draw.unwrap_or(Draw::GREEDY)).collect();
    let mut tokens = model.compute().draw(logits, &all)?;
    for (token, draw) in tokens.iter_mut().zip(&draws) {
        *token = token.filter(|_| draw.is_some());
    }
    Ok(tokens)
}

fn draw_of(sampler: &Sampler) -> Option<Draw> {
    let (params, uniform) = sampler.next_draw()?;
    let (temperature, top_k) = (params.temperature, params.top_k);
    Some(Draw { uniform, temperature, top_k, top_p: params.top_p, min_p: params.min_p })
}

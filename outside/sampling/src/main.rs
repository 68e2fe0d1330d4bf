//! Draws from a toy distribution and counts.

use sampling::{Sampler, SamplingParams};

fn main() -> Result<(), sampling::SamplingError> {
    let logits = [2.0, 1.0, 0.0, -1.0];
    let params = SamplingParams { temperature: 1.0, top_k: 3, seed: Some(1), ..Default::default() };
    let mut sampler = Sampler::new(params)?;
    let distribution = sampler.distribution(&logits)?;

    const DRAWS: usize = 20_000;
    let mut counts = [0usize; 4];
    for _ in 0..DRAWS {
        counts[sampler.sample(&distribution) as usize] += 1;
    }
    for (token, &count) in counts.iter().enumerate() {
        let p = distribution.probability(token as u32);
        let drawn = count as f64 / DRAWS as f64;
        println!("token {token}: probability {p:.4}, drawn {drawn:.4}");
        // Five standard deviations.
        assert!((drawn - p).abs() <= 5.0 * (p * (1.0 - p) / DRAWS as f64).sqrt());
    }
    println!("NaN: {}", sampler.distribution(&[0.0, f32::NAN]).expect_err("refused"));
    Ok(())
}

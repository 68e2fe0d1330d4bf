//! Chooses a type for each tensor of a model as llama.cpp does, and measures what Q4_K loses.

use quant_core::{DType, FileType, ModelFacts, RecipeOptions, Source, TensorFacts, Work};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model =
        ModelFacts { arch: "llama".into(), n_layer: 8, n_head: 8, n_head_kv: 2, n_expert: 0 };
    let names: Vec<String> = (0..8)
        .flat_map(|layer| {
            ["attn_q", "attn_v", "ffn_down"].map(|n| format!("blk.{layer}.{n}.weight"))
        })
        .collect();
    let tensors: Vec<TensorFacts<'_>> = names
        .iter()
        .map(|name| TensorFacts { name, shape: &[512, 512], dtype: DType::F16 })
        .collect();
    let recipe: FileType = "Q4_K_M".parse()?;
    let choices = quant_core::choose(recipe, &model, &tensors, &RecipeOptions::default())?;
    for (tensor, choice) in tensors.iter().zip(&choices) {
        println!("{:24} {}", tensor.name, choice.dtype.name());
    }
    // The first layers' values get more bits than their queries.
    assert_eq!((choices[0].dtype, choices[1].dtype), (DType::Q4_K, DType::Q6_K));

    let x: Vec<f32> =
        (0..64 * 512).map(|i| ((i * i % 8191) as f32 / 4096.0 - 1.0) * 0.02).collect();
    for dtype in [DType::Q8_0, DType::Q6_K, DType::Q4_K, DType::Q2_K] {
        let values = Source::Values(&x);
        let bytes = quant_core::quantize_tensor(values, 64, 512, dtype, None, Work::threads(2))?;
        let again = Source::Bytes(dtype, &bytes);
        let lost = quant_core::compare(values, again, 64, 512, Work::default())?;
        println!(
            "{:5} {:6} bytes, {:5.1} dB, largest error {:.1e}, cosine {:.6}",
            dtype.name(),
            bytes.len(),
            lost.snr_db(),
            lost.max_abs(),
            lost.cosine()
        );
        assert!(lost.snr_db() > 5.0 * (dtype.bits_per_weight() - 1.5));
    }
    Ok(())
}

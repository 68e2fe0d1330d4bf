//! Converts a Hugging Face folder to GGUF, quantizes it, and converts it back.

use std::ops::ControlFlow;
use std::path::Path;

use compress::convert::{Options, gguf_to_hf, hf_to_gguf};
use compress::{FileType, Gguf, QuantizeOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A Llama with random weights.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../crates/model/tests/fixtures/variants/llama-sharded");
    let work = std::env::temp_dir().join(format!("outside-compress-{}", std::process::id()));
    std::fs::create_dir_all(&work)?;
    let [plain, small, back] = ["plain.gguf", "small.gguf", "back"].map(|name| work.join(name));

    let mut go_on = |_: compress::Step<'_>| ControlFlow::Continue(());
    let report = hf_to_gguf(&folder, &plain, &Options::default(), &mut go_on)?;
    println!("{} tensors, {} bytes", report.tensors, report.bytes);

    let file = Gguf::open(&plain)?;
    let recipe: FileType = "Q8_0".parse()?;
    let options = QuantizeOptions::default();
    let done =
        compress::quantize(&file, &small, recipe, &options, &mut |_, _| ControlFlow::Continue(()))?;
    println!("{} -> {} bytes", done.bytes_before(), done.bytes_after());
    println!("{:.2} bits a weight", done.bits_per_weight());
    assert!(done.bytes_after() < done.bytes_before() / 3);
    // It was planned without writing anything, too.
    assert_eq!(compress::plan(&file, recipe, &options)?, done);

    gguf_to_hf(&plain, &back, &Options::default(), &mut go_on)?;
    let mut names: Vec<_> =
        std::fs::read_dir(&back)?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    println!("back: {names:?}");
    assert!(back.join("config.json").exists() && back.join("model.safetensors").exists());
    Ok(std::fs::remove_dir_all(work)?)
}

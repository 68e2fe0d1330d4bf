//! Converts a Hugging Face folder to a GGUF file, or a GGUF file to a folder.
//!
//! `cargo run -p compress --example convert -- SRC OUT [f32|f16|bf16]`

use std::ops::ControlFlow;
use std::path::Path;

use compress::convert::{Options, gguf_to_hf, hf_to_gguf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [src, out, rest @ ..] = args.as_slice() else {
        return Err("usage: convert SRC OUT [f32|f16|bf16]".into());
    };
    let dtype = rest.first().map(|t| t.parse()).transpose()?;
    let options = Options { dtype, ..Options::default() };
    let mut progress = |step: compress::Step<'_>| {
        eprintln!("{}/{} {}", step.done, step.of, step.tensor);
        ControlFlow::Continue(())
    };
    let (src, out) = (Path::new(src), Path::new(out));
    let report = match src.is_dir() {
        true => hf_to_gguf(src, out, &options, &mut progress)?,
        false => gguf_to_hf(src, out, &options, &mut progress)?,
    };
    println!("{} tensors, {} bytes", report.tensors, report.bytes);
    for note in report.notes {
        println!("note: {note}");
    }
    Ok(())
}

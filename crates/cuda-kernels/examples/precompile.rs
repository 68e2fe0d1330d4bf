//! Fills a folder with compiled kernels, for machines that have a GPU and no NVRTC: there,
//! `INFINITY_KERNEL_CACHE` names the folder.
//!
//! `cargo run -p cuda-kernels --example precompile -- FOLDER sm_80 sm_90a`

use std::path::PathBuf;

use anyhow::{Context, Result};
use cuda_kernels::compile::CubinCache;
use cuda_kernels::source;

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let folder =
        PathBuf::from(args.next().context("no folder: precompile FOLDER ARCHITECTURE...")?);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let cache = CubinCache::new(Some(folder));
    for architecture in args {
        let architecture = architecture.to_string_lossy();
        for source in source::ALL {
            let bytes = cache.cubin(source, &architecture)?.len();
            println!("{} for {architecture}: {bytes} bytes", source.name);
        }
    }
    Ok(())
}

//! `infinity devices`: where models can run on this machine.

use anyhow::Result;
use tensor::Device;

/// List the devices that this build can use.
#[derive(clap::Args)]
#[command(after_help = "Example: infinity devices --json")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let all = Device::list();
    if args.json {
        let rows: Vec<_> = all
            .iter()
            .map(|d| {
                serde_json::json!({
                    "device": d.device.to_string(),
                    "name": d.name,
                    "memory_bytes": d.memory,
                    "compute_capability": d.compute_capability,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    for d in &all {
        let memory =
            d.memory.map_or(String::new(), |m| format!(", {:.1} GiB", m as f64 / 1073741824.0));
        println!("{:8} {}{memory}", d.device.to_string(), d.name);
    }
    if let Err(e) = Device::Cuda(0).available() {
        println!("{e}");
    }
    Ok(())
}

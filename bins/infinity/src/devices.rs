//! `infinity devices`: where models can run on this machine.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;
use tensor::{Device, DeviceInfo};

/// List the devices that this build can use.
#[derive(clap::Args)]
#[command(after_help = "Example: infinity devices --json\n\n\
    The bandwidth is measured by a copy within the device's memory, bytes read and written; of the\n\
    processor see `infinity ceilings`.")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    device: String,
    name: String,
    memory_bytes: Option<u64>,
    compute_capability: Option<(i32, i32)>,
    copy_bytes_per_second: Option<f64>,
    /// Why there is no bandwidth.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let rows: Vec<Row> = Device::list().into_iter().map(Row::measured).collect();
    // One line where there is no GPU: what is missing.
    let missing = Device::Cuda(0).available().err().map(|e| e.to_string());
    if args.json {
        let report = serde_json::json!({ "devices": rows, "no_gpu": missing });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    print!("{}", table(&rows));
    if let Some(missing) = missing {
        println!("{missing}");
    }
    Ok(())
}

impl Row {
    fn measured(info: DeviceInfo) -> Self {
        let measured = info.device.copy_bandwidth();
        Self {
            device: info.device.to_string(),
            name: info.name,
            memory_bytes: info.memory,
            compute_capability: info.compute_capability,
            copy_bytes_per_second: measured.as_ref().ok().copied().flatten(),
            error: measured.err().map(|e| e.to_string()),
        }
    }
}

fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
            let bandwidth = row.copy_bytes_per_second.map(|b| format!("{:.0} GB/s", b / 1e9));
            [
                row.device.clone(),
                or_dash(
                    row.memory_bytes.map(|m| format!("{:.1} GiB", m as f64 / f64::from(1 << 30))),
                ),
                or_dash(row.compute_capability.map(|(major, minor)| format!("{major}.{minor}"))),
                bandwidth.or_else(|| row.error.clone()).unwrap_or_else(|| "-".into()),
                row.name.clone(),
            ]
        })
        .collect();
    let heads = ["device", "memory", "compute", "copy", "name"];
    let width = |i: usize| cells.iter().map(|c| c[i].len()).max().unwrap_or(0).max(heads[i].len());
    let widths: [usize; 4] = std::array::from_fn(width);
    let mut out = String::new();
    for row in std::iter::once(&heads.map(String::from)).chain(&cells) {
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(out, "{cell:width$}  ");
        }
        let _ = writeln!(out, "{}", row[4]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_in_columns_and_the_rest_is_a_dash() {
        let cpu = Row {
            device: "cpu".into(),
            name: "2 threads".into(),
            memory_bytes: None,
            compute_capability: None,
            copy_bytes_per_second: None,
            error: None,
        };
        let gpu = Row {
            device: "cuda:0".into(),
            name: "NVIDIA H200".into(),
            memory_bytes: Some(141 << 30),
            compute_capability: Some((9, 0)),
            copy_bytes_per_second: Some(4.3e12),
            error: None,
        };
        assert_eq!(
            table(&[cpu, gpu]),
            "device  memory     compute  copy       name\n\
             cpu     -          -        -          2 threads\n\
             cuda:0  141.0 GiB  9.0      4300 GB/s  NVIDIA H200\n"
        );
    }
}

//! `infinity cache`: the repacked weights that `--repack-cache` keeps.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use model::repack::cache;

/// Show or remove the repacked weights that --repack-cache keeps.
#[derive(clap::Args)]
#[command(after_help = "Example: infinity cache --clear\n\n\
    Files lie in INFINITY_CACHE/repacked if that is set, else in infinity/repacked of XDG_CACHE_HOME\n\
    or ~/.cache. They can be removed at any time; the next start with --repack-cache writes its own anew.")]
pub(crate) struct Args {
    /// The folder, if it is another
    dir: Option<PathBuf>,
    /// Remove them
    #[arg(long)]
    clear: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Where repacked weights are kept unless the command line says it.
pub(crate) fn folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let ours = variable("INFINITY_CACHE").filter(|p| !p.as_os_str().is_empty());
    // The XDG Base Directory Specification has relative paths ignored.
    let everyones = || {
        let xdg = variable("XDG_CACHE_HOME").filter(|p| p.is_absolute());
        Some(xdg.or_else(|| Some(std::env::home_dir()?.join(".cache")))?.join("infinity"))
    };
    match ours.or_else(everyones) {
        Some(folder) => Ok(folder.join("repacked")),
        None => bail!("there is no home folder for a cache; set INFINITY_CACHE to a folder"),
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = args.dir.clone().map_or_else(folder, Ok)?;
    let here = || folder.display().to_string();
    let all = cache::list(&folder).with_context(here)?;
    let bytes: u64 = all.iter().map(|e| e.bytes).sum();
    let removed = match args.clear {
        true => Some(cache::clear(&folder).with_context(here)?),
        false => None,
    };
    if args.json {
        let file = |e: &cache::Listed| serde_json::json!({ "path": e.path, "bytes": e.bytes });
        let files: Vec<_> = all.iter().map(file).collect();
        let report = serde_json::json!({
            "folder": folder, "files": files, "bytes": bytes, "bytes_removed": removed,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    if let Some(removed) = removed {
        println!("removed {} from {}", mb(removed), folder.display());
        return Ok(());
    }
    for entry in &all {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        println!("{:>12}  {name}", mb(entry.bytes));
    }
    println!("{:>12}  in {}", mb(bytes), folder.display());
    Ok(())
}

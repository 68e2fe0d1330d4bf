//! nginx: where it is, and its configuration.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The one home of the configuration: `llama-box` and `deploy/nginx.conf` are made from it.
const TEMPLATE: &str = include_str!("nginx.conf.template");

/// What differs between places where nginx runs.
pub(crate) struct Conf<'a> {
    /// The first line: where the file comes from.
    pub(crate) origin: &'a str,
    /// A folder that nginx may write to.
    pub(crate) dir: &'a str,
    /// Address and port, or a port.
    pub(crate) listen: &'a str,
    /// Address and port of each instance.
    pub(crate) servers: &'a [String],
}

impl Conf<'_> {
    /// The text of the configuration.
    pub(crate) fn render(&self) -> String {
        let server = |s: &String| format!("        server {s} max_fails=3 fail_timeout=5s;");
        let servers: Vec<String> = self.servers.iter().map(server).collect();
        TEMPLATE
            .replace("{{origin}}", self.origin)
            .replace("{{dir}}", self.dir)
            .replace("{{listen}}", self.listen)
            .replace("{{servers}}", &servers.join("\n"))
    }
}

/// Where nginx is: what was given, or else what the system has. Packages put it where the search path
/// of ordinary users does not lead.
///
/// # Errors
/// If there is none; the error says how to get it.
pub(crate) fn find(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        if path.is_file() {
            return Ok(path.to_owned());
        }
        bail!("--nginx {}: no such file", path.display());
    }
    let search = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&search)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join("nginx"))
        .find(|path| path.is_file())
        .context("nginx is not installed: apt-get install nginx, or give --nginx PATH")
}

/// Arguments with which nginx takes the configuration `conf` and stays in the foreground.
pub(crate) fn args(conf: &Path) -> Vec<String> {
    let dir = conf.parent().unwrap_or(Path::new("/"));
    let mut args: Vec<String> = ["-e", "stderr", "-g", "daemon off;", "-p"].map(Into::into).into();
    args.push(dir.display().to_string());
    args.extend(["-c".to_owned(), conf.display().to_string()]);
    args
}

/// Lets nginx read the configuration without using it.
///
/// # Errors
/// What nginx says about it.
pub(crate) fn check(nginx: &Path, conf: &Path) -> Result<()> {
    let out = Command::new(nginx)
        .args(args(conf))
        .arg("-t")
        .stdin(Stdio::null())
        .output()
        .with_context(|| nginx.display().to_string())?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("{} does not take its configuration: {}", nginx.display(), said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it stands in `deploy`: two containers, a third for nginx.
    fn of_deploy() -> String {
        let servers = ["infinity-1:8000".to_owned(), "infinity-2:8000".to_owned()];
        Conf {
            origin: "Made from bins/llama-box/src/nginx.conf.template by \
                     `BLESS=1 cargo test -p llama-box-cli`.",
            dir: "/tmp",
            listen: "8080",
            servers: &servers,
        }
        .render()
    }

    #[test]
    fn the_file_in_deploy_is_made_from_the_template() {
        let path = testkit::workspace().join("deploy/nginx.conf");
        if env::var_os("BLESS").is_some() {
            std::fs::write(&path, of_deploy()).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap();
        assert!(there == of_deploy(), "BLESS=1 cargo test -p llama-box-cli makes it again");
        assert!(!there.contains("{{"), "every place was filled");
    }

    #[test]
    fn a_missing_nginx_is_said_in_a_line() {
        let error = find(Some(Path::new("/nowhere/nginx"))).unwrap_err().to_string();
        assert_eq!(error, "--nginx /nowhere/nginx: no such file");
    }
}

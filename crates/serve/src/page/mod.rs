//! The page at `/`: a chat that streams and a live view of the engine.
//!
//! Plain files, embedded as they are; the page asks this server alone. Its addresses are relative, so
//! that it works behind a proxy that puts the server under a path. Whoever serves it sends
//! [`CONTENT_SECURITY_POLICY`] with every file, and needs no key for them: the page asks for one.
//!
//! What it uses: `v1/models`, `v1/chat/completions`, `v1/completions` for models without a chat
//! template (error code `no_chat_template`), and `live` (see [`engine::snapshot`]).

/// What the page may do: load its own files and ask its own server.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Where it is served, without the leading slash; the page itself is at the empty path.
    pub path: &'static str,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Its content.
    pub body: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($($path:literal, $kind:expr, $file:literal;)*) => {
        &[$(Asset { path: $path, content_type: $kind, body: include_str!(concat!("static/", $file)) }),*]
    };
}

/// All files.
pub const ASSETS: &[Asset] = assets! {
    "", HTML, "index.html";
    "page/style.css", CSS, "style.css";
    "page/icon.svg", SVG, "icon.svg";
    "page/theme.js", JS, "theme.js";
    "page/app.js", JS, "app.js";
    "page/api.js", JS, "api.js";
    "page/chat.js", JS, "chat.js";
    "page/markdown.js", JS, "markdown.js";
    "page/live.js", JS, "live.js";
    "page/block_map.js", JS, "block_map.js";
};

/// The file that is served at a path, given without its leading slash.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|a| a.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts between `before` and the next `'` or `"`, in all files.
    fn after<'a>(before: &'a str) -> impl Iterator<Item = (&'static str, &'static str)> + 'a {
        ASSETS.iter().flat_map(move |a| {
            let rest = a.body.split(before).skip(1);
            rest.map(|r| (a.path, r.split(['"', '\'']).next().unwrap_or(r)))
        })
    }

    #[test]
    fn every_file_that_is_asked_for_is_there() {
        let page = ["src=\"", "<link rel=\"stylesheet\" href=\"", "<link rel=\"icon\" href=\""];
        let of_page = page.into_iter().flat_map(after).map(|(_, path)| path.to_owned());
        let modules = after("from \"./").map(|(_, file)| format!("page/{file}"));
        let asked: std::collections::BTreeSet<_> = of_page.chain(modules).collect();
        for path in &asked {
            assert!(asset(path).is_some(), "{path}");
        }
        // And the other way: nothing is embedded for nothing.
        assert_eq!(asked.len() + 1, ASSETS.len(), "{asked:?}");
    }

    #[test]
    fn nothing_comes_from_outside_and_nothing_is_run_from_text() {
        let forbidden =
            ["http:", "https:", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval("];
        for a in ASSETS {
            for word in forbidden {
                // The name of SVG's format is no address.
                let body = a.body.replace("http://www.w3.org/2000/svg", "");
                assert!(!body.contains(word), "{}: {word}", a.path);
            }
        }
        // The policy forbids both, and they would fail in silence.
        let html = asset("").unwrap().body;
        assert!(
            !html.contains("style=\"") && !html.contains("<script>") && !html.contains("<style")
        );
    }
}

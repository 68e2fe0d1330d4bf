//! The report as one HTML page that needs nothing else: table, notes and a chart, in light and dark.

use crate::chart;
use crate::report::{COLUMNS, Report};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5c5c5c; --line: #d8d8d8; --paper: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --soft: #a8a8a8; --line: #3d3d3d; --paper: #161616; }
}
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 600; }
ul { color: var(--soft); padding-left: 1.2rem; }
figure { margin: 2rem 0 0; }
figure svg { max-width: 100%; height: auto; }
figcaption { color: var(--soft); }
.dark { display: none; }
@media (prefers-color-scheme: dark) { .light { display: none; } .dark { display: block; } }
";

/// The page.
///
/// # Errors
/// If the chart cannot be drawn.
pub(crate) fn page(report: &Report) -> anyhow::Result<String> {
    let row = |tag: &str, cells: &[String]| {
        let cells = cells.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let head = row("th", &COLUMNS.map(str::to_owned));
    let body: String = report.rows().iter().map(|r| row("td", r)).collect();
    let notes: String =
        report.notes().iter().map(|n| format!("<li>{}</li>\n", escape(n))).collect();
    let (light, dark) = (chart::svg(report, chart::LIGHT)?, chart::svg(report, chart::DARK)?);
    let title = escape(&report.model);
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <div class=\"scroll\">\n<table>\n<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table>\n\
         </div>\n<ul>\n{notes}</ul>\n<figure>\n<div class=\"light\">{light}</div>\n\
         <div class=\"dark\">{dark}</div>\n<figcaption>Perplexity against bits a weight; lower and \
         further left is better. Bars are one standard error.</figcaption>\n</figure>\n</body>\n</html>\n"
    ))
}

/// Text for an HTML element or attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn the_page_stands_alone_and_is_escaped() {
        let mut report = sample();
        report.formats[0].format = "<script>alert(1)</script>".to_owned();
        let page = page(&report).unwrap();
        assert!(page.contains("<title>a|&lt;b&gt;&amp;&quot;model&quot;</title>"));
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;"));
        // Nothing is fetched from anywhere.
        for part in ["src=", "href=", "url(", "@import", "<link"] {
            assert!(!page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("prefers-color-scheme: dark"));
        assert_eq!(page.matches("<tr>").count(), 5);
    }
}

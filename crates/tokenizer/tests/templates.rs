//! Chat templates of real models against what transformers renders.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use tokenizer::template::ChatTemplate;

/// Renders each row of a file of expectations; `source` gives the template of that name.
fn check(rows: &[Value], source: impl Fn(&str) -> String) {
    let mut templates: HashMap<String, ChatTemplate> = HashMap::new();
    let mut wrong = Vec::new();
    for row in rows {
        let name = row["template"].as_str().unwrap();
        let template = templates.entry(name.to_owned()).or_insert_with(|| {
            ChatTemplate::new(&source(name))
                .unwrap_or_else(|e| panic!("{name}: {e}"))
                .at_time(1_721_952_000)
        });
        let mut request = row.as_object().unwrap().clone();
        let expected = request.remove("expected");
        let error = request.remove("error");
        request.remove("template");
        let case = request.remove("case").unwrap_or_default();
        let got = template.render(&Value::Object(request));
        match (expected.as_ref().and_then(Value::as_str), got) {
            (Some(expected), Ok(got)) if got == expected => {}
            (None, Err(_)) => assert!(error.is_some(), "{name} {case}"),
            (Some(expected), Ok(got)) => {
                let same = expected.chars().zip(got.chars()).take_while(|(a, b)| a == b).count();
                let tail =
                    |s: &str| s.chars().skip(same.saturating_sub(40)).take(120).collect::<String>();
                wrong.push(format!(
                    "{name} {case}:\n  want {:?}\n  got  {:?}",
                    tail(expected),
                    tail(&got)
                ));
            }
            (_, got) => wrong.push(format!("{name} {case}: want {error:?}, got {got:.90?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

fn rows(path: &Path) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn templates_of_the_reference() {
    let Some(folder) = testkit::shared("data/templates") else { return };
    let rows = rows(&folder.join("expected.json"));
    assert!(rows.len() >= 90);
    check(&rows, |name| std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap());
}

/// Templates of our own that exercise the language; made by `tools/render_templates.py`.
#[test]
fn templates_of_the_fixtures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates");
    check(&rows(&folder.join("expected.json")), |name| {
        std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap()
    });
}

/// More templates and requests; `tools/render_templates.py DIR OUT.json` makes the expectations.
#[test]
#[ignore = "needs a folder of templates"]
fn further_templates() {
    let folder = std::env::var("TEMPLATES").expect("TEMPLATES names a folder of *.jinja");
    let expected = std::env::var("EXPECTED").expect("EXPECTED names what transformers renders");
    check(&rows(Path::new(&expected)), |name| {
        std::fs::read_to_string(Path::new(&folder).join(format!("{name}.jinja"))).unwrap()
    });
}

/// Of several named templates, a request with tools takes `tool_use`, as in transformers.
#[test]
fn a_request_with_tools_takes_the_template_for_tools() {
    let dir = tempfile::tempdir().unwrap();
    let Some(bard) = testkit::shared("oracle/bard") else { return };
    std::fs::copy(bard.join("tokenizer.model"), dir.path().join("tokenizer.model")).unwrap();
    let config = serde_json::json!({ "chat_template": [
        { "name": "default", "template": "plain" },
        { "name": "tool_use", "template": "tools" },
    ] });
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = tokenizer::Tokenizer::from_folder(dir.path()).unwrap();
    for (request, want) in [
        (serde_json::json!({ "messages": [] }), "plain"),
        (serde_json::json!({ "messages": [], "tools": null }), "plain"),
        (serde_json::json!({ "messages": [], "tools": [{ "type": "function" }] }), "tools"),
    ] {
        let template = ChatTemplate::of(&tokenizer, &request).unwrap().unwrap();
        assert_eq!(template.render(&request).unwrap(), want);
    }
}

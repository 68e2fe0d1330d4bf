//! Logits against transformers, for every architecture and every reference folder.

mod common;

use common::{decoders, golden, ids, logits, max_abs, open};

#[test]
fn logits_are_those_of_transformers() {
    let mut wrong = Vec::new();
    for folder in decoders() {
        let expected = golden(&folder, "logits").unwrap();
        let got = logits(&open(&folder), &ids(&folder));
        let worst = max_abs(got.as_f32().unwrap(), &expected);
        println!("{worst:9.2e} {}", folder.display());
        if worst > 1e-4 {
            wrong.push((folder, worst));
        }
    }
    assert!(wrong.is_empty(), "beyond 1e-4: {wrong:?}");
}

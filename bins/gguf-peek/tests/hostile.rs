//! Files that are wrong: exit code 1 and one line, or what there is to show; never a signal.

use std::process::{Command, Output};

use testkit::hostile::{self, Fault};

#[test]
fn every_wrong_file_is_shown_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.gguf");
    for case in hostile::cases() {
        std::fs::write(&path, &case.bytes).unwrap();
        let peek = |args: &[&str]| -> (Option<i32>, Output) {
            let program = env!("CARGO_BIN_EXE_gguf-peek");
            let output = Command::new(program).arg(&path).args(args).output().unwrap();
            (output.status.code(), output)
        };
        for args in [&["--check"][..], &["--check", "--json"], &["--stats"], &["--json"], &[]] {
            let (code, output) = peek(args);
            let checked = args.contains(&"--check");
            let faulty = match case.fault {
                Fault::Container => true,
                Fault::Weight => checked,
                // A sound container: what a model makes of it is not asked here.
                Fault::Model | Fault::Vocabulary => false,
            };
            let what = format!("{} {args:?}: {output:?}", case.name);
            assert_eq!(code, Some(i32::from(faulty)), "{what}");
            let lines = output.stderr.iter().filter(|&&b| b == b'\n').count();
            assert_eq!(lines, usize::from(case.fault == Fault::Container), "{what}");
            if args.contains(&"--json") && (checked || !faulty) {
                let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                assert!(json.is_object(), "{what}");
            }
        }
    }
}

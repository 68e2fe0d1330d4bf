//! What befalls a file while it is written: no more room at any byte of it, or an end of the program at
//! any moment. The quantizer stands for all who write: they write through `files::AtomicFile`.
#![cfg(unix)]

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use compress::{Error, QuantizeOptions, quantize};
use files::AtomicFile;
use gguf::Gguf;
use quant_core::FileType;

const OUTPUT: &str = "QUANTIZED_OUTPUT";
const AGAIN_AND_AGAIN: &str = "QUANTIZED_FOR_EVER";
const REFUSED: &str = "no more room";

fn write(output: &Path) -> Result<(), Error> {
    let input = Gguf::open(testkit::workspace().join("assets/bard-f16.gguf")).unwrap();
    let go = &mut |_: &_, _| ControlFlow::Continue(());
    quantize(&input, output, FileType::Q8_0, &QuantizeOptions::default(), go).map(drop)
}

/// No test of its own: the program that the others start and disturb.
#[test]
fn program() {
    let Some(output) = std::env::var_os(OUTPUT) else { return };
    loop {
        match write(Path::new(&output)) {
            Ok(()) => {}
            Err(Error::Gguf(gguf::Error::Write(error))) => {
                assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
                println!("{REFUSED}");
            }
            Err(other) => panic!("{other}"),
        }
        if std::env::var_os(AGAIN_AND_AGAIN).is_none() {
            return;
        }
    }
}

/// The program, whose files may have so many blocks of 512 bytes.
fn start(output: &Path, blocks: &str, for_ever: bool) -> Child {
    // Beyond the limit a write is cut short and the next fails, once the signal is ignored.
    let script = r#"trap "" XFSZ; ulimit -f "$1"; shift; exec "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", blocks]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "program", "--nocapture"]).env(OUTPUT, output);
    if for_ever {
        command.env(AGAIN_AND_AGAIN, "1");
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn files_in(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn without_room_the_old_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model.gguf");
    write(&output).unwrap();
    let whole = std::fs::read(&output).unwrap();
    let all = whole.len() / 512;
    // Within the head, in the middle of everything, and at the last bytes.
    let mut limits: Vec<usize> = (0..all).step_by(all / 12).collect();
    limits.extend([1, all - 1, all + 1]);
    for limit in limits {
        std::fs::write(&output, b"the old one").unwrap();
        let done = start(&output, &limit.to_string(), false).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{limit}: {said}");
        let refused = said.contains(REFUSED);
        assert_eq!(refused, limit * 512 < whole.len(), "{limit} of {all}");
        let found = std::fs::read(&output).unwrap();
        assert!(found == if refused { &b"the old one"[..] } else { &whole }, "{limit}");
        assert_eq!(files_in(folder.path()), ["model.gguf"], "{limit}");
    }
}

#[test]
fn killed_it_leaves_the_old_file_or_the_new_one() {
    let reference = tempfile::tempdir().unwrap();
    let whole = reference.path().join("model.gguf");
    write(&whole).unwrap();
    let whole = std::fs::read(whole).unwrap();
    let (mut amid, mut before) = (0, 0);
    for moment in 0..16 {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("model.gguf");
        let old = (moment % 2 == 0).then_some(b"the old one");
        if let Some(old) = old {
            std::fs::write(&output, old).unwrap();
        }
        let mut program = start(&output, "unlimited", true);
        std::thread::sleep(Duration::from_millis(15 * moment));
        program.kill().unwrap();
        program.wait().unwrap();
        match std::fs::read(&output) {
            Ok(found) if found == whole => {}
            Ok(found) => {
                assert_eq!(found, old.expect("part of a file is there"));
                before += 1;
            }
            Err(error) => {
                assert!(error.kind() == std::io::ErrorKind::NotFound && old.is_none(), "{error}");
                before += 1;
            }
        }
        let left = files_in(folder.path());
        amid += usize::from(left.iter().any(|name| name.starts_with(AtomicFile::PREFIX)));
    }
    println!("killed {before} times before the end of a file, {amid} times while one was written");
    assert!(amid > 0);
}

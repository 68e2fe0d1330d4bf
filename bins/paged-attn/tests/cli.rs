//! The program as people run it.

use std::collections::HashMap;
use std::process::{Command, Output};

use serde_json::Value;

fn paged_attn(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_paged-attn")).args(args).output().unwrap()
}

fn parts(output: &Output) -> (i32, String, String) {
    let utf8 = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
    (output.status.code().unwrap(), utf8(&output.stdout), utf8(&output.stderr))
}

fn ok(args: &[&str]) -> String {
    let (code, out, err) = parts(&paged_attn(args));
    assert_eq!((code, err.as_str()), (0, ""), "{args:?}\n{out}");
    out
}

/// The frames of a run, and how it ended.
fn json(args: &[&str]) -> (Vec<Value>, Value) {
    let out = ok(&[args, &["--json"]].concat());
    let mut lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let end = lines.pop().unwrap();
    (lines, end)
}

/// All events of a kind, with their step.
fn events<'a>(frames: &'a [Value], kind: &'a str) -> Vec<(u64, &'a Value)> {
    let of_frame = |f: &'a Value| {
        let events = f["events"].as_array().unwrap().iter();
        events.filter(move |e| e["event"] == kind).map(|e| (f["step"].as_u64().unwrap(), e))
    };
    frames.iter().flat_map(of_frame).collect()
}

fn ids(list: &Value) -> Vec<u64> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn lines_tell_of_sharing_copies_hits_and_reclamation() {
    let args = ["--sim-requests", "3", "--seed", "42", "--plain"];
    let out = ok(&args);
    assert_eq!(
        out,
        ok(&args[..4]),
        "lines where there is no terminal; the same seed, the same output"
    );
    assert_ne!(out, ok(&["--seed", "43"]));
    let lines = |kind: &str| -> Vec<&str> {
        out.lines().filter_map(|l| l.trim_start().strip_prefix(kind)).map(str::trim).collect()
    };
    assert_eq!(lines("arrives ").len(), 3);
    // Six answers, of which three are forks that share what was there.
    assert_eq!((lines("fork ").len(), lines("ends ").len()), (3, 6));
    assert!(lines("fork ").iter().all(|l| l.contains(" shares blocks ")), "{out}");
    // The scene that all prompts begin with is computed once.
    assert!(lines("starts ")[0].ends_with("prompt tokens are cached"), "{out}");
    assert!(lines("starts ")[1..].iter().all(|l| l.contains("are cached, in blocks ")), "{out}");
    // Where the prompt ends within a block, one of the two that share it gets a copy, once.
    let prompt = |l: &&str| l.split(' ').nth(2).and_then(|n| n.parse::<usize>().ok());
    let within = lines("arrives ").iter().filter_map(prompt).filter(|n| n % 8 > 0).count();
    assert!(within > 0, "{out}");
    assert_eq!(lines("copy ").len(), within, "{out}");
    assert!(lines("table ").iter().any(|l| l.contains("*4") || l.contains("*6")), "{out}");
    assert_eq!(lines("equal ").len(), 1, "{out}");
    assert!(lines("left ")[0].starts_with("0 blocks used"), "{out}");
}

#[test]
fn every_frame_adds_up() {
    let args = ["--sim-requests", "4", "--sequences-per-request", "3", "--blocks", "100"];
    let (frames, end) = json(&args);
    for frame in &frames {
        let mut holders: HashMap<u64, u64> = HashMap::new();
        let tables: Vec<Vec<u64>> =
            frame["sequences"].as_array().unwrap().iter().map(|s| ids(&s["table"])).collect();
        tables.iter().flatten().for_each(|&b| *holders.entry(b).or_default() += 1);
        let blocks = frame["blocks"].as_array().unwrap();
        for (id, block) in blocks.iter().enumerate() {
            let held = holders.get(&(id as u64)).copied().unwrap_or(0);
            assert_eq!(block["references"], held, "block {id} in step {}", frame["step"]);
        }
        let pool = &frame["pool"];
        let count = |what: &str| pool[what].as_u64().unwrap();
        assert_eq!(count("used") + count("idle") + count("free"), blocks.len() as u64);
        assert_eq!(count("used"), holders.len() as u64);
        assert_eq!(count("shared"), holders.values().filter(|&&n| n > 1).count() as u64);
        assert_eq!(count("entries"), holders.values().sum::<u64>());
        // A table has exactly the blocks that its positions need.
        for (s, table) in frame["sequences"].as_array().unwrap().iter().zip(&tables) {
            let positions = s["positions"].as_u64().unwrap();
            assert_eq!(table.len() as u64, positions.div_ceil(8), "{s}");
        }
    }
    // Who copied a block has the copy, and the others the block.
    let copies = events(&frames, "copy_on_write");
    assert_eq!(copies.len() as u64, end["totals"]["copies"].as_u64().unwrap());
    assert!(!copies.is_empty());
    for (step, copy) in copies {
        let frame = frames.iter().find(|f| f["step"] == step).unwrap();
        let writer =
            frame["sequences"].as_array().unwrap().iter().find(|s| s["name"] == copy["sequence"]);
        let table = ids(&writer.unwrap()["table"]);
        assert!(table.contains(&copy["to"].as_u64().unwrap()), "{copy}");
        assert!(!table.contains(&copy["from"].as_u64().unwrap()), "{copy}");
    }
    let totals = &end["totals"];
    let hits: u64 =
        events(&frames, "starts").iter().map(|(_, e)| e["cached"].as_u64().unwrap()).sum();
    assert_eq!(totals["prefix_hits"], hits);
    assert!(hits > 0);
    assert_eq!(end["differences"].as_array().unwrap().len(), 0);
}

#[test]
fn with_too_few_blocks_sequences_are_preempted_and_say_the_same() {
    let many = ["--sim-requests", "5", "--sequences-per-request", "1", "--max-tokens", "40"];
    let (frames, end) = json(&[&many[..], &["--blocks", "24"]].concat());
    let preempted = events(&frames, "preempted");
    assert!(!preempted.is_empty());
    assert_eq!(preempted.len() as u64, end["totals"]["preemptions"].as_u64().unwrap());
    // Each comes back later.
    let resumed = events(&frames, "resumes");
    for (step, event) in preempted {
        let back = resumed.iter().any(|(s, e)| *s > step && e["sequence"] == event["sequence"]);
        assert!(back, "{event} in step {step}");
    }
    // What each says does not depend on the number of blocks.
    let texts = |frames: &[Value]| -> Vec<String> {
        let sequences = frames.last().unwrap()["sequences"].as_array().unwrap().clone();
        sequences.iter().map(|s| s["text"].as_str().unwrap().to_owned()).collect()
    };
    let (roomy, _) = json(&[&many[..], &["--blocks", "200"]].concat());
    assert!(events(&roomy, "preempted").is_empty());
    assert_eq!(texts(&frames), texts(&roomy));
    assert_eq!(end["differences"].as_array().unwrap().len(), 0);
}

#[test]
fn what_cannot_be_is_refused_in_a_line() {
    let refused = |args: &[&str], code: i32, says: &str| {
        let (got, out, err) = parts(&paged_attn(args));
        assert_eq!((got, out.as_str()), (code, ""), "{args:?}");
        assert!(err.starts_with("paged-attn: ") && err.matches('\n').count() == 1, "{err}");
        assert!(err.contains(says), "{err}");
    };
    refused(&["--sim-requests", "0"], 2, "--sim-requests 0: from 1 to 64");
    refused(&["--block-size", "999999999999"], 2, "--block-size");
    refused(&["--blocks", "0"], 2, "--blocks 0");
    refused(&["--temperature", "NaN"], 2, "--temperature NaN");
    refused(&["--blocks", "4"], 1, "request 1: ");
    assert_eq!(paged_attn(&["--plain", "--json"]).status.code(), Some(2));
}

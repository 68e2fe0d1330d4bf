//! GGUF files whose vocabulary makes no sense: a typed error within 50 ms and 16 MiB.

use testkit::bounds::{Bounds, PeakAlloc};
use testkit::hostile::{self, Fault, llama};
use tokenizer::{EncodeOptions, Tokenizer};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

static BOUNDS: Bounds = Bounds::new(&ALLOCATOR);

fn read(what: &str, bytes: &[u8]) -> Result<Tokenizer, tokenizer::Error> {
    let file = gguf::parse(bytes).unwrap();
    BOUNDS.alone().check(what, || Tokenizer::from_gguf(&file.metadata))
}

#[test]
fn what_makes_no_sense_is_refused() {
    for case in hostile::cases().iter().filter(|c| c.fault == Fault::Vocabulary) {
        let error = read(&case.name, &case.bytes).map(drop).expect_err(&case.name);
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let scores = hostile::cases().into_iter().find(|c| c.name == "scores of integers").unwrap();
    let error = read("scores", &scores.bytes).map(drop).unwrap_err();
    assert!(error.to_string().contains("tokenizer.ggml.scores"), "{error}");
}

/// An id that the vocabulary does not have is no id: what holds without the key holds.
#[test]
fn ids_out_of_range_are_ignored() {
    let sound = read("sound", &llama().bytes()).unwrap();
    for bytes in hostile::ids_out_of_range() {
        let t = read("ids", &bytes).unwrap();
        let n = t.vocab_size() as u32;
        assert!([t.bos(), t.eos(), t.unk(), t.pad()].iter().flatten().all(|&id| id < n));
        assert_eq!((t.bos(), t.eos(), t.unk()), (sound.bos(), sound.eos(), sound.unk()));
        let options = EncodeOptions { add_special: true, parse_special: true };
        let ids = t.encode("a", options).unwrap();
        assert!(ids.iter().all(|&id| id < n), "{ids:?}");
    }
}

//! GGUF files that are wrong, for whatever reads, converts, quantizes or shows them.
//!
//! What each crate says to them differs; that none panics, takes long or takes much memory does not.
//! The lines of the container itself, with the error of each, are in the tests of `gguf`.

use crate::gguf::{F32, File, Q4_K, Q8_0, Raw, STRING, TENSOR_I32, TQ1_0, U32};

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The container: nothing opens it.
    Container,
    /// The model in it: it is a sound container.
    Model,
    /// The vocabulary: a model all the same.
    Vocabulary,
    /// A weight is no number.
    Weight,
}

/// A file that is wrong.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is wrong, for messages.
    pub name: String,
    /// Where it is wrong.
    pub fault: Fault,
    /// The file.
    pub bytes: Vec<u8>,
}

/// A sound Llama of one layer, width 8, 4 heads and 6 tokens.
pub fn llama() -> File {
    let file = File::default()
        .set("general.architecture", "llama")
        .set("llama.block_count", 1u32)
        .set("llama.context_length", 8u32)
        .set("llama.embedding_length", 8u32)
        .set("llama.feed_forward_length", 16u32)
        .set("llama.attention.head_count", 4u32)
        .set("llama.attention.head_count_kv", 2u32)
        .set("llama.attention.layer_norm_rms_epsilon", 1e-5f32)
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.tokens", vec!["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a"])
        .set("tokenizer.ggml.scores", vec![0f32, 0.0, 0.0, 0.0, -1.0, -2.0])
        .set("tokenizer.ggml.token_type", vec![2i32, 3, 3, 6, 1, 1])
        .tensor("token_embd.weight", &[6, 8], F32)
        .tensor("output_norm.weight", &[8], F32);
    [
        ("attn_norm", &[8][..]),
        ("attn_q", &[8, 8]),
        ("attn_k", &[4, 8]),
        ("attn_v", &[4, 8]),
        ("attn_output", &[8, 8]),
        ("ffn_norm", &[8]),
        ("ffn_gate", &[16, 8]),
        ("ffn_up", &[16, 8]),
        ("ffn_down", &[8, 16]),
    ]
    .iter()
    .fold(file, |file, (name, shape)| file.tensor(&format!("blk.0.{name}.weight"), shape, F32))
}

/// All of the wrong files.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |fault, name: &str, bytes| {
        cases.push(Case { name: name.to_owned(), fault, bytes });
    };
    for (name, bytes) in containers() {
        add(Fault::Container, name, bytes);
    }
    for (name, file) in parameters().into_iter().chain(tensors()) {
        add(Fault::Model, &name, file.bytes());
    }
    for (name, file) in vocabularies() {
        add(Fault::Vocabulary, name, file.bytes());
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let file = llama().filled("blk.0.attn_q.weight", &[8, 8], F32, value);
        add(Fault::Weight, &format!("weights {value}"), file.bytes());
    }
    cases
}

fn containers() -> Vec<(&'static str, Vec<u8>)> {
    let shaped = |dims: &[u64]| Raw::header(3, 1, 0).tensor("t", dims, F32, 0).data(32, 256).0;
    let twice = Raw::header(3, 0, 2).key("k", U32).u32(1).key("k", U32).u32(2);
    let deep = (0..60_000).fold(Raw::header(3, 0, 1).key("k", 9), |raw, _| raw.array(9, 1));
    vec![
        ("empty file", Vec::new()),
        ("keys beyond the file", Raw::header(3, 0, u64::MAX).0),
        ("tensors beyond the file", Raw::header(3, u64::MAX, 0).0),
        ("string beyond the file", Raw::header(3, 0, 1).key("k", STRING).u64(u64::MAX).0),
        ("array beyond the file", Raw::header(3, 0, 1).key("k", 9).array(STRING, 1 << 60).0),
        ("arrays nested deep", deep.0),
        ("duplicate key", twice.0),
        ("no elements", shaped(&[4, 0])),
        ("product wraps", shaped(&[1 << 32, 1 << 32])),
        ("size wraps", shaped(&[1 << 62])),
        ("tensor beyond the file", shaped(&[1 << 20])),
        ("half a model", llama().bytes()[..700].to_vec()),
    ]
}

/// Parameters that make no sense.
fn parameters() -> Vec<(String, File)> {
    let mut cases = Vec::new();
    let mut add = |name: String, file| cases.push((name, file));
    let arch = |key: &str| format!("llama.{key}");
    for key in [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "rope.dimension_count",
        "attention.key_length",
    ] {
        add(format!("{key} 0"), llama().set(&arch(key), 0u32));
        add(format!("{key} -1"), llama().set(&arch(key), -1i32));
        if key != "context_length" {
            add(format!("{key} 10^9"), llama().set(&arch(key), 1_000_000_000u32));
        }
        add(format!("{key} 2^63"), llama().set(&arch(key), 1u64 << 63));
        add(format!("{key} a string"), llama().set(&arch(key), "8"));
        add(format!("{key} an empty list"), llama().set(&arch(key), Vec::<u32>::new()));
        add(format!("{key} a list that differs"), llama().set(&arch(key), vec![8u32, 16]));
        add(format!("{key} strings"), llama().set(&arch(key), vec!["a"; 1000]));
    }
    for key in
        ["block_count", "context_length", "embedding_length", "feed_forward_length"].map(arch)
    {
        add(format!("no {key}"), llama().without(&key));
    }
    for (key, value) in [
        ("attention.head_count", 3u32),
        ("attention.head_count_kv", 3),
        ("attention.head_count_kv", 8),
        ("attention.value_length", 3),
        ("rope.dimension_count", 1),
        ("rope.dimension_count", 4),
    ] {
        add(format!("{key} {value}"), llama().set(&arch(key), value));
    }
    for value in [f32::NAN, f32::INFINITY, -1e-5, 0.0] {
        let key = "attention.layer_norm_rms_epsilon";
        add(format!("{key} {value}"), llama().set(&arch(key), value));
        let key = "rope.freq_base";
        add(format!("{key} {value}"), llama().set(&arch(key), value));
    }
    for value in [f32::NAN, f32::INFINITY, -2.0] {
        let key = "rope.scaling.factor";
        add(format!("{key} {value}"), llama().set(&arch(key), value));
    }
    add("rope.scaling.type".to_owned(), llama().set(&arch("rope.scaling.type"), "unheard of"));
    add("no epsilon".to_owned(), llama().without(&arch("attention.layer_norm_rms_epsilon")));
    add("no architecture".to_owned(), llama().without("general.architecture"));
    add("unknown architecture".to_owned(), llama().set("general.architecture", "mamba"));
    add("architecture a number".to_owned(), llama().set("general.architecture", 7u32));
    let experts = || llama().set(&arch("expert_count"), 4u32);
    add("experts without a number used".to_owned(), experts());
    for (what, file) in [
        ("more experts used than there are", experts().set(&arch("expert_used_count"), 5u32)),
        ("no experts used", experts().set(&arch("expert_used_count"), 0u32)),
        ("experts without tensors", experts().set(&arch("expert_used_count"), 2u32)),
        (
            "10^9 experts",
            experts()
                .set(&arch("expert_count"), 1_000_000_000u32)
                .set(&arch("expert_used_count"), 2u32),
        ),
        ("windows below zero", llama().set(&arch("attention.sliding_window"), -4i32)),
        (
            "a pattern of windows that does not fit",
            llama()
                .set(&arch("attention.sliding_window"), 4u32)
                .set(&arch("attention.sliding_window_pattern"), vec![1i32, 0]),
        ),
    ] {
        add(what.to_owned(), with_router(file, what));
    }
    let gemma = llama().set("general.architecture", "gemma3");
    add("another architecture's name".to_owned(), gemma);
    cases
}

/// The router of experts, where the case is about experts: without it the layer would be dense.
fn with_router(file: File, what: &str) -> File {
    match what.contains("expert") {
        true => file.tensor("blk.0.ffn_gate_inp.weight", &[4, 8], F32),
        false => file,
    }
}

/// Tensors that are not what the parameters say.
fn tensors() -> Vec<(String, File)> {
    let mut cases = Vec::new();
    for name in [
        "token_embd.weight",
        "output_norm.weight",
        "blk.0.attn_norm.weight",
        "blk.0.attn_q.weight",
        "blk.0.attn_v.weight",
        "blk.0.attn_output.weight",
        "blk.0.ffn_gate.weight",
        "blk.0.ffn_down.weight",
    ] {
        cases.push((format!("no {name}"), llama().without(name)));
        for shape in [&[][..], &[3], &[8, 9], &[2, 2, 2], &[1, 1, 1, 8]] {
            let case = (format!("{name} {shape:?}"), llama().tensor(name, shape, F32));
            cases.push(case);
        }
        let shape: &[u64] = if name.contains("norm") { &[8] } else { &[8, 8] };
        cases.push((format!("{name} of integers"), llama().tensor(name, shape, TENSOR_I32)));
    }
    let mut add = |name: &str, file| cases.push((name.to_owned(), file));
    add("embedding of integers", llama().tensor("token_embd.weight", &[6, 8], TENSOR_I32));
    add("values of integers", llama().tensor("blk.0.attn_v.weight", &[4, 8], TENSOR_I32));
    add("rows of the embedding", llama().tensor("token_embd.weight", &[7, 8], F32));
    add("output of another shape", llama().tensor("output.weight", &[6, 16], F32));
    add("frequencies of another length", llama().tensor("rope_freqs.weight", &[3], F32));
    add("frequencies of zero", llama().tensor("rope_freqs.weight", &[1], F32));
    add("frequencies of integers", llama().tensor("rope_freqs.weight", &[1], TENSOR_I32));
    // One megabyte of it is five million numbers.
    let many = (1 << 20) / 54 * 256;
    add("many frequencies", llama().tensor("rope_freqs.weight", &[many], TQ1_0));
    add("many norms", llama().tensor("output_norm.weight", &[many], TQ1_0));
    let fused = || llama().without("blk.0.attn_q.weight");
    for (shape, kind) in
        [(&[][..], F32), (&[16], F32), (&[16, 9], F32), (&[2, 8, 8], F32), (&[15, 8], F32)]
    {
        add(
            &format!("fused projections {shape:?}"),
            fused().tensor("blk.0.attn_qkv.weight", shape, kind),
        );
    }
    add("fused projections in blocks", fused().tensor("blk.0.attn_qkv.weight", &[256], Q4_K));
    add("a row of blocks", fused().tensor("blk.0.attn_qkv.weight", &[16, 32], Q8_0));
    cases
}

/// Vocabularies that make no sense.
fn vocabularies() -> Vec<(&'static str, File)> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    vec![
        ("scores of integers", llama().set("tokenizer.ggml.scores", vec![1i8; 6])),
        ("scores that are few", llama().set("tokenizer.ggml.scores", vec![1f32; 5])),
        ("types that are few", llama().set("tokenizer.ggml.token_type", vec![1i32; 5])),
        ("types of strings", llama().set("tokenizer.ggml.token_type", vec!["a"; 6])),
        ("byte -1", llama().set(TOKENS, vec!["<unk>", "<s>", "</s>", "<0x-1>", "▁", "a"])),
        ("byte 256", llama().set(TOKENS, vec!["<unk>", "<s>", "</s>", "<0x100>", "▁", "a"])),
        ("a model unheard of", llama().set("tokenizer.ggml.model", "unheard of")),
        ("no merges", llama().set("tokenizer.ggml.model", "gpt2")),
        (
            "merges of tokens that are missing",
            llama()
                .set("tokenizer.ggml.model", "gpt2")
                .set("tokenizer.ggml.pre", "gpt-2")
                .set("tokenizer.ggml.merges", vec!["a b"]),
        ),
    ]
}

/// Files with ids of special tokens that the vocabulary does not have, which are ignored.
pub fn ids_out_of_range() -> Vec<Vec<u8>> {
    let key = |name: &str| format!("tokenizer.ggml.{name}_token_id");
    let mut files = Vec::new();
    for name in ["bos", "eos", "unknown", "padding"] {
        files.push(llama().set(&key(name), 6u32).bytes());
        files.push(llama().set(&key(name), u32::MAX).bytes());
        files.push(llama().set(&key(name), -1i32).bytes());
        files.push(llama().set(&key(name), i64::MIN).bytes());
    }
    files
}

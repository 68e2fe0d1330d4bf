//! Writes the seed corpora under `corpus/`: `cargo run --bin seeds`.
//!
//! Seeds are small and valid, or valid but for one thing, so that a mutation of a few bytes reaches
//! far into a parser.

use blocks::DType;
use gguf::{Array, Builder, Value};

fn main() -> std::io::Result<()> {
    write("gguf_reader", gguf_reader())?;
    write("safetensors", safetensors())?;
    write("model_config", model_config())?;
    write("api_requests", api_requests())?;
    write("answer_text", answer_text())?;
    write("constraint", constraint())
}

fn write(target: &str, seeds: Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    let folder = fuzz::seeds(target);
    std::fs::create_dir_all(&folder)?;
    for (name, bytes) in seeds {
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

/// The file that was declared, its tensors filled with a pattern.
fn file(builder: Builder) -> Vec<u8> {
    let mut writer = builder.write_to(Vec::new()).expect("a sound declaration");
    while let Some(size) = writer.next_tensor().map(|t| t.size) {
        let data: Vec<u8> = (0..size).map(|i| (i * 37 % 251) as u8).collect();
        writer.append(&data).expect("as many bytes as declared");
    }
    writer.finish().expect("all tensors are there")
}

fn gguf_reader() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut seed = |name: &str, bytes: Vec<u8>| seeds.push((format!("{name}.gguf"), bytes));

    seed("empty", file(Builder::new()));
    for dtype in DType::ALL.iter().filter(|d| d.ggml_id().is_some()) {
        let mut b = Builder::new();
        b.tensor("t", [2, dtype.block_len()], *dtype).expect("one block a row");
        seed(&format!("type-{}", dtype.name().to_lowercase()), file(b));
    }

    let mut values = Builder::new();
    for (i, v) in scalars().into_iter().enumerate() {
        values.set(format!("v{i}"), v);
    }
    seed("values", file(values));
    let mut arrays = Builder::new();
    for (i, v) in lists().into_iter().enumerate() {
        arrays.set(format!("a{i}"), v);
    }
    seed("arrays", file(arrays));

    let mut model = Builder::new();
    model.set("general.architecture", "llama").set("general.alignment", 64u32);
    model.set("llama.block_count", 1u32).set("llama.rope.freq_base", 10_000f32);
    model.set("tokenizer.ggml.tokens", vec!["<unk>", "▁a", "<0x0A>"]);
    model.set("tokenizer.ggml.scores", vec![0f32, -1.0, 0.0]);
    model.set("tokenizer.ggml.token_type", vec![2i32, 1, 6]);
    for (name, shape) in [("token_embd.weight", vec![3, 4]), ("output_norm.weight", vec![4])] {
        model.tensor(name, shape, DType::F32).expect("a sound tensor");
    }
    model.tensor("blk.0.attn_q.weight", [2, 1, 2, 4], DType::F16).expect("a sound tensor");
    model.tensor("scalar", [], DType::F32).expect("a sound tensor");
    seed("model", file(model.clone()));
    let mut version_2 = file(model.clone());
    version_2[4] = 2;
    seed("version-2", version_2);
    let mut version_1 = file(model.clone());
    version_1[4] = 1;
    seed("version-1", version_1);
    model.set("split.no", 0u16).set("split.count", 2u16).set("split.tensors.count", 9i32);
    seed("split", file(model));

    seed("nested", nested());
    seeds
}

fn safetensors() -> Vec<(String, Vec<u8>)> {
    let container = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 1);
        bytes
    };
    let tensor = |dtype: &str, shape: &str, begin: usize, end: usize| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let two = format!(
        r#"{{"__metadata__":{{"format":"pt"}},"a":{},"b":{}}}"#,
        tensor("F32", "[2,2]", 0, 16),
        tensor("BF16", "[3]", 16, 22)
    );
    let twice =
        format!(r#"{{"a":{},"a":{}}}"#, tensor("U8", "[1]", 0, 1), tensor("U8", "[1]", 1, 2));
    let empty = format!(r#"{{"a":{}}}"#, tensor("F16", "[0]", 0, 0));
    let scalar = format!(r#"{{"a":{}}}     "#, tensor("I64", "[]", 0, 8));
    [("two", &two, 22), ("twice", &twice, 2), ("empty", &empty, 0), ("scalar", &scalar, 8)]
        .map(|(name, header, data)| (format!("{name}.safetensors"), container(header, data)))
        .into()
}

fn model_config() -> Vec<(String, Vec<u8>)> {
    let seeds = [
        (
            "llama",
            r#"{"model_type":"llama","hidden_size":64,"num_attention_heads":4,"num_hidden_layers":2,"num_key_value_heads":2,"vocab_size":320,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64}}"#,
        ),
        (
            "mistral",
            r#"{"model_type":"mistral","hidden_size":64,"num_attention_heads":4,"num_key_value_heads":1,"num_hidden_layers":1,"sliding_window":16,"rope_parameters":{"rope_type":"yarn","factor":4.0,"rope_theta":1e4,"beta_fast":32,"mscale":1.0,"mscale_all_dim":0.5}}"#,
        ),
        (
            "qwen3_moe",
            r#"{"architectures":["Qwen3MoeForCausalLM"],"hidden_size":64,"num_attention_heads":4,"num_key_value_heads":4,"num_hidden_layers":2,"num_experts":4,"num_experts_per_tok":2,"mlp_only_layers":[0],"decoder_sparse_step":1,"norm_topk_prob":true}"#,
        ),
        (
            "gemma3",
            r#"{"model_type":"gemma3","text_config":{"num_hidden_layers":2,"layer_types":["full_attention","sliding_attention"],"sliding_window":8,"rope_local_base_freq":1e4,"query_pre_attn_scalar":16,"final_logit_softcapping":null}}"#,
        ),
        (
            "phi3",
            r#"{"model_type":"phi3","hidden_size":8,"num_attention_heads":2,"num_key_value_heads":2,"num_hidden_layers":1,"original_max_position_embeddings":64,"partial_rotary_factor":0.5,"rope_scaling":{"type":"longrope","long_factor":[1.5],"short_factor":[1.0]}}"#,
        ),
        ("gpt2", r#"{"model_type":"gpt2","n_embd":8,"n_head":2,"n_layer":1,"n_inner":null}"#),
        (
            "opt",
            r#"{"model_type":"opt","hidden_size":8,"num_attention_heads":2,"num_hidden_layers":1,"word_embed_proj_dim":4,"do_layer_norm_before":false}"#,
        ),
        ("bert", r#"{"model_type":"bert","hidden_size":8,"num_attention_heads":2}"#),
    ];
    seeds.map(|(name, json)| (format!("{name}.json"), json.into())).into()
}

fn api_requests() -> Vec<(String, Vec<u8>)> {
    let seeds = [
        (
            "completion",
            r#"{"model":"m","prompt":["a","b"],"max_tokens":5,"n":2,"best_of":3,"temperature":0.5,"stop":"x","logit_bias":{"1":-1},"logprobs":2,"echo":true,"seed":7,"stream":false}"#,
        ),
        (
            "tokens",
            r#"{"model":"m","prompt":[[1,2],[3]],"min_p":0.1,"top_k":4,"ignore_eos":true,"stop_token_ids":[2],"bad_words":["a"],"guided_regex":"a+","priority":1,"cache_salt":"s","request_id":"r","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            "chat",
            r#"{"model":"m","messages":[{"role":"system","content":"a"},{"role":"user","content":[{"type":"text","text":"b"}]},{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"d","tool_call_id":"c"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"},"strict":true}}],"tool_choice":{"type":"function","function":{"name":"f"}},"parallel_tool_calls":false,"logprobs":true,"top_logprobs":3,"max_completion_tokens":9}"#,
        ),
        (
            "schema",
            r#"{"model":"m","messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{"type":"object"},"strict":true}},"reasoning_effort":"low","chat_template_kwargs":{"x":1},"user":"u"}"#,
        ),
        (
            "responses",
            r#"{"model":"m","instructions":"i","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"c","output":"o"}],"tools":[{"type":"function","name":"f","parameters":{}}],"text":{"format":{"type":"text"}},"max_output_tokens":16}"#,
        ),
        (
            "embedding",
            r#"{"model":"m","input":["a","b"],"encoding_format":"base64","dimensions":8}"#,
        ),
        (
            "tokenize",
            r#"{"model":"m","messages":[{"role":"user","content":"a"}],"add_generation_prompt":true}"#,
        ),
        ("detokenize", r#"{"model":"m","tokens":[1,2,3]}"#),
    ];
    seeds.map(|(name, json)| (format!("{name}.json"), json.into())).into()
}

/// Three bytes that say how the text is read, and the text.
fn answer_text() -> Vec<(String, Vec<u8>)> {
    let texts = [
        (
            "hermes",
            "<think>hm</think>\n\nWell. <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"é\"}}\n</tool_call> x",
        ),
        (
            "llama3",
            "{\"name\": \"f\", \"parameters\": {\"x\": 1}}; {\"name\": \"f\", \"parameters\": {}}",
        ),
        (
            "python_tag",
            "a <|python_tag|>{\"type\": \"function\", \"name\": \"g\", \"parameters\": {}}",
        ),
        (
            "mistral",
            "[THINK]a[/THINK][TOOL_CALLS] [{\"name\": \"f\", \"arguments\": \"{}\"}, {\"name\": \"g\"}]",
        ),
        ("none", "{\"city\": \"Rome\"} <tool_call>{bad}<tool_call> </thi"),
    ];
    let seeds = texts.iter().enumerate().map(|(i, (name, text))| {
        let mut bytes = vec![i as u8, 5, 17];
        bytes.extend_from_slice(text.as_bytes());
        (format!("{name}.txt"), bytes)
    });
    seeds.collect()
}

/// Two bytes that say what it is and which tokens are chosen, and the constraint.
fn constraint() -> Vec<(String, Vec<u8>)> {
    let object = r#"{"type":"object","properties":{"a":{"type":"integer","minimum":0},"b":{"enum":["x",null]}},"required":["a"],"additionalProperties":false}"#;
    let recursive = r##"{"$ref":"#/$defs/n","$defs":{"n":{"anyOf":[{"type":"null"},{"type":"array","items":{"$ref":"#/$defs/n"},"maxItems":3}]}}}"##;
    let strings = r#"{"allOf":[{"type":"string","pattern":"^[a-c]{2,5}$"},{"minLength":3}]}"#;
    let lark =
        "start: expr\nexpr: NUM | \"(\" expr OP expr \")\"\nNUM: /[0-9]{1,3}/\nOP: \"+\" | \"*\"\n";
    let seeds: [(&str, u8, &str); 9] = [
        ("object", 0, object),
        ("recursive", 0, recursive),
        ("strings", 0, strings),
        ("regex", 1, r"(?i)\w+@[a-z]{2,4}\.(com|org)|\p{L}*"),
        ("lark", 3, lark),
        ("choice", 5, "yes|no||maybe"),
        ("tools", 6 + 16, object),
        ("optional-tools", 7 + 8, object),
        ("after-thoughts", 32, object),
    ];
    let bytes = |kind: u8, text: &str| [&[kind, 3], text.as_bytes()].concat();
    seeds.map(|(name, kind, text)| (format!("{name}.txt"), bytes(kind, text))).into()
}

fn scalars() -> Vec<Value> {
    vec![
        u8::MAX.into(),
        i8::MIN.into(),
        u16::MAX.into(),
        i16::MIN.into(),
        u32::MAX.into(),
        i32::MIN.into(),
        u64::MAX.into(),
        i64::MIN.into(),
        f32::NAN.into(),
        f64::NEG_INFINITY.into(),
        true.into(),
        "text".into(),
    ]
}

fn lists() -> Vec<Value> {
    vec![
        vec![1u8, 2].into(),
        vec![-1i8].into(),
        vec![1u16].into(),
        vec![-1i16].into(),
        vec![1u32, 2, 3].into(),
        vec![-1i32].into(),
        vec![1u64].into(),
        vec![-1i64].into(),
        vec![0.5f32].into(),
        vec![0.5f64].into(),
        vec![true, false].into(),
        Array::from_strings([&b"ab"[..], b"", b"\xff"]).into(),
    ]
}

/// Arrays within arrays, which the writer does not make: the only key is `k`, of type 9.
fn nested() -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    let u64 = |out: &mut Vec<u8>, v: u64| out.extend(v.to_le_bytes());
    let u32 = |out: &mut Vec<u8>, v: u32| out.extend(v.to_le_bytes());
    u64(&mut out, 0);
    u64(&mut out, 1);
    u64(&mut out, 1);
    out.push(b'k');
    u32(&mut out, 9);
    for (kind, len) in [(9, 2), (9, 1), (8, 0), (9, 1), (0, 3)] {
        u32(&mut out, kind);
        u64(&mut out, len);
    }
    out.extend([1, 2, 3]);
    out
}

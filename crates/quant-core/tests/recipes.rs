//! Against llama.cpp: the types that it chooses for made-up models (`fixtures/make_recipes.cpp` asked
//! it), and those of every tensor of the files that it made.

use std::collections::HashMap;

use blocks::DType;
use quant_core::*;

/// A model of the fixture, and what llama.cpp chose for it.
#[derive(Default)]
struct Case {
    facts: ModelFacts,
    once: Vec<(String, Vec<usize>)>,
    each: Vec<(String, Vec<usize>)>,
    chosen: Vec<(FileType, String)>,
}

fn read_fixture() -> (HashMap<char, DType>, Vec<Case>) {
    let (mut types, mut cases) = (HashMap::new(), Vec::<Case>::new());
    for line in include_str!("fixtures/recipes.txt").lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split(' ');
        let kind = words.next().expect("a kind");
        let tensor = |mut words: std::str::Split<'_, char>| {
            let name = words.next().expect("a name").to_owned();
            (name, words.rev().map(|n| n.parse().expect("a dimension")).collect())
        };
        match kind {
            "types" => {
                for word in words {
                    let (letter, name) = word.split_once('=').expect("letter=name");
                    types.insert(
                        letter.chars().next().expect("a letter"),
                        name.parse().expect("a type"),
                    );
                }
            }
            "model" => {
                let arch = words.next().expect("an architecture").to_owned();
                let numbers: Vec<usize> = words.map(|n| n.parse().expect("a number")).collect();
                let [n_layer, n_head, n_head_kv, n_expert] = numbers[..] else {
                    panic!("four numbers")
                };
                let facts = ModelFacts { arch, n_layer, n_head, n_head_kv, n_expert };
                cases.push(Case { facts, ..Default::default() });
            }
            _ => {
                let case = cases.last_mut().expect("a model first");
                match kind {
                    "once" => case.once.push(tensor(words)),
                    "each" => case.each.push(tensor(words)),
                    "chosen" => {
                        let file_type = words.next().expect("a name").parse().expect("a file type");
                        let rest: Vec<&str> = words.collect();
                        let mut letters = String::new();
                        if rest[0] == "error" {
                            letters = "error".into();
                        } else {
                            for group in rest {
                                let (times, group) = group.split_once('x').unwrap_or(("1", group));
                                letters += &group.repeat(times.parse().expect("a count"));
                            }
                        }
                        case.chosen.push((file_type, letters));
                    }
                    other => panic!("unknown line {other}"),
                }
            }
        }
    }
    (types, cases)
}

#[test]
fn every_mixture_of_every_model_as_llama_cpp_has_it() {
    let (types, cases) = read_fixture();
    let mut checked = 0;
    for case in &cases {
        let mut tensors = case.once.clone();
        for layer in 0..case.facts.n_layer {
            tensors.extend(
                case.each
                    .iter()
                    .map(|(name, shape)| (format!("blk.{layer}.{name}"), shape.clone())),
            );
        }
        let layer = |name: &str| {
            name.strip_prefix("blk.")
                .map(|n| n.split('.').next().expect("a layer").parse::<i64>().expect("a number"))
        };
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&i| (layer(&tensors[i].0).unwrap_or(-1), tensors[i].0.clone()));
        // A source type that no recipe chooses shows which tensors are left alone.
        let facts: Vec<TensorFacts<'_>> = tensors
            .iter()
            .map(|(name, shape)| TensorFacts { name, shape, dtype: DType::F64 })
            .collect();
        for (file_type, expected) in &case.chosen {
            let chosen = choose(*file_type, &case.facts, &facts, &RecipeOptions::default());
            if expected == "error" {
                assert!(
                    matches!(chosen, Err(RecipeError::NoFallback { .. })),
                    "{file_type} {:?}",
                    case.facts
                );
                continue;
            }
            let chosen = chosen.expect("a choice");
            assert_eq!(expected.len(), tensors.len());
            for (&i, letter) in order.iter().zip(expected.chars()) {
                let expected = if letter == '-' { DType::F64 } else { types[&letter] };
                let (name, got) = (&tensors[i].0, chosen[i].dtype);
                assert_eq!(got, expected, "{file_type} of {:?}: {name}", case.facts);
                checked += 1;
            }
        }
    }
    assert!(cases.len() >= 16 && checked > 50_000, "{} {checked}", cases.len());
}

/// A llama of 16 layers.
fn llama() -> (ModelFacts, Vec<(String, Vec<usize>)>) {
    let facts =
        ModelFacts { arch: "llama".into(), n_layer: 16, n_head: 32, n_head_kv: 32, n_expert: 0 };
    let mut tensors = vec![
        ("output.weight".to_owned(), vec![1000, 2048]),
        ("token_embd.weight".to_owned(), vec![1000, 2048]),
    ];
    for i in 0..16 {
        for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"] {
            tensors.push((format!("blk.{i}.{name}.weight"), vec![2048, 2048]));
        }
    }
    (facts, tensors)
}

fn chosen(file_type: FileType, options: &RecipeOptions) -> HashMap<String, Choice> {
    let (facts, tensors) = llama();
    let borrowed: Vec<TensorFacts<'_>> = tensors
        .iter()
        .map(|(name, shape)| TensorFacts { name, shape, dtype: DType::F16 })
        .collect();
    let choices = choose(file_type, &facts, &borrowed, options).expect("a choice");
    tensors.iter().map(|(name, _)| name.clone()).zip(choices).collect()
}

#[test]
fn importances_change_the_rules() {
    let with = RecipeOptions { has_importance: true, ..Default::default() };
    let without = RecipeOptions::default();
    for (file_type, name, plain, weighted) in [
        (FileType::Q4_0, "blk.1.ffn_down.weight", DType::Q4_0, DType::Q4_1),
        (FileType::Q5_0, "blk.1.ffn_down.weight", DType::Q5_0, DType::Q5_1),
        (FileType::Q4_0, "blk.2.ffn_down.weight", DType::Q4_0, DType::Q4_0),
        (FileType::IQ4_XS, "blk.0.ffn_down.weight", DType::Q5_K, DType::IQ4_XS),
        (FileType::IQ3_XXS, "blk.0.ffn_down.weight", DType::Q4_K, DType::IQ3_XXS),
        (FileType::IQ3_XXS, "blk.9.attn_v.weight", DType::IQ3_S, DType::IQ3_XXS),
    ] {
        assert_eq!(chosen(file_type, &without)[name].dtype, plain, "{file_type} {name}");
        assert_eq!(chosen(file_type, &with)[name].dtype, weighted, "{file_type} {name}");
    }
    assert!(chosen(FileType::Q2_K_S, &without)["blk.9.attn_q.weight"].needs_importance);
    assert!(!chosen(FileType::Q2_K, &without)["blk.9.attn_q.weight"].needs_importance);
    assert!(!chosen(FileType::IQ2_XXS, &without)["token_embd.weight"].needs_importance);
}

#[test]
fn options_depart_from_the_recipe() {
    let regex = |s: &str| regex::Regex::new(s).expect("an expression");
    let options = RecipeOptions {
        overrides: vec![
            Override { pattern: regex(r"blk\.[01]\.ffn"), dtype: DType::Q8_0 },
            Override { pattern: regex("ffn_up"), dtype: DType::F16 },
        ],
        output: Some(DType::BF16),
        token_embedding: Some(DType::Q3_K),
        ..Default::default()
    };
    let types = chosen(FileType::Q4_K_M, &options);
    let dtype = |name: &str| types[name].dtype;
    assert_eq!(dtype("blk.0.ffn_up.weight"), DType::Q8_0);
    assert_eq!(dtype("blk.2.ffn_up.weight"), DType::F16);
    assert_eq!((dtype("output.weight"), dtype("token_embd.weight")), (DType::BF16, DType::Q3_K));
    // A tensor with a type of its own does not count among those that the rules count.
    assert_eq!(dtype("blk.2.ffn_down.weight"), DType::Q6_K);
    assert_eq!(dtype("blk.2.attn_v.weight"), DType::Q4_K);

    let types = chosen(
        FileType::Q4_K_M,
        &RecipeOptions { pure: true, keep_output: true, ..Default::default() },
    );
    assert_eq!(types["output.weight"].dtype, DType::F16);
    assert!(types.iter().all(|(name, c)| name == "output.weight" || c.dtype == DType::Q4_K));
}

#[test]
fn layers_of_experts_must_be_named() {
    let facts =
        ModelFacts { arch: "llama".into(), n_layer: 2, n_head: 4, n_head_kv: 4, n_expert: 8 };
    let of = |name| {
        let tensors = [TensorFacts { name, shape: &[8, 256, 256], dtype: DType::F16 }];
        choose(FileType::Q4_K_M, &facts, &tensors, &RecipeOptions::default())
    };
    assert_eq!(
        of("ffn_down_exps.weight"),
        Err(RecipeError::NoLayer { tensor: "ffn_down_exps.weight".into() })
    );
    let tensor = "blk.2.ffn_down_exps.weight";
    assert_eq!(
        of(tensor),
        Err(RecipeError::LayerOutOfRange { tensor: tensor.into(), layer: 2, n_layer: 2 })
    );
    assert_eq!(of("blk.1.ffn_down_exps.weight").map(|c| c[0].dtype), Ok(DType::Q6_K));
}

//! A second implementation of `Ops`: plain loops in double precision over one sequence, without a
//! cache and without any fused step. It holds the body and the eager implementation together.

mod common;

use std::collections::BTreeSet;
use std::convert::Infallible;

use common::{decoders, fixture, folders, golden, ids, logits, max_abs, open};
use model::config::{DecoderConfig, NormKind};
use model::linear::{Linear, NormLayer};
use model::ops::{Ops, Routed, TopK};
use model::{Decoder, DecoderInput, EncoderInput, Error, ModelConfig, weights};
use ndarray::{Array2, Axis, s};
use tensor::{Activation, AttentionSpec, Rope, RopeLayout, Tensor};

/// Rows of one sequence from its beginning; each sees those before it, or all of them.
struct Reference {
    causal: bool,
}

type Result<T = Array2<f64>> = std::result::Result<T, Infallible>;

/// A weight as a matrix; a vector is one row.
fn matrix(weight: &Tensor) -> Array2<f64> {
    weight.to_f32().unwrap().matrix().unwrap().mapv(f64::from)
}

impl Ops for Reference {
    type Tensor = Array2<f64>;
    type Weight = Tensor;
    type Error = Infallible;

    fn embedding(&mut self, table: &Tensor, ids: &[u32]) -> Result {
        let rows: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
        Ok(matrix(table).select(Axis(0), &rows))
    }

    fn linear(&mut self, layer: &Linear, x: &Array2<f64>) -> Result {
        let y = x.dot(&matrix(&layer.weight).t());
        Ok(layer.bias.iter().fold(y, |y, bias| y + &matrix(bias)))
    }

    fn norm(&mut self, layer: &NormLayer, x: &Array2<f64>) -> Result {
        let weight = matrix(&layer.weight);
        let bias = layer.bias.as_ref().map(matrix);
        let (eps, offset) = (f64::from(layer.norm.eps), f64::from(layer.norm.offset));
        let mut y = x.clone();
        for mut row in y.rows_mut() {
            for mut part in row.exact_chunks_mut(weight.len()) {
                let mean = match layer.norm.kind {
                    NormKind::Rms => 0.0,
                    NormKind::Layer => part.mean().unwrap(),
                };
                let square = part.mapv(|v| (v - mean).powi(2)).mean().unwrap();
                part.mapv_inplace(|v| (v - mean) / (square + eps).sqrt());
                part *= &weight.row(0).mapv(|w| w + offset);
                bias.iter().for_each(|b| part += &b.row(0));
            }
        }
        Ok(y)
    }

    fn rotary(&mut self, mut x: Array2<f64>, head_dim: usize, angles: &Rope) -> Result {
        let pairs = angles.rotary_dim / 2;
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            for mut head in row.exact_chunks_mut(head_dim) {
                for pair in 0..pairs {
                    let (a, b) = match angles.layout {
                        RopeLayout::Interleaved => (2 * pair, 2 * pair + 1),
                        _ => (pair, pair + pairs),
                    };
                    let cos = f64::from(angles.cos[i * pairs + pair]);
                    let sin = f64::from(angles.sin[i * pairs + pair]);
                    let (x, y) = (head[a], head[b]);
                    (head[a], head[b]) = (x * cos - y * sin, y * cos + x * sin);
                }
            }
        }
        Ok(x)
    }

    fn attention(
        &mut self,
        _layer: usize,
        spec: &AttentionSpec,
        q: Array2<f64>,
        k: Array2<f64>,
        v: Array2<f64>,
    ) -> Result {
        let (n, d) = (q.nrows(), spec.head_dim);
        let mut out = Array2::zeros(q.raw_dim());
        for (i, h) in (0..n).flat_map(|i| (0..spec.n_heads).map(move |h| (i, h))) {
            let end = if self.causal { i + 1 } else { n };
            let seen = end.saturating_sub(spec.window.unwrap_or(end))..end;
            let kv = h / (spec.n_heads / spec.n_kv_heads);
            let (of_q, of_kv) = (h * d..(h + 1) * d, kv * d..(kv + 1) * d);
            let query = q.slice(s![i, of_q.clone()]);
            let mut scores = k.slice(s![seen.clone(), of_kv.clone()]).dot(&query);
            scores.mapv_inplace(|score| match (score * f64::from(spec.scale), spec.softcap) {
                (score, Some(cap)) => f64::from(cap) * (score / f64::from(cap)).tanh(),
                (score, None) => score,
            });
            let largest = scores.fold(f64::NEG_INFINITY, |m, &v| m.max(v));
            scores.mapv_inplace(|v| (v - largest).exp());
            scores /= scores.sum();
            out.slice_mut(s![i, of_q]).assign(&scores.dot(&v.slice(s![seen, of_kv])));
        }
        Ok(out)
    }

    fn activation(&mut self, x: Array2<f64>, f: Activation) -> Result {
        Ok(x.mapv(|x| match f {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                0.5 * x
                    * (1.0
                        + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Activation::Relu => x.max(0.0),
            other => panic!("{other:?} is in no reference model"),
        }))
    }

    fn add(&mut self, x: Array2<f64>, y: &Array2<f64>) -> Result {
        Ok(x + y)
    }

    fn mul(&mut self, x: Array2<f64>, y: &Array2<f64>) -> Result {
        Ok(x * y)
    }

    fn scale(&mut self, x: Array2<f64>, factor: f32) -> Result {
        Ok(x * f64::from(factor))
    }

    fn softcap(&mut self, x: Array2<f64>, cap: f32) -> Result {
        Ok(x.mapv(|v| f64::from(cap) * (v / f64::from(cap)).tanh()))
    }

    fn softmax(&mut self, x: Array2<f64>) -> Result {
        let exp = x.mapv(f64::exp);
        self.normalise_rows(exp)
    }

    fn top_k(&mut self, x: &Array2<f64>, k: usize) -> Result<TopK<Array2<f64>>> {
        let ranked = |row: ndarray::ArrayView1<'_, f64>| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            order.truncate(k);
            order
        };
        let columns: Vec<Vec<usize>> = x.rows().into_iter().map(ranked).collect();
        let values = Array2::from_shape_fn((x.nrows(), k), |(i, j)| x[(i, columns[i][j])]);
        Ok(TopK { columns, values })
    }

    fn normalise_rows(&mut self, mut x: Array2<f64>) -> Result {
        x.rows_mut().into_iter().for_each(|mut row| row /= row.sum());
        Ok(x)
    }

    fn gather_rows(&mut self, x: &Array2<f64>, rows: &[usize]) -> Result {
        Ok(x.select(Axis(0), rows))
    }

    fn scatter_add(
        &mut self,
        mut acc: Array2<f64>,
        y: &Array2<f64>,
        weights: &Array2<f64>,
        to: &[Routed],
    ) -> Result {
        for (r, y) in to.iter().zip(y.rows()) {
            acc.row_mut(r.row).scaled_add(weights[(r.row, r.rank)], &y);
        }
        Ok(acc)
    }

    fn zeros_like(&mut self, x: &Array2<f64>) -> Result {
        Ok(Array2::zeros(x.raw_dim()))
    }
}

/// The error function by its series (Abramowitz and Stegun 7.1.6), for arguments of a few units.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / (2.0 * f64::from(n) + 1.0);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

fn to_f32(x: &Array2<f64>) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

#[test]
fn both_implementations_agree_on_decoders() {
    for folder in decoders() {
        let (model, ids) = (open(&folder), ids(&folder));
        let decoder = model.decoder().unwrap();
        let positions: Vec<u32> = (0..ids.len() as u32).collect();
        let lengths = vec![ids.len(); ids.len()];
        let input = DecoderInput { tokens: &ids, positions: &positions, lengths: &lengths };
        let ops = &mut Reference { causal: true };
        let hidden = decoder.hidden(ops, input, None).unwrap();
        let plain = to_f32(&decoder.logits(ops, &hidden).unwrap());
        let eager = logits(&model, &ids);
        let worst = max_abs(&plain, eager.as_f32().unwrap());
        assert!(worst < 2e-5, "{}: {worst:e}", folder.display());
        let expected = golden(&folder, "logits").unwrap();
        assert!(max_abs(&plain, &expected) < 1e-4, "{}", folder.display());

        // The rows wanted are the same rows.
        let wanted = [3, 39];
        let some = decoder.hidden(ops, input, Some(&wanted)).unwrap();
        let error = (some - hidden.select(Axis(0), &wanted)).mapv(f64::abs).sum();
        assert!(error < 1e-9, "{}: {error:e}", folder.display());
    }
}

#[test]
fn both_implementations_agree_on_encoders() {
    for folder in folders() {
        let Some(expected) = golden(&folder, "last_hidden_state") else { continue };
        let (model, ids) = (open(&folder), ids(&folder));
        let positions: Vec<u32> = (0..ids.len() as u32).collect();
        let types = vec![0; ids.len()];
        let input = EncoderInput { tokens: &ids, positions: &positions, types: &types };
        let ops = &mut Reference { causal: false };
        let plain = to_f32(&model.encoder().unwrap().hidden(ops, input).unwrap());
        let eager = model.encode(&[&ids]).unwrap();
        assert!(max_abs(&plain, eager.as_f32().unwrap()) < 2e-5, "{}", folder.display());
        assert!(max_abs(&plain, &expected) < 1e-4, "{}", folder.display());
    }
}

/// Any type can be a model's parameter; each tensor is seen once, under one name.
#[test]
fn parameters_are_made_once_each() {
    for name in ["arch/mixtral", "arch/gemma3", "variants/opt-350m-style", "variants/gpt2-ninner"] {
        let (config, source) = weights::open(&fixture(name)).unwrap();
        let ModelConfig::Decoder(config) = config else { panic!("{name} is a decoder") };
        let mut names = BTreeSet::new();
        let mut elements = 0;
        let decoder = Decoder::load_with(config, &*source, &mut |name, tensor| {
            assert!(names.insert(name.to_owned()), "{name} twice");
            elements += tensor.shape().elements().unwrap();
            Ok(names.len())
        })
        .unwrap();
        assert!(decoder.blocks[0].attention.query.weight > 0);
        let bytes = std::fs::metadata(fixture(name).join("model.safetensors")).unwrap().len();
        let file = bytes as usize / 4;
        assert!(elements <= file && elements * 20 > file * 19, "{name}: {elements} of {file}");
    }
}

#[test]
fn checkpoints_that_do_not_fit_are_refused() {
    let (config, source) = weights::open(&fixture("arch/mixtral")).unwrap();
    let ModelConfig::Decoder(config) = config else { panic!("a decoder") };
    let load = |change: &dyn Fn(&mut DecoderConfig)| {
        let mut changed = config.clone();
        change(&mut changed);
        Decoder::load(changed, &*source).map(|_| ()).unwrap_err()
    };
    let shape = |e: Error, tensor: &str| match e {
        Error::TensorShape { name, .. } => assert_eq!(name, tensor),
        other => panic!("{other}"),
    };
    shape(load(&|c| c.vocab_size += 1), "token_embd.weight");
    shape(load(&|c| c.hidden_size *= 2), "token_embd.weight");
    shape(load(&|c| c.head_dim *= 2), "blk.0.attn_q.weight");
    shape(load(&|c| c.n_kv_heads = 1), "blk.0.attn_k.weight");
    shape(load(&|c| c.experts.as_mut().unwrap().n_experts = 3), "blk.0.ffn_gate_inp.weight");
    shape(
        load(&|c| c.experts.as_mut().unwrap().intermediate_size = 8),
        "blk.0.ffn_gate_exps.weight",
    );
    let missing = |e: Error, tensor: &str| match e {
        Error::MissingTensor { name } => assert_eq!(name, tensor),
        other => panic!("{other}"),
    };
    missing(load(&|c| c.qk_norm = true), "blk.0.attn_q_norm.weight");
    missing(load(&|c| c.experts = None), "blk.0.ffn_gate.weight");
    missing(
        load(&|c| {
            c.n_layers = 3;
            c.windows.push(None);
            c.experts.as_mut().unwrap().layers.push(true);
        }),
        "blk.2.attn_q.weight",
    );
    let invalid = |e: Error, parameter: &str| match e {
        Error::InvalidParameter { key, .. } => assert_eq!(key, parameter),
        other => panic!("{other}"),
    };
    invalid(load(&|c| c.n_layers = 0), "n_layers");
    invalid(load(&|c| c.hidden_size = usize::MAX), "hidden_size");
    invalid(load(&|c| c.n_kv_heads = 3), "n_kv_heads");
    invalid(load(&|c| c.n_heads = 0), "n_heads");
    invalid(load(&|c| c.windows.clear()), "windows");
    invalid(load(&|c| c.experts.as_mut().unwrap().n_used = 5), "experts.n_used");
    invalid(load(&|c| c.experts.as_mut().unwrap().layers.clear()), "experts.layers");
}

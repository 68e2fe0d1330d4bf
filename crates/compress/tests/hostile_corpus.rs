//! Files that are wrong, through the quantizer and the converters: a typed error within 50 ms and
//! 16 MiB, or a file that reads again; never a panic, and nothing left behind.

use std::ops::ControlFlow;
use std::path::Path;

use compress::convert::{Options, gguf_to_hf, hf_to_gguf};
use compress::{Error, QuantizeOptions, quantize};
use gguf::Gguf;
use model::weights::HfModel;
use quant_core::FileType;
use testkit::bounds::{Bounds, PeakAlloc};
use testkit::gguf::{F32, Q8_0};
use testkit::hostile::{self, Fault, llama};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

static BOUNDS: Bounds = Bounds::new(&ALLOCATOR);

fn quantized(input: &Path, output: &Path, name: &str) -> Result<(), Error> {
    let options = QuantizeOptions { threads: 1, ..QuantizeOptions::default() };
    let file_type: FileType = name.parse().unwrap();
    let go_on = &mut |_: &_, _| ControlFlow::Continue(());
    quantize(&Gguf::open(input)?, output, file_type, &options, go_on).map(drop)
}

/// One line, and nothing in the folder but the input.
fn clean(what: &str, error: &Error, folder: &Path) {
    assert!(!error.to_string().contains('\n'), "{what}: {error}");
    let left: Vec<_> = folder.read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["in.gguf"], "{what}");
}

#[test]
fn the_quantizer() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.gguf"), dir.path().join("out.gguf"));
    let alone = BOUNDS.alone();
    for case in hostile::cases() {
        std::fs::write(&input, &case.bytes).unwrap();
        for file_type in ["Q8_0", "Q4_K_M", "IQ3_XS"] {
            let what = format!("{} to {file_type}", case.name);
            match alone.check(&what, || quantized(&input, &output, file_type)) {
                Err(error) => clean(&what, &error, dir.path()),
                // What a model's metadata mean is not asked: the file stays as wrong as it was.
                Ok(()) => {
                    assert_ne!(case.fault, Fault::Container, "{what}");
                    Gguf::open(&output).unwrap();
                    std::fs::remove_file(&output).unwrap();
                }
            }
        }
    }
}

#[test]
fn the_converter_to_folders() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.gguf"), dir.path().join("out"));
    let alone = BOUNDS.alone();
    let convert = || {
        let options = Options { threads: 1, ..Options::default() };
        gguf_to_hf(&input, &output, &options, &mut |_| ControlFlow::Continue(())).map(drop)
    };
    for case in hostile::cases() {
        std::fs::write(&input, &case.bytes).unwrap();
        match alone.check(&case.name, convert) {
            Err(error) => clean(&case.name, &error, dir.path()),
            Ok(()) => {
                let wrong = matches!(case.fault, Fault::Container | Fault::Model);
                assert!(!wrong, "{} was converted", case.name);
                HfModel::open(&output).unwrap();
                std::fs::remove_dir_all(&output).unwrap();
            }
        }
    }
    std::fs::write(&input, llama().bytes()).unwrap();
    alone.check("sound", convert).unwrap();
}

/// A folder whose weights are those of a sound model but for one tensor.
#[test]
fn the_converter_from_folders() {
    let dir = tempfile::tempdir().unwrap();
    let (file, folder) = (dir.path().join("sound.gguf"), dir.path().join("folder"));
    let go_on = &mut |_: compress::Step<'_>| ControlFlow::Continue(());
    std::fs::write(&file, llama().bytes()).unwrap();
    gguf_to_hf(&file, &folder, &Options::default(), go_on).unwrap();
    let out = dir.path().join("out.gguf");
    let convert = || {
        let options = Options { threads: 1, ..Options::default() };
        hf_to_gguf(&folder, &out, &options, &mut |_| ControlFlow::Continue(())).map(drop)
    };
    let alone = BOUNDS.alone();
    alone.check("sound", convert).unwrap();
    std::fs::remove_file(&out).unwrap();

    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
    for wrong in &names {
        for shape in [None, Some(vec![]), Some(vec![3]), Some(vec![5, 9]), Some(vec![2, 2, 2])] {
            let others = tensors.iter().filter(|(name, _)| name != wrong);
            let mut all: Vec<_> = others.map(|(name, view)| (name.to_owned(), view)).collect();
            let bytes = vec![0; 4 * shape.iter().flatten().product::<usize>()];
            if let Some(shape) = &shape {
                let dtype = safetensors::Dtype::F32;
                let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), &bytes);
                all.push((wrong.clone(), view.unwrap()));
            }
            let bytes = safetensors::serialize(all, None).unwrap();
            std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
            let what = format!("{wrong} {shape:?}");
            let error = alone.check(&what, convert).expect_err(&what);
            assert!(matches!(error, Error::Model(_)), "{what}: {error:?}");
            assert!(!out.exists());
        }
    }
}

#[test]
fn values_that_cannot_be_quantized() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.gguf"), dir.path().join("out.gguf"));
    for value in [f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE / 8.0] {
        let file = llama().filled("blk.0.attn_q.weight", &[8, 256], F32, value);
        std::fs::write(&input, file.bytes()).unwrap();
        for name in ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "Q4_0", "Q4_1", "TQ1_0"]
        {
            match quantized(&input, &output, name) {
                Err(error) => clean(name, &error, dir.path()),
                Ok(()) => std::fs::remove_file(&output).unwrap(),
            }
        }
    }
    // Blocks of zeros are sound, and are not quantized again.
    let file = llama().tensor("blk.0.attn_q.weight", &[8, 256], Q8_0);
    std::fs::write(&input, file.bytes()).unwrap();
    let error = quantized(&input, &output, "Q4_K_M").unwrap_err();
    assert!(matches!(error, Error::AlreadyQuantized { .. }), "{error}");
}

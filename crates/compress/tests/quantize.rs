//! Whole files against those that llama-quantize made from the same model.

use std::ops::ControlFlow;

use compress::{Error, QuantizeOptions, plan, quantize};
use gguf::Gguf;
use quant_core::FileType;

/// The encodings that llama.cpp reproduces byte for byte have equal tensors; the others at least
/// the same types.
#[test]
fn files_are_those_of_llama_quantize() {
    let Some(folder) = testkit::shared("oracle/gguf") else { return };
    let input = Gguf::open(folder.join("bard-f16.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K", "IQ4_XS"] {
        let file_type: FileType = name.parse().unwrap();
        let out = dir.path().join(name);
        let mut last = 0.0;
        let done =
            quantize(&input, &out, file_type, &QuantizeOptions::default(), &mut |_, share| {
                assert!((last..=1.0).contains(&share));
                last = share;
                ControlFlow::Continue(())
            });
        let made = Gguf::open(&out).unwrap();
        let reference = Gguf::open(folder.join(format!("bard-{name}.gguf"))).unwrap();
        assert_eq!(
            done.unwrap().bytes_after(),
            made.tensors().iter().map(|t| t.size).sum::<usize>()
        );
        assert_eq!(made.tensors().len(), reference.tensors().len());
        for t in reference.tensors() {
            let ours = made.tensor(&t.name).unwrap();
            assert_eq!((ours.dtype, &ours.shape), (t.dtype, &t.shape), "{name} {}", t.name);
            assert!(made.data(ours) == reference.data(t), "{name}: the bytes of {} differ", t.name);
        }
        for key in ["general.file_type", "general.quantization_version"] {
            assert_eq!(made.metadata().get(key), reference.metadata().get(key), "{name} {key}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_written() {
    let model = testkit::workspace().join("assets/bard-f16.gguf");
    let input = Gguf::open(&model).unwrap();
    let options = QuantizeOptions::default();
    let go = &mut |_: &_, _| ControlFlow::Continue(());
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let copy = dir.path().join("copy.gguf");
    std::fs::copy(&model, &copy).unwrap();
    let opened = Gguf::open(&copy).unwrap();
    assert!(matches!(
        quantize(&opened, &copy, FileType::Q8_0, &options, go),
        Err(Error::SameFile { .. })
    ));
    assert!(matches!(plan(&input, FileType::IQ2_XS, &options), Err(Error::NeedsImportance { .. })));
    assert!(matches!(plan(&input, FileType::IQ3_S, &options), Err(Error::CannotEncode { .. })));
    let stop = &mut |_: &_, share: f64| match share < 0.5 {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    assert!(quantize(&input, &out, FileType::Q8_0, &options, stop).is_err());
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "a cancelled file leaves nothing"
    );
    quantize(&input, &out, FileType::Q8_0, &options, go).unwrap();
    let small = Gguf::open(&out).unwrap();
    assert!(matches!(plan(&small, FileType::Q4_0, &options), Err(Error::AlreadyQuantized { .. })));
    let again = QuantizeOptions { allow_requantize: true, ..options };
    assert!(plan(&small, FileType::Q4_0, &again).unwrap().bits_per_weight() < 6.0);
}

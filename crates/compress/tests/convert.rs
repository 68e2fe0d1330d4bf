//! Folder to GGUF and back: the logits stay those of transformers, the tensors those of the folder.

mod common;

use common::{distance, folders, go_on, tensors};
use compress::convert::{Options, gguf_to_hf, hf_to_gguf};
use std::ops::ControlFlow;
use tensor::DType;

#[test]
fn logits_survive_the_way_to_gguf_and_back() {
    let mut wrong = Vec::new();
    for folder in folders() {
        let dir = tempfile::tempdir().unwrap();
        let (file, back) = (dir.path().join("model.gguf"), dir.path().join("back"));
        let exact = Options { dtype: Some(DType::F32), ..Options::default() };
        hf_to_gguf(&folder, &file, &exact, &mut go_on())
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        gguf_to_hf(&file, &back, &Options::default(), &mut go_on()).unwrap();
        let (there, again) = (distance(&file, &folder), distance(&back, &folder));
        println!("{there:9.2e} {again:9.2e} {}", folder.display());
        if there > 1e-4 || again > 1e-4 {
            wrong.push((folder, there, again));
        }
    }
    assert!(wrong.is_empty(), "beyond 1e-4: {wrong:?}");
}

#[test]
fn tensors_come_back_as_they_were() {
    for folder in folders() {
        let dir = tempfile::tempdir().unwrap();
        let (file, back) = (dir.path().join("model.gguf"), dir.path().join("back"));
        hf_to_gguf(&folder, &file, &Options::default(), &mut go_on()).unwrap();
        gguf_to_hf(&file, &back, &Options::default(), &mut go_on()).unwrap();
        let (before, mut after) = (tensors(&folder), tensors(&back));
        for (name, (dtype, shape, bytes)) in &before {
            // A head or pooler that GGUF files do not hold.
            if name.starts_with("cls.") || name.starts_with("pooler.") {
                continue;
            }
            // Written under its path in the model alone.
            let plain = name.strip_prefix("bert.").unwrap_or(name);
            let got = after.remove(plain).unwrap_or_else(|| panic!("{folder:?}: no {name}"));
            assert_eq!((&got.0, &got.1), (dtype, shape), "{folder:?}: {name}");
            if got.2 == *bytes {
                continue;
            }
            // One was added to these norms, and taken away: that costs the last bits of F32.
            assert!(name.ends_with("norm.weight") && dtype == "F32", "{folder:?}: {name}");
            let values = |b: &[u8]| -> Vec<f32> {
                b.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            };
            for (a, b) in values(&got.2).iter().zip(values(bytes)) {
                assert!((a - b).abs() < 1.3e-7, "{folder:?}: {name}: {a} {b}");
            }
        }
        assert!(after.is_empty(), "{folder:?}: {:?}", after.keys());
    }
}

#[test]
fn a_cancelled_conversion_leaves_nothing() {
    let folder = folders().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let (file, back) = (dir.path().join("model.gguf"), dir.path().join("back"));
    let mut stop = |_: compress::Step<'_>| ControlFlow::Break(());
    let error = hf_to_gguf(&folder, &file, &Options::default(), &mut stop).unwrap_err();
    assert!(matches!(error, compress::Error::Cancelled));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    hf_to_gguf(&folder, &file, &Options::default(), &mut go_on()).unwrap();
    let error = gguf_to_hf(&file, &back, &Options::default(), &mut stop).unwrap_err();
    assert!(matches!(error, compress::Error::Cancelled));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    gguf_to_hf(&file, &back, &Options::default(), &mut go_on()).unwrap();
    let error = gguf_to_hf(&file, &back, &Options::default(), &mut go_on()).unwrap_err();
    assert!(matches!(error, compress::Error::OutputExists { .. }));
}

/// The same tensors, byte for byte, and the same metadata as llama.cpp's converter makes.
#[test]
fn bard_becomes_the_file_that_llama_cpp_makes() {
    let (Some(folder), Some(oracle)) =
        (testkit::shared("oracle/bard"), testkit::shared("oracle/gguf/bard-f16.gguf"))
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bard.gguf");
    let report = hf_to_gguf(&folder, &path, &Options::default(), &mut go_on()).unwrap();
    let (ours, theirs) = (gguf::Gguf::open(&path).unwrap(), gguf::Gguf::open(&oracle).unwrap());
    assert_eq!(report.tensors, theirs.tensors().len());
    let names = |f: &gguf::Gguf| f.tensors().iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for info in theirs.tensors() {
        let own = ours.tensor(&info.name).unwrap();
        assert_eq!((own.dtype, &own.shape), (info.dtype, &info.shape), "{}", info.name);
        assert!(ours.data(own) == theirs.data(info), "{}", info.name);
    }
    for (key, value) in theirs.metadata().iter() {
        assert_eq!(ours.metadata().get(key), Some(value), "{key}");
    }
}

/// A trained model comes back with its tokenizer and its tensors, and goes on to the same file.
#[test]
fn models_with_tokenizers_come_back_whole() {
    let text = "To be, or not to be: that is the question.\n\tNaïve café, 12345 \u{1F999}!";
    for name in ["bard", "bard-draft", "minilm"] {
        let Some(folder) = testkit::shared(&format!("oracle/{name}")) else { return };
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (file, back, again) = (path("a.gguf"), path("back"), path("b.gguf"));
        hf_to_gguf(&folder, &file, &Options::default(), &mut go_on()).unwrap();
        gguf_to_hf(&file, &back, &Options::default(), &mut go_on()).unwrap();
        hf_to_gguf(&back, &again, &Options::default(), &mut go_on()).unwrap();
        let (file, again) = (gguf::Gguf::open(&file).unwrap(), gguf::Gguf::open(&again).unwrap());
        for info in file.tensors() {
            assert!(
                file.data(info) == again.data(again.tensor(&info.name).unwrap()),
                "{}",
                info.name
            );
        }
        for (key, value) in file.metadata().iter().filter(|(key, _)| *key != "general.name") {
            assert_eq!(again.metadata().get(key), Some(value), "{name}: {key}");
        }
        let ids = |t: tokenizer::Tokenizer| t.encode(text, Default::default()).unwrap();
        let expected = ids(tokenizer::Tokenizer::from_folder(&folder).unwrap());
        assert_eq!(ids(tokenizer::Tokenizer::from_folder(&back).unwrap()), expected, "{name}");
        let read = tokenizer::Tokenizer::from_gguf(file.metadata()).unwrap();
        assert_eq!(ids(read), expected, "{name}");
    }
}

//! What the Python package gguf reads and writes (`fixtures/make.py`), this crate reads and writes.

use std::path::{Path, PathBuf};

use gguf::{Array, Builder, Error, Gguf, Value, ValueType};
use serde_json::Value as Json;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The files that the fixture describes, with their paths.
fn described() -> Vec<(PathBuf, Json)> {
    let text = std::fs::read_to_string(fixture("read.json")).unwrap();
    let Json::Object(files) = serde_json::from_str(&text).unwrap() else { panic!("an object") };
    let path = |name: &str| match name.contains('/') {
        true => testkit::shared(name),
        false => Some(fixture(name)),
    };
    files.into_iter().filter_map(|(name, json)| Some((path(&name)?, json))).collect()
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for &byte in bytes {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    b << 16 | a
}

/// The name that the Python package gives a type.
fn python_name(kind: ValueType) -> &'static str {
    match kind {
        ValueType::U8 => "UINT8",
        ValueType::I8 => "INT8",
        ValueType::U16 => "UINT16",
        ValueType::I16 => "INT16",
        ValueType::U32 => "UINT32",
        ValueType::I32 => "INT32",
        ValueType::F32 => "FLOAT32",
        ValueType::Bool => "BOOL",
        ValueType::String => "STRING",
        ValueType::Array => "ARRAY",
        ValueType::U64 => "UINT64",
        ValueType::I64 => "INT64",
        ValueType::F64 => "FLOAT64",
    }
}

fn assert_value(key: &str, value: &Value, expected: &Json) {
    match value {
        Value::String(s) => assert_eq!(*s, expected["value"], "{key}"),
        Value::Array(a) => assert_array(key, a, expected),
        Value::Bool(b) => assert_eq!(*b, expected["value"], "{key}"),
        v => {
            assert_eq!(python_name(v.kind()), expected["type"], "{key}");
            let expected = &expected["value"];
            match v.as_integer() {
                Some(i) => assert_eq!(i.to_string(), expected.to_string(), "{key}"),
                None => assert_eq!(v.as_float(), expected.as_f64(), "{key}"),
            }
        }
    }
}

fn assert_array(key: &str, array: &Array, expected: &Json) {
    assert_eq!(python_name(array.kind()), expected["type"], "{key}");
    assert_eq!(array.len(), expected["len"], "{key}");
    let sum = match array.strings() {
        Some(strings) => adler32(&strings.collect::<Vec<_>>().join(&b'\n')),
        None => adler32(array.bytes()),
    };
    assert_eq!(sum, expected["adler32"], "{key}");
}

#[test]
fn reads_what_python_reads() {
    for (path, expected) in described() {
        let file = Gguf::open(&path).unwrap();
        assert_eq!(file.header().version, expected["version"]);
        assert_eq!(file.header().data_offset, expected["data_offset"]);
        let metadata = expected["metadata"].as_array().unwrap();
        assert_eq!(file.metadata().len(), metadata.len());
        for ((key, value), expected) in file.metadata().iter().zip(metadata) {
            assert_eq!(key, expected["key"]);
            assert_value(key, value, expected);
        }
        let tensors = expected["tensors"].as_array().unwrap();
        assert_eq!(file.tensors().len(), tensors.len());
        for (t, expected) in file.tensors().iter().zip(tensors) {
            assert_eq!(t.name, expected["name"]);
            assert_eq!(serde_json::json!(t.shape), expected["shape"], "{}", t.name);
            assert_eq!(t.dtype.name(), expected["type"], "{}", t.name);
            assert_eq!(t.range().start, expected["start"], "{}", t.name);
            assert_eq!(adler32(file.data(t)), expected["adler32"], "{}", t.name);
            assert_eq!(file.tensor(&t.name), Some(t));
        }
        assert_eq!(file.tensor("no such tensor"), None);
    }
}

/// What our writer makes of the same contents is what Python's wrote, byte for byte: so Python
/// reads ours as it reads its own.
#[test]
fn rewriting_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for (path, _) in described() {
        let file = Gguf::open(&path).unwrap();
        let mut builder = Builder::with_metadata(file.metadata().clone());
        for t in file.tensors() {
            builder.tensor(&t.name, t.shape.clone(), t.dtype).unwrap();
        }
        let copy = dir.path().join("copy.gguf");
        let mut writer = builder.create(&copy).unwrap();
        for t in file.tensors() {
            for part in file.data(t).chunks(100_000) {
                writer.append(part).unwrap();
            }
        }
        writer.commit().unwrap();
        let (ours, theirs) = (std::fs::read(&copy).unwrap(), std::fs::read(&path).unwrap());
        // llama.cpp's vocabularies end without the padding after the table
        assert_eq!(ours.len(), theirs.len().next_multiple_of(file.header().alignment));
        assert!(ours.starts_with(&theirs), "{} differs", path.display());
    }
}

#[test]
fn every_type_is_read_exactly() {
    let file = Gguf::open(fixture("types.gguf")).unwrap();
    let m = file.metadata();
    assert_eq!(m.get("test.uint64"), Some(&Value::U64(0x8000_0000_0000_0005)));
    assert_eq!(m.get("test.float64"), Some(&Value::F64(0.1)));
    assert_eq!(m.str("test.string").unwrap(), "naïve 日本 😀");
    assert_eq!(m.u32s("test.uint16s").unwrap(), [60000, 1, 60000]);
    assert_eq!(m.i32s("test.int8s").unwrap(), [-100, 1, -100]);
    assert_eq!(m.f32s("test.float64s").unwrap(), [0.1, 1.0, 0.1]);
    assert_eq!(m.bools("test.bools").unwrap(), [true, false, true]);
    assert_eq!(m.strings("test.strings").unwrap().nth(1).unwrap(), b"\xff\xfe half \xe6\x97");
    assert!(matches!(m.strs("test.strings"), Err(Error::StringNotUtf8 { index: 1, .. })));
    assert!(matches!(m.u32("test.int8"), Err(Error::OutOfRange { value: -100, .. })));
    assert!(matches!(m.f32s("test.int8s"), Err(Error::WrongType { .. })));
    assert!(matches!(m.u32("absent"), Err(Error::MissingKey { .. })));
    assert_eq!(file.header().alignment, 64);
}

#[test]
fn big_endian_is_refused_by_name() {
    let error = Gguf::open(fixture("big-endian.gguf")).unwrap_err();
    assert!(matches!(error.fault(), Error::BigEndian { version: 3 }), "{error}");
}

#[test]
fn split_files_open_as_one() {
    let file = Gguf::open(fixture("split-00001-of-00003.gguf")).unwrap();
    assert_eq!(file.parts().len(), 3);
    assert_eq!(file.tensors().len(), 5);
    for (i, t) in file.tensors().iter().enumerate() {
        assert_eq!((t.name.as_str(), t.part), (format!("t{i}").as_str(), i / 2));
        assert_eq!(t.shape, [i + 1, 3]);
        assert!(file.data(t).chunks(4).all(|v| v == (i as f32).to_le_bytes()));
        let (mapped, range) = file.mapped(t);
        assert_eq!(&mapped[range], file.data(t));
    }
    let size =
        |i| std::fs::metadata(fixture(&format!("split-0000{i}-of-00003.gguf"))).unwrap().len();
    assert_eq!(file.file_bytes(), (1..=3).map(size).sum::<u64>());
}

#[test]
fn damaged_sets_of_split_files_are_refused() {
    let part = |i| format!("split-0000{i}-of-00003.gguf");
    let error = Gguf::open(fixture(&part(2))).unwrap_err();
    assert!(matches!(error.fault(), Error::NotFirstPart { no: 1, count: 3 }), "{error}");

    // every way to lay copies of the parts under the three names, and an absent third part
    let dir = tempfile::tempdir().unwrap();
    let lay = |from, to: &str| std::fs::copy(fixture(&part(from)), dir.path().join(to)).unwrap();
    lay(1, "other.gguf");
    let error = Gguf::open(dir.path().join("other.gguf")).unwrap_err();
    assert!(matches!(error.fault(), Error::SplitName { count: 3, .. }), "{error}");
    lay(1, &part(1));
    lay(2, &part(2));
    assert!(matches!(Gguf::open(dir.path().join(part(1))), Err(Error::Io { .. })));
    for wrong in [1, 2] {
        lay(wrong, &part(3));
        let error = Gguf::open(dir.path().join(part(1))).unwrap_err();
        assert!(matches!(error.fault(), Error::SplitMismatch { .. }), "{error}");
        assert!(error.to_string().contains("split-00003"), "{error}");
    }
    lay(3, &part(3));
    assert!(Gguf::open(dir.path().join(part(1))).is_ok());
}

#[test]
fn what_cannot_be_opened_names_the_file() {
    let error = Gguf::open("no/such/file.gguf").unwrap_err();
    assert!(matches!(error, Error::Io { .. }));
    assert!(error.to_string().starts_with("no/such/file.gguf: "), "{error}");
    assert!(matches!(Gguf::open(env!("CARGO_MANIFEST_DIR")), Err(Error::Io { .. })));
}

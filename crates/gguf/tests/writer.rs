//! The writer: what it refuses, and that whatever it writes is read back.

use blocks::DType;
use gguf::{Array, Builder, Error, Gguf, Metadata, Value, parse};
use proptest::collection::vec;
use proptest::prelude::*;

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::String),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
    ]
}

fn array() -> impl Strategy<Value = Value> {
    prop_oneof![
        vec(any::<i16>(), 0..9).prop_map(Value::from),
        vec(any::<f32>(), 0..9).prop_map(Value::from),
        vec(any::<bool>(), 0..9).prop_map(Value::from),
        vec(any::<u64>(), 0..9).prop_map(Value::from),
        vec(vec(any::<u8>(), 0..9), 0..9).prop_map(|v| Array::from_strings(v).into()),
    ]
}

fn tensor() -> impl Strategy<Value = (Vec<usize>, DType)> {
    let dtype = prop::sample::select(
        DType::ALL.iter().copied().filter(|d| d.ggml_id().is_some()).collect::<Vec<_>>(),
    );
    (vec(1usize..4, 0..4), dtype).prop_map(|(mut shape, dtype)| {
        match shape.last_mut() {
            Some(row) => *row *= dtype.block_len(),
            None if dtype.is_quantized() => shape.push(dtype.block_len()),
            None => {}
        }
        (shape, dtype)
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        values in vec(("[a-z.]{1,12}", prop_oneof![scalar(), array()]), 0..12),
        tensors in vec(tensor(), 0..8),
        alignment in prop::option::of(3u32..9),
    ) {
        let mut metadata = Metadata::default();
        for (key, value) in values {
            metadata.set(key, value);
        }
        if let Some(a) = alignment {
            metadata.set("general.alignment", 1u32 << a);
        }
        let mut builder = Builder::with_metadata(metadata.clone());
        for (i, (shape, dtype)) in tensors.iter().enumerate() {
            builder.tensor(format!("t{i}"), shape.clone(), *dtype).unwrap();
        }
        let mut writer = builder.write_to(Vec::new()).unwrap();
        let data = |i: usize, size: usize| vec![i as u8 + 1; size];
        for i in 0..tensors.len() {
            let size = writer.next_tensor().unwrap().size;
            writer.tensor(&format!("t{i}"), &data(i, size)).unwrap();
        }
        let bytes = writer.finish().unwrap();

        let parsed = parse(&bytes).unwrap();
        prop_assert_eq!(parsed.header.alignment, alignment.map_or(32, |a| 1 << a));
        prop_assert_eq!(parsed.metadata.len(), metadata.len());
        for ((k, v), (key, value)) in parsed.metadata.iter().zip(metadata.iter()) {
            prop_assert_eq!(k, key);
            // by their digits, since a NaN is not equal to itself
            prop_assert_eq!(format!("{v:?}"), format!("{value:?}"));
            prop_assert_eq!(v.as_array(), value.as_array());
        }
        for (i, (t, (shape, dtype))) in parsed.tensors.iter().zip(&tensors).enumerate() {
            prop_assert_eq!((&t.shape, t.dtype), (shape, *dtype));
            prop_assert_eq!(&bytes[t.range()], data(i, t.size));
        }
    }
}

#[test]
fn metadata_keep_their_order() {
    let mut m = Metadata::default();
    for key in ["a", "b", "c", "d"] {
        m.set(key, 1u32);
    }
    m.set("c", "changed in place");
    assert_eq!(m.remove("b"), Some(Value::U32(1)));
    assert_eq!(m.remove("b"), None);
    m.set("b", true);
    assert_eq!(m.iter().map(|(k, _)| k).collect::<String>(), "acdb");
    assert_eq!((m.str("c").unwrap(), m.bool("b").unwrap()), ("changed in place", true));
    assert!(!m.contains("e"));
}

#[test]
fn opened_files_are_shared_by_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Gguf>();
    shared::<Metadata>();
}

#[test]
fn misuse_is_refused() {
    let mut b = Builder::new();
    b.tensor("a", [2, 32], DType::Q8_0).unwrap();
    let refused = |b: &mut Builder, name: &str, shape: &[usize], dtype| {
        b.tensor(name, shape, dtype).map(drop).unwrap_err()
    };
    assert!(matches!(refused(&mut b, "a", &[1], DType::F32), Error::DuplicateTensor { .. }));
    assert!(matches!(refused(&mut b, "b", &[0], DType::F32), Error::Dimension { .. }));
    assert!(matches!(refused(&mut b, "b", &[1; 5], DType::F32), Error::TooManyDimensions { .. }));
    assert!(matches!(refused(&mut b, "b", &[31], DType::Q8_0), Error::PartialBlock { .. }));
    assert!(matches!(
        refused(&mut b, "b", &[usize::MAX; 2], DType::F32),
        Error::SizeOverflow { .. }
    ));
    assert!(matches!(refused(&mut b, "b", &[1], DType::Bool), Error::NotAGgufType { .. }));
    assert!(matches!(
        refused(&mut b, &"x".repeat(64), &[1], DType::F32),
        Error::NameTooLong { .. }
    ));
    let mut wrong = b.clone();
    wrong.set("general.alignment", 3u32);
    assert!(matches!(wrong.write_to(Vec::new()), Err(Error::Alignment { .. })));

    b.tensor("b", [1], DType::F32).unwrap();
    let mut w = b.write_to(Vec::new()).unwrap();
    assert!(matches!(w.tensor("b", &[0; 4]), Err(Error::OutOfOrder { .. })));
    assert!(matches!(w.tensor("a", &[0; 67]), Err(Error::WrongSize { expected: 68, got: 67, .. })));
    assert!(matches!(w.append(&[0; 69]), Err(Error::WrongSize { .. })));
    w.append(&[0; 68]).unwrap();
    assert_eq!(w.next_tensor().unwrap().name, "b");
    assert!(matches!(w.append(&[0; 5]), Err(Error::WrongSize { .. })));
    w.tensor("b", &[0; 4]).unwrap();
    assert!(matches!(w.append(&[0]), Err(Error::TooMuchData { got: 1 })));
    assert!(parse(&w.finish().unwrap()).is_ok());
}

#[test]
fn a_file_that_is_not_finished_does_not_appear() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut b = Builder::new();
    b.tensor("a", [4], DType::F32).unwrap();
    let w = b.clone().create(&path).unwrap();
    assert!(matches!(w.commit(), Err(Error::Unfinished { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let mut w = b.create(&path).unwrap();
    w.tensor("a", &[7; 16]).unwrap();
    assert!(!path.exists());
    w.commit().unwrap();
    assert_eq!(Gguf::open(&path).unwrap().tensors().len(), 1);
}

#[test]
fn writing_errors_come_back_typed() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            let n = buf.len().min(self.0);
            self.0 -= n;
            Ok(n)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut b = Builder::new();
    b.set("k", "v").tensor("a", [4], DType::F32).unwrap();
    let write = |room| {
        let mut w = b.clone().write_to(Full(room))?;
        w.tensor("a", &[1; 16])?;
        w.finish().map(drop)
    };
    let mut room = 0;
    while let Err(error) = write(room) {
        assert!(matches!(error, Error::Write(_)), "{room}: {error}");
        room += 1;
    }
    // head, padding, data and padding
    assert_eq!(room, 96 + 32);
}

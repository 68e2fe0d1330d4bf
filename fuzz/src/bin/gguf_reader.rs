//! Parses bytes as a GGUF file, walks all that came out, and writes it anew.
#![cfg_attr(fuzzing, no_main)]

use std::hint::black_box;

use gguf::{Array, Builder, Error, Metadata, Parsed, Value, parse};

/// Elements of a tensor that are decoded.
const DECODED: usize = 1024;

fuzz::target!(run);

fn run(bytes: &[u8]) {
    match parse(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(parsed) => {
            walk_metadata(&parsed.metadata);
            walk_tensors(&parsed, bytes);
            rewrite(&parsed, bytes);
        }
    }
}

fn walk_metadata(metadata: &Metadata) {
    for (key, value) in metadata.iter() {
        assert_eq!(metadata.get(key).map(Value::kind), Some(value.kind()));
        if let Value::Array(array) = value {
            walk_array(array);
        }
        // Every getter: a value or an error, whatever the type.
        let _ = black_box((metadata.u32(key), metadata.i64(key), metadata.f32(key)));
        let _ = black_box((metadata.str(key), metadata.bool(key), metadata.strs(key)));
        let _ = black_box((metadata.u32s(key), metadata.i32s(key), metadata.f32s(key)));
    }
}

fn walk_array(array: &Array) {
    let walked = if let Some(strings) = array.strings() {
        strings.inspect(|s| _ = black_box(s.len())).count()
    } else if let Some(scalars) = array.scalars() {
        scalars.inspect(|v| _ = black_box(v.kind())).count()
    } else {
        let arrays = array.arrays().expect("all else was tried");
        arrays.inspect(walk_array).count()
    };
    assert_eq!(walked, array.len());
}

fn walk_tensors(parsed: &Parsed, bytes: &[u8]) {
    let mut values = [0.0; DECODED];
    for t in &parsed.tensors {
        let data = &bytes[t.range()];
        assert_eq!(t.dtype.bytes_for(t.elements()), Some(data.len()));
        let n = t.elements().min(DECODED);
        let first = &data[..t.dtype.bytes_for(n).expect("rows are whole blocks")];
        blocks::decode(t.dtype, first, &mut values[..n]).expect("the lengths agree");
        black_box(&values);
    }
}

/// What was read can be written and reads as before, but for names that llama.cpp would not take.
fn rewrite(parsed: &Parsed, bytes: &[u8]) {
    let mut builder = Builder::with_metadata(parsed.metadata.clone());
    for t in &parsed.tensors {
        match builder.tensor(&t.name, t.shape.clone(), t.dtype) {
            Ok(_) => {}
            Err(Error::NameTooLong { .. }) => return,
            Err(other) => panic!("{other}"),
        }
    }
    let mut writer = match builder.write_to(Vec::new()) {
        Ok(writer) => writer,
        Err(Error::NameTooLong { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    for t in &parsed.tensors {
        writer.tensor(&t.name, &bytes[t.range()]).expect("declared like this");
    }
    let written = writer.finish().expect("all tensors were written");
    let again = parse(&written).expect("our own file");
    for ((k, v), (key, value)) in again.metadata.iter().zip(parsed.metadata.iter()) {
        // A NaN is not equal to itself, but prints as itself.
        assert_eq!((k, format!("{v:?}")), (key, format!("{value:?}")));
        assert_eq!(v.as_array(), value.as_array());
    }
    assert_eq!(again.metadata.len(), parsed.metadata.len());
    for (a, b) in again.tensors.iter().zip(&parsed.tensors) {
        assert_eq!((&a.name, &a.shape, a.dtype), (&b.name, &b.shape, b.dtype));
        assert_eq!(written[a.range()], bytes[b.range()]);
    }
    assert_eq!(again.tensors.len(), parsed.tensors.len());
}

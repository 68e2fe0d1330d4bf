//! The views for machines. Bytes that are not UTF-8 become U+FFFD; NaN and infinities, null.

use std::io::{self, Write};

use gguf::{Array, Gguf, Value};
use serde_json::{Map, Value as Json, json};

/// Header, metadata and tensors, or the tensors only.
pub(crate) fn file(file: &Gguf, tensors_only: bool) -> Map<String, Json> {
    let mut all = Map::new();
    if !tensors_only {
        let h = file.header();
        let header = json!({
            "version": h.version, "alignment": h.alignment, "data_offset": h.data_offset,
            "tensors": file.tensors().len(), "metadata": file.metadata().len(),
            "bytes": file.file_bytes(), "parts": file.parts().len(),
        });
        all.insert("header".to_owned(), header);
        let metadata = file.metadata().iter().map(|(k, v)| (k.to_owned(), value(v)));
        all.insert("metadata".to_owned(), Json::Object(metadata.collect()));
    }
    let tensor = |t: &gguf::TensorInfo| {
        json!({
            "name": t.name, "shape": t.shape, "type": t.dtype.name(), "bytes": t.size,
            "start": t.range().start, "part": t.part,
        })
    };
    all.insert("tensors".to_owned(), file.tensors().iter().map(tensor).collect());
    all
}

fn value(v: &Value) -> Json {
    match v {
        Value::String(s) => json!(s),
        Value::Bool(b) => json!(b),
        // Its own digits, not those of the nearest f64.
        Value::F32(v) => v.to_string().parse::<f64>().map_or(Json::Null, |v| json!(v)),
        Value::F64(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::Array(a) => array(a),
        v => json!(v.as_integer().and_then(|i| i64::try_from(i).ok())),
    }
}

fn array(a: &Array) -> Json {
    if let Some(strings) = a.strings() {
        strings.map(|s| json!(String::from_utf8_lossy(s))).collect()
    } else if let Some(scalars) = a.scalars() {
        scalars.map(|v| value(&v)).collect()
    } else {
        a.arrays().into_iter().flatten().map(|a| array(&a)).collect()
    }
}

/// Writes it, indented, with a newline at the end.
pub(crate) fn print(value: &Json, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

//! What is wrong with a file: structure (found on opening it) and values.

use std::io::{self, Write};

use gguf::Gguf;
use serde_json::{Value as Json, json};

use crate::show::name;
use crate::summary::Summary;
use crate::text;

/// The faults of a file, one line each.
pub(crate) struct Faults(Vec<String>);

impl Faults {
    /// The fault that keeps a file from being opened.
    pub(crate) fn of_opening(error: &gguf::Error) -> Self {
        Faults(vec![error.fault().to_string()])
    }

    /// Tensors with values that are no numbers; `summaries` are theirs, in order.
    pub(crate) fn of_values(file: &Gguf, summaries: &[Summary]) -> Self {
        let bad = file.tensors().iter().zip(summaries).filter_map(|(t, s)| {
            let first = s.first_bad?;
            let (row, column) = (first / t.row_len(), first % t.row_len());
            let (nan, infinite) = (text::count(s.nan), text::count(s.infinite));
            let name = name(t);
            Some(format!(
                "tensor '{name}' has {nan} NaN and {infinite} infinite values, the first at row {row}, column {column}"
            ))
        });
        Faults(bad.collect())
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For machines.
    pub(crate) fn json(&self) -> Json {
        json!({ "ok": self.is_empty(), "faults": self.0 })
    }

    /// For people. The file was opened, so its structure is right.
    pub(crate) fn print(&self, file: &Gguf, out: &mut impl Write) -> io::Result<()> {
        let tensors = file.tensors();
        let values: u64 = tensors.iter().map(|t| t.elements() as u64).sum();
        let (n, keys) = (text::count(tensors.len() as u64), file.metadata().len());
        writeln!(out, "--- Check ---")?;
        writeln!(out, "keys: ok ({keys}, none twice, every string and array whole)")?;
        writeln!(out, "tensors: ok ({n}, none twice, aligned, within the file, not overlapping)")?;
        if self.is_empty() {
            return writeln!(out, "values: ok ({}, none NaN or infinite)", text::count(values));
        }
        for fault in &self.0 {
            writeln!(out, "fault: {fault}")?;
        }
        writeln!(out, "values: {} of {n} tensors are faulty", self.0.len())
    }
}

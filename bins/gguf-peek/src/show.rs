//! Header, metadata and tensors in words.

use std::io::{self, Write};

use gguf::{Gguf, TensorInfo};

use crate::text;

/// The view without flags.
pub(crate) fn all(file: &Gguf, full: bool, out: &mut impl Write) -> io::Result<()> {
    header(file, out)?;
    writeln!(out, "--- Metadata ---")?;
    for (key, value) in file.metadata().iter() {
        writeln!(out, "{}: {}", text::escape(key.as_bytes()), text::value(value, full))?;
    }
    writeln!(out, "--- Tensors ---")?;
    for t in file.tensors() {
        writeln!(out, "{}: {:?} ({})", name(t), t.shape, t.dtype)?;
    }
    Ok(())
}

/// Version, counts and sizes.
pub(crate) fn header(file: &Gguf, out: &mut impl Write) -> io::Result<()> {
    let (h, tensors) = (file.header(), file.tensors().len());
    writeln!(out, "--- GGUF Header ---")?;
    let keys = file.metadata().len();
    writeln!(
        out,
        "Magic: GGUF   Version: {}   Tensors: {tensors}   Metadata KV: {keys}",
        h.version
    )?;
    let size = file.file_bytes();
    write!(out, "Size: {} ({} bytes)", text::bytes(size), text::count(size))?;
    write!(out, "   Alignment: {}   Data at: {}", h.alignment, text::count(h.data_offset))?;
    if file.parts().len() > 1 {
        write!(out, "   Parts: {}", file.parts().len())?;
    }
    writeln!(out)
}

/// The tensors with their bytes and offsets, in columns.
pub(crate) fn table(file: &Gguf, out: &mut impl Write) -> io::Result<()> {
    let rows = file.tensors().iter().map(|t| (name(t), format!("{:?}", t.shape), t));
    let rows: Vec<(String, String, &TensorInfo)> = rows.collect();
    let n = rows.iter().map(|r| r.0.chars().count()).max().unwrap_or(0).max(6);
    let s = rows.iter().map(|r| r.1.len()).max().unwrap_or(0).max(5);
    let parts = file.parts().len() > 1;
    let part = if parts { "  part" } else { "" };
    writeln!(
        out,
        "{:n$}  {:s$}  {:8}  {:>15}  {:>17}{part}",
        "tensor", "shape", "type", "bytes", "at byte"
    )?;
    for (name, shape, t) in &rows {
        let (bytes, at) = (text::count(t.size as u64), text::count(t.range().start as u64));
        write!(out, "{name:n$}  {shape:s$}  {:8}  {bytes:>15}  {at:>17}", t.dtype)?;
        if parts {
            write!(out, "  {:>4}", t.part + 1)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The name of a tensor, safe on a terminal.
pub(crate) fn name(t: &TensorInfo) -> String {
    text::escape(t.name.as_bytes())
}

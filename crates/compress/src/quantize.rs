//! A GGUF file to one of fewer bits, tensor by tensor, by llama.cpp's mixtures.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SendError, SyncSender};

use blocks::DType;
use files::AtomicFile;
use gguf::{Builder, Gguf, Metadata, TensorInfo, Value, Writer};
use quant_core::{FileType, ModelFacts, QuantError, RecipeOptions, Source, TensorFacts, Work};
use tensor::{Device, Tensor};

use crate::Error;

/// Bytes of output that are made before they are written.
const CHUNK: usize = 16 << 20;

/// Pieces of output that may wait for the disk.
const WAITING: usize = 4;

/// How to quantize, beyond the mixture.
#[derive(Clone, Debug, Default)]
pub struct QuantizeOptions {
    /// What departs from the mixture.
    pub recipe: RecipeOptions,
    /// Quantize tensors again that are quantized already.
    pub allow_requantize: bool,
    /// Threads; 0 for as many as the machine has.
    pub threads: usize,
    /// Where blocks are made. A GPU makes the bytes that the processor makes; what it cannot make the processor does.
    pub device: Device,
}

/// What becomes of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Its name.
    pub name: String,
    /// Its shape, the length of a row last.
    pub shape: Vec<usize>,
    /// The type it had.
    pub from: DType,
    /// The type it gets.
    pub to: DType,
    /// The type that the mixture meant, where its blocks do not divide the rows.
    pub fallback_from: Option<DType>,
    /// Bytes it had.
    pub bytes_before: usize,
    /// Bytes it gets.
    pub bytes_after: usize,
}

/// What becomes of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    /// The mixture.
    pub file_type: FileType,
    /// Its tensors in order.
    pub tensors: Vec<Quantized>,
}

impl Quantization {
    /// Bytes of all tensors before.
    pub fn bytes_before(&self) -> usize {
        self.tensors.iter().map(|t| t.bytes_before).sum()
    }

    /// Bytes of all tensors after.
    pub fn bytes_after(&self) -> usize {
        self.tensors.iter().map(|t| t.bytes_after).sum()
    }

    /// Bits that a weight takes on average after.
    pub fn bits_per_weight(&self) -> f64 {
        let weights: usize = self.tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        self.bytes_after() as f64 * 8.0 / weights.max(1) as f64
    }
}

/// What [`quantize`] would do: each tensor's type and size.
///
/// # Errors
/// [`Error::Recipe`], [`Error::NeedsImportance`], [`Error::CannotEncode`],
/// [`Error::AlreadyQuantized`].
pub fn plan(
    input: &Gguf,
    file_type: FileType,
    options: &QuantizeOptions,
) -> Result<Quantization, Error> {
    let facts: Vec<TensorFacts<'_>> = input
        .tensors()
        .iter()
        .map(|t| TensorFacts { name: &t.name, shape: &t.shape, dtype: t.dtype })
        .collect();
    let choices =
        quant_core::choose(file_type, &model_facts(input.metadata()), &facts, &options.recipe)?;
    let one = |(t, choice): (&TensorInfo, quant_core::Choice)| {
        let (tensor, dtype) = (t.name.clone(), choice.dtype);
        if dtype != t.dtype {
            if choice.needs_importance && !options.recipe.has_importance {
                return Err(Error::NeedsImportance { tensor, dtype });
            }
            if !blocks::can_encode(dtype) {
                return Err(Error::CannotEncode { tensor, dtype });
            }
            if t.dtype.is_quantized() && !options.allow_requantize {
                return Err(Error::AlreadyQuantized { tensor, dtype: t.dtype });
            }
        }
        let elements: usize = t.shape.iter().product();
        Ok(Quantized {
            name: tensor,
            shape: t.shape.clone(),
            from: t.dtype,
            to: dtype,
            fallback_from: choice.fallback_from,
            bytes_before: t.size,
            bytes_after: dtype.bytes_for(elements).unwrap_or(t.size),
        })
    };
    let tensors = input.tensors().iter().zip(choices).map(one).collect::<Result<_, _>>()?;
    Ok(Quantization { file_type, tensors })
}

/// Writes `input`, quantized, to `output`; `progress` is told each tensor before it is worked on
/// and the share of bytes done, and cancels with `Break`.
///
/// # Errors
/// Those of [`plan`], [`Error::SameFile`], [`Error::Quantize`], [`Error::Gguf`], [`Error::Tensor`] of a device. The
/// output appears only when it is whole.
pub fn quantize(
    input: &Gguf,
    output: &Path,
    file_type: FileType,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(&Quantized, f64) -> ControlFlow<()>,
) -> Result<Quantization, Error> {
    let same =
        |p: &Path| output.canonicalize().is_ok_and(|o| p.canonicalize().is_ok_and(|p| p == o));
    if input.parts().iter().any(|part| same(part.path())) {
        return Err(Error::SameFile { path: output.to_owned() });
    }
    let plan = plan(input, file_type, options)?;
    let mut builder = Builder::with_metadata(metadata(input.metadata(), file_type));
    for t in &plan.tensors {
        builder.tensor(t.name.clone(), t.shape.clone(), t.to)?;
    }
    let writer = builder.create(output)?;
    // Threads encode the next bytes while these are written.
    let (pieces, written) = mpsc::sync_channel(WAITING);
    let writer = std::thread::scope(|scope| {
        let writing = scope.spawn(move || write(writer, written));
        let encoded = encode(input, &plan, options, progress, &pieces);
        drop(pieces);
        let writer = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Encoding that ended for want of a writer: the writer knows why.
        match (encoded, writer) {
            (Ok(()) | Err(Stopped::NoWriter), writer) => writer,
            (Err(Stopped::Because(error)), _) => Err(error),
        }
    })?;
    writer.commit()?;
    Ok(plan)
}

/// Data of the output: of a tensor that stays as it is, the mapped input itself.
type Piece<'a> = Cow<'a, [u8]>;

fn write(
    mut writer: Writer<AtomicFile>,
    pieces: Receiver<Piece<'_>>,
) -> Result<Writer<AtomicFile>, Error> {
    for piece in pieces {
        writer.append(&piece)?;
    }
    Ok(writer)
}

/// Why encoding ended early.
enum Stopped {
    Because(Error),
    NoWriter,
}

impl<T> From<SendError<T>> for Stopped {
    fn from(_: SendError<T>) -> Self {
        Self::NoWriter
    }
}

/// Sends the data of all tensors in order.
fn encode<'a>(
    input: &'a Gguf,
    plan: &Quantization,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(&Quantized, f64) -> ControlFlow<()>,
    pieces: &SyncSender<Piece<'a>>,
) -> Result<(), Stopped> {
    let total = plan.bytes_before().max(1) as f64;
    let mut done = 0;
    for (info, t) in input.tensors().iter().zip(&plan.tensors) {
        if progress(t, done as f64 / total).is_break() {
            return Err(Stopped::Because(cancelled(t)));
        }
        let data = input.data(info);
        if t.from == t.to {
            pieces.send(data.into())?;
        } else {
            let (cols, rows) = (info.row_len(), info.elements() / info.row_len().max(1));
            let (from_row, to_row) = (data.len() / rows.max(1), t.bytes_after / rows.max(1));
            let step = (CHUNK / to_row.max(1)).max(1);
            for first in (0..rows).step_by(step) {
                let n = step.min(rows - first);
                let source = Source::Bytes(t.from, &data[first * from_row..(first + n) * from_row]);
                let out =
                    blocks_of(source, first, [n, cols], t, options).map_err(Stopped::Because)?;
                pieces.send(out.into())?;
                let share = (done + (first + n) * from_row) as f64 / total;
                if progress(t, share).is_break() {
                    return Err(Stopped::Because(cancelled(t)));
                }
            }
        }
        done += data.len();
    }
    Ok(())
}

/// Rows of a tensor, from row `first` on, as what they are to be.
fn blocks_of(
    source: Source<'_>,
    first: usize,
    [rows, cols]: [usize; 2],
    t: &Quantized,
    options: &QuantizeOptions,
) -> Result<Vec<u8>, Error> {
    let work = Work::threads(options.threads);
    let failed = |error: QuantError| Error::Quantize {
        tensor: t.name.clone(),
        source: error.in_rows_from(first),
    };
    // Plain numbers are bound by their bytes, which would go there and back.
    if options.device != Device::Cpu && t.to.is_quantized() && options.device.can_encode(t.to) {
        let x = quant_core::dequantize_tensor(source, rows, cols, work).map_err(failed)?;
        // Which element is not finite, or too large for scales in half precision, is told on the processor's way.
        if x.iter().all(|x| x.abs() <= HALF_MAX) {
            let there = Tensor::from_vec([rows, cols], x)?.to_device(&options.device)?;
            let made = there.to_dtype(t.to)?.to_device(&Device::Cpu)?;
            return Ok(made.bytes()?.to_vec());
        }
    }
    quant_core::quantize_tensor(source, rows, cols, t.to, None, work).map_err(failed)
}

/// The largest number of f16.
const HALF_MAX: f32 = 65504.0;

fn cancelled(t: &Quantized) -> Error {
    Error::Quantize { tensor: t.name.clone(), source: QuantError::Cancelled }
}

/// What the mixtures ask of a model; what a file does not say is taken as llama.cpp does.
fn model_facts(metadata: &Metadata) -> ModelFacts {
    let arch = metadata.str("general.architecture").unwrap_or_default().to_owned();
    let number = |key: &str| {
        let key = format!("{arch}.{key}");
        let first = |v: &Value| match v.as_array() {
            Some(a) => a.scalars().and_then(|mut s| s.next()).and_then(|v| v.as_integer()),
            None => v.as_integer(),
        };
        metadata.get(&key).and_then(first).and_then(|n| usize::try_from(n).ok())
    };
    let n_head = number("attention.head_count").unwrap_or(0);
    ModelFacts {
        n_layer: number("block_count").unwrap_or(0),
        n_head,
        n_head_kv: number("attention.head_count_kv").unwrap_or(n_head),
        n_expert: number("expert_count").unwrap_or(0),
        arch,
    }
}

/// The input's metadata, saying what the file now is.
fn metadata(input: &Metadata, file_type: FileType) -> Metadata {
    let mut metadata = input.clone();
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    metadata.set("general.quantization_version", 2u32);
    metadata.set("general.file_type", file_type.id());
    metadata
}

#[cfg(test)]
mod tests {
    use blocks::DType;

    use super::*;

    #[test]
    fn an_error_names_the_row_of_the_tensor() {
        let t = Quantized {
            name: "w".to_owned(),
            shape: vec![32, 100],
            from: DType::F32,
            to: DType::Q8_0,
            fallback_from: None,
            bytes_before: 12_800,
            bytes_after: 3400,
        };
        let of = |x: f32| {
            let mut rows = vec![0.5; 64];
            rows[40] = x;
            let options = QuantizeOptions::default();
            blocks_of(Source::Values(&rows), 70, [2, 32], &t, &options).unwrap_err().to_string()
        };
        for (x, said) in [
            (f32::NAN, "row 71, column 8 is infinite or NaN"),
            (1e9, "row 71, column 8 is too large"),
        ] {
            assert!(of(x).contains(said), "{}", of(x));
        }
    }
}

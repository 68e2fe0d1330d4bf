//! Several products with the same activations as one job over the threads.
//!
//! Activations are rounded and cut once for all weights that take them in the same form, and the
//! rows of all weights are handed out together: one barrier, and no thread waits at the end of a
//! small weight while another one's rows are left.

use super::int8::{self, Quantized};
use super::rows::{self, PIECE_ACTS, Step};
use super::{Activations, DisjointMut, Job, PANEL_ROWS, Piece, Weight, bf16, float};
use crate::error::{check_len, check_rows};
use crate::profile::Work;
use crate::{Isa, KernelError, ThreadPool, simd};
use blocks::DType;
use std::cell::RefCell;

/// One of several products with the same activations.
#[derive(Debug)]
pub struct Product<'a> {
    /// What the activations are multiplied by.
    pub weight: Weight<'a>,
    /// Added to each output; as many elements as the weight has rows.
    pub bias: Option<&'a [f32]>,
    /// `[m, weight.rows]`
    pub out: &'a mut [f32],
}

/// `out[i][j] = sum_k weight[j][k] x[i][k] + bias[j]` of each product, for `x: [m, cols]`.
///
/// Each output has the bits that its product alone would give it.
///
/// # Errors
/// Lengths that do not agree, an element type that is no weight, an `isa` that the processor
/// lacks; then nothing is written.
pub fn matmuls<const N: usize>(
    pool: &ThreadPool,
    isa: Isa,
    products: [Product<'_>; N],
    x: &[f32],
    act: Activations,
) -> Result<(), KernelError> {
    simd::check(isa)?;
    let Some(Product { weight, out, .. }) = products.first() else { return Ok(()) };
    let m = match weight.cols {
        0 => check_rows("output", weight.rows, out.len())?,
        cols => check_rows("activations", cols, x.len())?,
    };
    let mut tasks = [const { None }; N];
    for (task, product) in tasks.iter_mut().zip(products) {
        *task = Some(Task::new(isa, product, (x, m), act)?);
    }
    if m > 0 {
        let mut forms = [const { None }; N];
        let mut tasks = tasks.map(|task| task.expect("one for each product"));
        run(pool, &mut tasks, &mut forms);
        forms.into_iter().flatten().for_each(|(_, prepared)| prepared.give_back());
    }
    Ok(())
}

/// A product that is about to run.
struct Task<'a> {
    job: Job<'a>,
    out: DisjointMut<'a, f32>,
    way: Way,
    /// Which of the forms its activations have.
    form: usize,
    cut: Cut,
}

/// How a product is computed.
#[derive(Clone, Copy)]
enum Way {
    Int8(int8::Kernel),
    /// f32 products, of numbers that are rounded to bf16 first or are not.
    Float {
        rounded: bool,
    },
    Bf16,
    #[cfg(target_arch = "x86_64")]
    Bf16Tiles {
        interleaved: bool,
    },
}

/// What activations become before they are multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Int8(int8::Rounding),
    Steps(rows::Steps),
    #[cfg(target_arch = "x86_64")]
    Bf16Tiles {
        interleaved: bool,
    },
}

/// Activations in some form: memory that the thread keeps for the next product, since fresh pages
/// would cost more than filling them.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) int8: Quantized,
    pub(super) steps: Vec<Step>,
}

thread_local! {
    static KEPT: RefCell<Vec<Prepared>> = const { RefCell::new(Vec::new()) };
}

impl Prepared {
    fn take() -> Self {
        KEPT.with_borrow_mut(Vec::pop).unwrap_or_default()
    }

    fn give_back(self) {
        KEPT.with_borrow_mut(|kept| kept.push(self));
    }
}

/// Computes all tasks; `forms` has room for one each.
fn run(pool: &ThreadPool, tasks: &mut [Task<'_>], forms: &mut [Option<(Form, Prepared)>]) {
    for task in &mut *tasks {
        let form = task.way.form(&task.job);
        let same = |f: &Option<(Form, _)>| f.as_ref().is_none_or(|(f, _)| *f == form);
        task.form = forms.iter().position(same).expect("room for each");
        forms[task.form].get_or_insert_with(|| {
            let mut prepared = Prepared::take();
            form.prepare(pool, &task.job, &mut prepared);
            (form, prepared)
        });
    }
    let total = cut(pool, tasks);
    let (tasks, forms) = (&*tasks, &*forms);
    pool.run(total, |mut i| {
        for Task { job, out, way, form, cut } in tasks {
            if i < cut.pieces {
                let (_, prepared) = forms[*form].as_ref().expect("filled above");
                return way.run(job, prepared, cut.piece(job, i), out);
            }
            i -= cut.pieces;
        }
    });
}

impl<'a> Task<'a> {
    /// The task of a product, if its shapes agree.
    fn new(
        isa: Isa,
        Product { weight, bias, out }: Product<'a>,
        (x, m): (&'a [f32], usize),
        act: Activations,
    ) -> Result<Self, KernelError> {
        let source = weight.source()?;
        check_len("activations", m.saturating_mul(weight.cols), x.len())?;
        check_len("output", m.saturating_mul(weight.rows), out.len())?;
        if let Some(bias) = bias {
            check_len("bias", weight.rows, bias.len())?;
        }
        float::check_dtype(weight.dtype)?;
        let job = Job { isa, dtype: weight.dtype, source, cols: weight.cols, x, m, bias };
        let way = Way::of(&job, act);
        Ok(Task { job, out: DisjointMut::new(out), way, form: 0, cut: Cut::default() })
    }
}

impl Way {
    fn of(job: &Job<'_>, act: Activations) -> Self {
        match (act, job.dtype) {
            (Activations::Int8 | Activations::Bf16, DType::BF16)
            | (Activations::Bf16, DType::F16) => Self::bf16(job),
            (Activations::Int8 | Activations::Bf16, dtype) => {
                int8::Kernel::find(dtype).map_or(Self::Float { rounded: false }, Self::Int8)
            }
            (Activations::F32, _) => Self::Float { rounded: false },
        }
    }

    /// One way for all sizes of batch.
    fn bf16(job: &Job<'_>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if job.isa == Isa::Amx && crate::amx::detect().bf16 {
            return Self::Bf16Tiles { interleaved: bf16::interleaved::fits(job) };
        }
        if simd::has_bf16(job.isa) { Self::Bf16 } else { Self::Float { rounded: true } }
    }

    fn form(self, job: &Job<'_>) -> Form {
        match self {
            Self::Int8(kernel) => Form::Int8(kernel.rounding),
            Self::Float { rounded } => Form::Steps(float::steps(job, rounded)),
            Self::Bf16 => Form::Steps(bf16::steps(job)),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Tiles { interleaved } => Form::Bf16Tiles { interleaved },
        }
    }

    fn limits(self, job: &Job<'_>) -> Limits {
        match self {
            Self::Int8(kernel) => kernel.limits(job),
            Self::Float { rounded } => float::steps(job, rounded).limits(),
            Self::Bf16 => bf16::steps(job).limits(),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Tiles { interleaved: false } => bf16::tiles::limits(job),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Tiles { interleaved: true } => bf16::interleaved::limits(job),
        }
    }

    fn run(self, job: &Job<'_>, x: &Prepared, piece: Piece, out: &DisjointMut<'_, f32>) {
        match self {
            Self::Int8(kernel) => kernel.run(job, &x.int8, piece, out),
            Self::Float { rounded } => float::run(job, &x.steps, rounded, piece, out),
            Self::Bf16 => bf16::run(job, &x.steps, piece, out),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Tiles { interleaved: false } => bf16::tiles::run(job, &x.steps, piece, out),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Tiles { interleaved: true } => {
                bf16::interleaved::run(job, &x.steps, piece, out)
            }
        }
    }
}

impl Form {
    /// Makes the activations of a product so.
    fn prepare(self, pool: &ThreadPool, job: &Job<'_>, to: &mut Prepared) {
        let read = || Work { bytes: size_of_val(job.x), operations: 0 };
        let (name, to_type) = self.label();
        let _scope = pool.profile().scope(name, to_type, read);
        match self {
            Self::Int8(rounding) => to.int8.fill(pool, job, rounding),
            Self::Steps(steps) => steps.fill(pool, job, &mut to.steps),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Tiles { interleaved: false } => bf16::tiles::pack(pool, job, &mut to.steps),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Tiles { interleaved: true } => {
                bf16::interleaved::pack(pool, job, &mut to.steps)
            }
        }
    }

    /// What a profile calls the making of them.
    fn label(self) -> (&'static str, &'static str) {
        match self {
            Self::Int8(_) => ("quantize activations", "int8"),
            Self::Steps(steps) if steps.is_rounded() => ("quantize activations", "bf16"),
            Self::Steps(_) => ("copy activations", "f32"),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Tiles { .. } => ("quantize activations", "bf16"),
        }
    }
}

/// What pieces a product can be cut into.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// The fewest and the most weight rows of a piece: 16 times powers of two up to 256.
    pub(super) rows: [usize; 2],
    /// The most activation rows, which should stay in the second-level cache while weights go by.
    pub(super) acts: usize,
    /// Pieces a thread gets at least, where there are so many.
    pub(super) a_thread: usize,
}

impl Limits {
    /// Weights that are unpacked a panel at a time.
    pub(super) fn panels(acts: usize) -> Self {
        Limits { rows: [simd::LANES, PANEL_ROWS], acts, a_thread: 4 }
    }

    /// Weights that go by as they lie: long streams.
    pub(super) fn streams(least: usize) -> Self {
        Limits { rows: [least, 256], acts: PIECE_ACTS, a_thread: 8 }
    }
}

/// The pieces of a product.
#[derive(Clone, Copy, Default)]
struct Cut {
    /// Weight rows of a panel.
    panel: usize,
    panels: usize,
    /// Activation rows of a piece.
    acts: usize,
    pieces: usize,
    /// Rows from a piece to that which the same thread probably takes next.
    stride: usize,
}

impl Cut {
    fn new(job: &Job<'_>, limits: &Limits, panel: usize, threads: usize) -> Self {
        let m = job.m;
        let acts = m.div_ceil(m.div_ceil(limits.acts)).next_multiple_of(simd::LANES);
        let panel = panel.clamp(limits.rows[0], limits.rows[1]);
        let panels = job.source.rows.div_ceil(panel);
        let pieces = panels * m.div_ceil(acts);
        Cut { panel, panels, acts, pieces, stride: panel * threads }
    }

    fn piece(&self, job: &Job<'_>, i: usize) -> Piece {
        let (row, act) = (i % self.panels * self.panel, i / self.panels * self.acts);
        let (rows, m) = (job.source.rows, job.m);
        Piece {
            rows: row..rows.min(row + self.panel),
            acts: act..m.min(act + self.acts),
            next: row + self.stride,
        }
    }
}

/// Cuts all tasks into the largest panels that give every thread enough pieces to end together with
/// the others; returns the number of pieces. The cut depends on the number of threads; results do
/// not depend on the cut.
fn cut(pool: &ThreadPool, tasks: &mut [Task<'_>]) -> usize {
    let mut total = 0;
    for panel in [256, 128, 64, 32, 16] {
        let mut wanted = 1;
        total = 0;
        for task in &mut *tasks {
            let limits = task.way.limits(&task.job);
            if pool.threads() > 1 {
                wanted = wanted.max(limits.a_thread * pool.threads());
            }
            task.cut = Cut::new(&task.job, &limits, panel, pool.threads());
            total += task.cut.pieces;
        }
        if total >= wanted {
            break;
        }
    }
    total
}

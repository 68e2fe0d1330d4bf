//! cuBLASLt: products of f16 and bf16 by NVIDIA's library, where it is installed.
//!
//! It knows columns first: y^T = W x^T, where W, whose rows are the library's columns, is taken transposed. The
//! algorithm is the first of its heuristics, asked for once a shape. It may divide k among blocks in another way for
//! another number of rows, so that a row's result is the same only within one shape.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue,
    cublasLtMatmulDescAttributes_t as Desc, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasStatus_t as Status, cudaDataType_t as Type,
};
use cudarc::driver::{CudaContext, CudaStream};

use crate::symbols::missing;
use crate::{DevicePtr, Error, Result};

/// A floating-point type of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

/// `y[m, n] = x[m, k] w[n, k]^T + bias[n]` of addresses: `x` and `w` of halves, the others of f32.
#[derive(Clone, Copy, Debug)]
pub struct BlasProduct {
    /// The type of `x` and `w`.
    pub half: Half,
    /// Rows of `x`.
    pub m: usize,
    /// Rows of `w`.
    pub n: usize,
    /// Columns of both.
    pub k: usize,
    /// `x`.
    pub x: DevicePtr,
    /// `w`.
    pub w: DevicePtr,
    /// `bias`, if one is added.
    pub bias: Option<DevicePtr>,
    /// `y`.
    pub y: DevicePtr,
    /// Elements from a row of `y` to the next.
    pub stride: usize,
    /// Memory to work in, of [`Blas::workspace`] bytes.
    pub workspace: DevicePtr,
}

/// A library for matrix products, in the order of its device's other work.
pub trait Blas: fmt::Debug + Send + Sync {
    /// Bytes that a product may need to work in.
    fn workspace(&self) -> usize;

    /// Begins a product; `false` if the library has no way to do one of this shape and alignment.
    ///
    /// # Errors
    /// [`Error::Call`].
    ///
    /// # Safety
    /// The memory of the product is allocated on the device, and `y` and the workspace are nobody else's.
    unsafe fn multiply(&self, product: &BlasProduct) -> Result<bool>;
}

/// All of the library's functions that are called.
const CALLED: &[&str] = &[
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
];

/// What NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Plans that are kept; prompts have many lengths.
const MOST_PLANS: usize = 1024;

/// `cublasOperation_t`: taken transposed.
const TRANSPOSED: i32 = 1;

/// The library, opened for a device.
pub(crate) struct CublasLt {
    ordinal: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    handle: sys::cublasLtHandle_t,
    /// None for what it cannot do.
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

// SAFETY: cuBLASLt's handle may be used by several threads; the plans are behind a mutex.
unsafe impl Send for CublasLt {}
// SAFETY: the same.
unsafe impl Sync for CublasLt {}

/// What the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    half: Half,
    m: usize,
    n: usize,
    k: usize,
    stride: usize,
    bias: bool,
    /// Of `w`, `x` and `y`.
    alignments: [u32; 3],
}

/// The library's descriptions of a product, and its algorithm.
struct Plan {
    product: Descriptor,
    w: Layout,
    x: Layout,
    y: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

struct Descriptor(sys::cublasLtMatmulDesc_t);
struct Layout(sys::cublasLtMatrixLayout_t);
struct Preferences(sys::cublasLtMatmulPreference_t);

impl Descriptor {
    fn set<T>(&self, attribute: Desc, value: T) -> Result<(), CublasError> {
        // SAFETY: the descriptor is alive, and the value is as long as said while the call copies it.
        unsafe {
            result::set_matmul_desc_attribute(
                self.0,
                attribute,
                (&raw const value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Layout {
    fn new(of: Type, rows: usize, columns: usize, stride: usize) -> Result<Self, CublasError> {
        result::create_matrix_layout(of, rows as u64, columns as u64, stride as i64).map(Self)
    }
}

impl Preferences {
    fn set<T>(&self, attribute: Preference, value: T) -> Result<(), CublasError> {
        // SAFETY: as for a descriptor.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0,
                attribute,
                (&raw const value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made once, and used no more.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: the same.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

impl Drop for Preferences {
    fn drop(&mut self) {
        // SAFETY: the same.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

impl Key {
    fn of(product: &BlasProduct) -> Self {
        let BlasProduct { half, m, n, k, stride, .. } = *product;
        let alignments =
            [product.w, product.x, product.y].map(|at| 1 << at.trailing_zeros().min(8));
        Self { half, m, n, k, stride, bias: product.bias.is_some(), alignments }
    }
}

impl Plan {
    fn new(
        handle: sys::cublasLtHandle_t,
        key: &Key,
        bias: Option<DevicePtr>,
    ) -> Result<Option<Self>, CublasError> {
        let half = match key.half {
            Half::F16 => Type::CUDA_R_16F,
            Half::Bf16 => Type::CUDA_R_16BF,
        };
        let Key { m, n, k, .. } = *key;
        let product = result::create_matmul_desc(Compute::CUBLAS_COMPUTE_32F, Type::CUDA_R_32F);
        let product = Descriptor(product?);
        product.set(Desc::CUBLASLT_MATMUL_DESC_TRANSA, TRANSPOSED)?;
        if let Some(bias) = bias {
            product.set(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, Epilogue::CUBLASLT_EPILOGUE_BIAS)?;
            product.set(Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        }
        let (w, x) = (Layout::new(half, k, n, k)?, Layout::new(half, k, m, k)?);
        let y = Layout::new(Type::CUDA_R_32F, n, m, key.stride)?;
        let preferences = Preferences(result::create_matmul_pref()?);
        preferences.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE)?;
        let [of_w, of_x, of_y] = key.alignments;
        preferences.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of_w)?;
        preferences.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of_x)?;
        preferences.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of_y)?;
        preferences.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of_y)?;
        // SAFETY: everything was made above and is alive.
        let found = unsafe {
            result::get_matmul_algo_heuristic(handle, product.0, w.0, x.0, y.0, y.0, preferences.0)
        };
        match found {
            Ok(found) => Ok(Some(Self { product, w, x, y, algorithm: found.algo })),
            Err(CublasError(Status::CUBLAS_STATUS_NOT_SUPPORTED)) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl CublasLt {
    /// Opens the library for a device, whose stream it then works in.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where it is not installed, [`Error::Call`].
    pub(crate) fn open(
        ordinal: usize,
        context: &Arc<CudaContext>,
        stream: &Arc<CudaStream>,
    ) -> Result<Self> {
        // SAFETY: only tries to load the library, then looks into it; the calls below would panic without it.
        if !unsafe { sys::is_culib_present() } || missing(unsafe { sys::culib() }, CALLED).is_some()
        {
            let reason = "cuBLASLt (libcublasLt.so) of CUDA 12 or newer is not installed: install CUDA's, or `pip install nvidia-cublas` \
                and put its folder on LD_LIBRARY_PATH";
            return Err(Error::Unavailable { ordinal, reason: reason.into() });
        }
        bind(ordinal, context)?;
        let handle = result::create_handle().map_err(|e| failed(ordinal, "cublasLtCreate", e))?;
        let (context, stream) = (Arc::clone(context), Arc::clone(stream));
        Ok(Self { ordinal, context, stream, handle, plans: Mutex::default() })
    }
}

fn bind(ordinal: usize, context: &CudaContext) -> Result<()> {
    context.bind_to_thread().map_err(|e| Error::Call {
        ordinal,
        call: "cuCtxSetCurrent".into(),
        reason: format!("{:?}", e.0),
    })
}

fn failed(ordinal: usize, call: &str, e: CublasError) -> Error {
    Error::Call { ordinal, call: call.to_owned(), reason: format!("{:?}", e.0) }
}

impl Blas for CublasLt {
    fn workspace(&self) -> usize {
        WORKSPACE
    }

    unsafe fn multiply(&self, product: &BlasProduct) -> Result<bool> {
        bind(self.ordinal, &self.context)?;
        let BlasProduct { m, n, k, .. } = *product;
        let told = |e| failed(self.ordinal, &format!("cublasLtMatmul of m {m}, n {n}, k {k}"), e);
        let key = Key::of(product);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= MOST_PLANS && !plans.contains_key(&key) {
            plans.clear();
        }
        let plan = match plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(plan) => plan.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Plan::new(self.handle, &key, product.bias).map_err(told)?)
            }
        };
        let Some(plan) = plan else { return Ok(false) };
        if let Some(bias) = product.bias {
            plan.product.set(Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias).map_err(told)?;
        }
        let (one, zero) = (1.0f32, 0.0f32);
        let address = |at: DevicePtr| at as *mut c_void;
        let y = address(product.y);
        // SAFETY: the caller's promise for the memory; the plan is alive and of these shapes; the numbers
        // are read before the call returns.
        unsafe {
            result::matmul(
                self.handle,
                plan.product.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                address(product.w),
                plan.w.0,
                address(product.x),
                plan.x.0,
                y,
                plan.y.0,
                y,
                plan.y.0,
                &plan.algorithm,
                address(product.workspace),
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(told)?;
        Ok(true)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        if bind(self.ordinal, &self.context).is_ok() {
            // SAFETY: opened once, and used no more.
            let _ = unsafe { result::destroy_handle(self.handle) };
        }
    }
}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuBLASLt of cuda:{}", self.ordinal)
    }
}

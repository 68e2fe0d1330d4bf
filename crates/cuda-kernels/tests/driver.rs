//! What the driver's side does and refuses, on drivers that are fakes. How graphs, profiles and long copies fare on one is
//! in `runtime.rs`.
#![cfg(target_os = "linux")]

mod common;

use blocks::DType;
use common::fake::{assert_nothing_is_left, ever, ranges, with_driver, without_each};
use cuda_kernels::compile::{CubinCache, Nvrtc};
use cuda_kernels::driver::{self, properties};
use cuda_kernels::ops::gemm::{Gemm, Product, plain};
use cuda_kernels::ops::vector_add::{Affine, VectorAdd, quantized_vector_add};
use cuda_kernels::source::VECTOR_ADD;
use cuda_kernels::{Error, Gpu, Kernel, Launch, Result, nvtx};

fn open(ordinal: usize) -> Result<Gpu> {
    driver::open(ordinal, CubinCache::default())
}

/// That a GPU cannot be opened, for this reason, and that no context was made to find out.
#[track_caller]
fn unavailable(ordinal: usize, why: &str) {
    for error in [
        open(ordinal).unwrap_err(),
        driver::check(ordinal).and(open(ordinal).map(drop)).unwrap_err(),
    ] {
        assert!(
            matches!(error, Error::Unavailable { ordinal: of, .. } if of == ordinal),
            "{error}"
        );
        let said = error.to_string();
        assert!(said.contains(why) && !said.contains('\n'), "{said}");
    }
    assert_eq!(ever("context"), 0);
}

/// That a GPU does what it should.
fn works(gpu: &Gpu) {
    let is = |scale, zero_point| Affine { scale, zero_point };
    let n = 1000;
    let (a, b) = (gpu.upload(&vec![10i8; n]).unwrap(), gpu.upload(&vec![-3i8; n]).unwrap());
    let out = gpu.filled(0xff, n).unwrap();
    let (a, b) = ((&a, is(0.5, 2)), (&b, is(2.0, -5)));
    quantized_vector_add(gpu, VectorAdd::Wide, n, a, b, (&out, is(0.25, 1))).unwrap();
    // (0.5 (10 - 2) + 2 (-3 + 5)) / 0.25 + 1
    assert_eq!(out.download::<i8>().unwrap(), vec![33; n]);
}

fn launch(gpu: &Gpu, name: &'static str, shared: u32) -> Result<()> {
    // SAFETY: the fake has no such kernel, or one without parameters.
    unsafe {
        gpu.launch(&Kernel::new(&VECTOR_ADD, name), Launch::new(1, 32).with_shared(shared), &[])
    }
}

#[test]
fn one_that_does_not_answer_hides_no_other() {
    let settings = [("FAKE_DEVICES", "3"), ("FAKE_BROKEN", "1"), ("FAKE_MEMORY", "123456789")];
    with_driver("one_that_does_not_answer_hides_no_other", &settings, || {
        assert_eq!(driver::count().unwrap(), 3);
        let listed: Vec<usize> = driver::list().iter().map(|p| p.ordinal).collect();
        assert_eq!(listed, [0, 2]);
        let two = properties(2).unwrap();
        assert_eq!((two.name.as_str(), two.compute_capability), ("a fake", (8, 0)));
        assert_eq!((two.multiprocessors, two.memory), (108, 123_456_789));
        assert_eq!(two.shared_per_block, 163 << 10);
        for error in [properties(1).unwrap_err(), open(1).unwrap_err()] {
            assert!(matches!(error, Error::Call { ordinal: 1, .. }), "{error}");
            assert!(error.to_string().contains("as planned"), "{error}");
        }
        assert_eq!(ever("context"), 0, "nothing of this opens a GPU");
        let gpus = [open(0).unwrap(), open(2).unwrap()];
        assert_eq!(gpus[1].properties(), &two);
        gpus.iter().for_each(works);
        drop(gpus);
        assert_nothing_is_left();
    });
}

#[test]
fn an_old_driver_is_said_before_anything_is_opened() {
    with_driver(
        "an_old_driver_is_said_before_anything_is_opened",
        &[("FAKE_VERSION", "11080")],
        || {
            unavailable(0, "the NVIDIA driver is for CUDA 11.8, 12.0 or newer is needed");
            assert!(driver::list().is_empty());
        },
    );
}

#[test]
fn an_old_gpu_is_said_before_it_is_opened() {
    with_driver("an_old_gpu_is_said_before_it_is_opened", &[("FAKE_CAPABILITY", "75")], || {
        unavailable(0, "compute capability 7.5, the kernels need 8.0");
        assert_eq!(driver::list().len(), 1);
    });
}

#[test]
fn a_number_out_of_range_is_said() {
    with_driver("a_number_out_of_range_is_said", &[("FAKE_DEVICES", "2")], || {
        unavailable(2, "this machine has 2 NVIDIA GPUs, cuda:0 to cuda:1");
        unavailable(usize::MAX, "this machine has 2");
    });
}

#[test]
fn a_driver_without_gpus_is_said() {
    with_driver("a_driver_without_gpus_is_said", &[("FAKE_DEVICES", "0")], || {
        unavailable(0, "the NVIDIA driver shows no GPU");
    });
}

#[test]
fn a_driver_that_lacks_a_function_is_too_old() {
    without_each("a_driver_that_lacks_a_function_is_too_old", "cuda", |function| {
        unavailable(0, &format!("too old, it does not have {function}:"));
        assert!(driver::list().is_empty());
    });
}

#[test]
fn an_nvrtc_that_lacks_a_function_is_none() {
    without_each("an_nvrtc_that_lacks_a_function_is_none", "nvrtc", |_| {
        assert!(matches!(Nvrtc::load(), Err(Error::NoCompiler)));
        let gpu = open(0).unwrap();
        let error = launch(&gpu, "quantized_vector_add", 0).unwrap_err();
        assert!(matches!(error, Error::NoCompiler), "{error}");
    });
}

#[test]
fn a_cublaslt_that_lacks_a_function_is_none() {
    without_each("a_cublaslt_that_lacks_a_function_is_none", "cublasLt", |_| {
        let gpu = open(0).unwrap();
        assert_ne!(Gemm::of_halves(&gpu, 1), Gemm::CublasLt);
        works(&gpu);
    });
}

#[test]
fn too_little_memory_is_said_and_the_rest_goes_on() {
    const MIB: usize = 1 << 20;
    let memory = (64 * MIB).to_string();
    with_driver(
        "too_little_memory_is_said_and_the_rest_goes_on",
        &[("FAKE_MEMORY", &memory)],
        || {
            let gpu = open(0).unwrap();
            let held = gpu.filled(7, 16 * MIB).unwrap();
            let error = gpu.alloc(50 * MIB).unwrap_err();
            let Error::OutOfMemory { ordinal: 0, needed, free, total } = error else {
                panic!("{error}")
            };
            assert_eq!((needed, free, total), (50 * MIB, 48 * MIB, 64 * MIB));
            works(&gpu);
            // What is kept is given back where it does not fit what is asked for.
            drop(gpu.alloc(40 * MIB).unwrap());
            assert!(gpu.memory_stats().kept >= 40 * MIB);
            drop(gpu.alloc(48 * MIB).unwrap());
            assert!(gpu.memory_stats().kept < 50 * MIB);
            assert!(held.download::<u8>().unwrap().iter().all(|&byte| byte == 7));
            gpu.trim();
            assert_eq!(gpu.memory().unwrap(), (48 * MIB, 64 * MIB));
            drop((held, gpu));
            assert_nothing_is_left();
        },
    );
}

#[test]
fn without_pinned_memory_copies_arrive() {
    with_driver("without_pinned_memory_copies_arrive", &[("FAKE_NO_PINNED", "1")], || {
        let gpu = open(0).unwrap();
        let bytes: Vec<u8> = (0..21_000_001u32).map(|i| (i ^ (i >> 8)) as u8).collect();
        assert!(gpu.upload(&bytes).unwrap().download::<u8>().unwrap() == bytes);
        drop(gpu);
        assert_eq!(ever("pinned"), 0);
        assert_nothing_is_left();
    });
}

#[test]
fn what_cannot_be_launched_is_said_and_the_rest_goes_on() {
    with_driver("what_cannot_be_launched_is_said_and_the_rest_goes_on", &[], || {
        let gpu = open(0).unwrap();
        let error = launch(&gpu, "nobody", 0).unwrap_err();
        assert!(matches!(error, Error::Launch { kernel: "nobody", .. }), "{error}");
        let error = launch(&gpu, "goes_astray", 200 << 10).unwrap_err();
        assert!(matches!(error, Error::Launch { kernel: "goes_astray", .. }), "{error}");
        works(&gpu);
        // More shared memory than kernels have unless it is said.
        launch(&gpu, "goes_astray", 100 << 10).unwrap();
        let error = gpu.synchronize().unwrap_err();
        assert!(matches!(error, Error::Call { .. }), "{error}");
        assert!(error.to_string().contains("goes_astray was launched last"), "{error}");
        // Such a context is of no use any longer; what it had is given back all the same.
        assert!(gpu.upload(&[1u8]).is_err());
        assert_eq!(ever("module"), 1, "one source");
        drop(gpu);
        assert_nothing_is_left();
    });
}

#[test]
fn code_that_the_driver_does_not_take_is_said() {
    with_driver(
        "code_that_the_driver_does_not_take_is_said",
        &[("FAKE_IMAGE", "of tomorrow")],
        || {
            let gpu = open(0).unwrap();
            let error = launch(&gpu, "quantized_vector_add", 0).unwrap_err();
            assert!(matches!(error, Error::Refused { driver: (13, 0), .. }), "{error}");
            gpu.synchronize().unwrap();
        },
    );
}

#[test]
fn products_reach_cublaslt() {
    with_driver("products_reach_cublaslt", &[], || {
        let gpu = open(0).unwrap();
        assert_eq!(Gemm::of_halves(&gpu, 1), Gemm::CublasLt);
        // Small whole numbers, of which bf16 loses nothing.
        let at = |i: usize, of: usize| (i * 7 % of) as f32 - 3.0;
        let (n, k) = (5, 16);
        for (m, biased) in [(1, false), (3, true), (3, false), (64, true)] {
            let x: Vec<f32> = (0..m * k).map(|i| at(i, 6)).collect();
            let w: Vec<f32> = (0..n * k).map(|i| at(i, 11)).collect();
            let bias: Vec<f32> = (0..n).map(|i| at(i, 5)).collect();
            let halves: Vec<u16> = w.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
            let (x_at, w_at) = (gpu.upload(&x).unwrap(), gpu.upload(&halves).unwrap());
            let bias_at = gpu.upload(&bias).unwrap();
            let y = gpu.filled(0xff, 4 * m * n).unwrap();
            let product =
                Product { x: &x_at, w: &w_at, bias: biased.then_some(&bias_at), y: &y, m, n, k };
            plain(&gpu, Gemm::CublasLt, DType::BF16, &product).unwrap();
            for (i, got) in y.download::<f32>().unwrap().into_iter().enumerate() {
                let (row, column) = (i / n, i % n);
                let products = (0..k).map(|j| x[row * k + j] * w[column * k + j]);
                assert_eq!(
                    got,
                    products.sum::<f32>() + if biased { bias[column] } else { 0.0 },
                    "{m} {biased}"
                );
            }
        }
        // For a shape that it has no way for, a kernel of this crate is asked, which the fake does not have.
        let (x, w) = (gpu.filled(0, 65 * 16 * 4).unwrap(), gpu.filled(0, 16 * 2).unwrap());
        let y = gpu.alloc(65 * 4).unwrap();
        let product = Product { x: &x, w: &w, bias: None, y: &y, m: 65, n: 1, k: 16 };
        let error = plain(&gpu, Gemm::CublasLt, DType::BF16, &product).unwrap_err();
        assert!(matches!(error, Error::Launch { kernel: "gemm_pipelined_bf16", .. }), "{error}");
        drop((x, w, y, gpu));
        assert_nothing_is_left();
    });
}

#[test]
fn work_is_in_ranges_of_its_name() {
    with_driver("work_is_in_ranges_of_its_name", &[("INFINITY_NVTX", "libnvtx.so")], || {
        let gpu = open(0).unwrap();
        works(&gpu);
        assert_eq!(ranges("quantized_vector_add"), [1, 0]);
        assert_eq!([ranges("upload"), ranges("download")], [[2, 0], [1, 0]]);
        assert!(launch(&gpu, "nobody", 0).is_err());
        assert_eq!(ranges("nobody"), [1, 0]);
        let outer = nvtx::range("outer");
        let inner = nvtx::range("inner");
        assert_eq!(ranges("outer"), [1, 2]);
        drop(inner);
        assert_eq!(ranges("inner"), [1, 1]);
        drop(outer);
        assert_eq!(ranges("outer"), [1, 0]);
    });
}

#[test]
fn without_nvtx_work_is_done_all_the_same() {
    with_driver(
        "without_nvtx_work_is_done_all_the_same",
        &[("INFINITY_NVTX", "libnobody.so")],
        || {
            works(&open(0).unwrap());
        },
    );
}

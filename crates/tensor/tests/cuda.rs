//! The feature `cuda`: a GPU passes the suite of every device, bytes travel there and back, and without one the reason
//! is said.
#![cfg(feature = "cuda")]

mod common;

use common::Place;
use tensor::{Compute, DType, Device, Tensor};

/// Attention computes in halves, cuBLASLt may: the slack is for them.
fn gpu() -> Option<Place> {
    let device = Device::Cuda(0).available().map_err(testkit::skip_without_gpu).ok()?;
    Some(Place { compute: Compute::on(device).unwrap(), slack: 200.0 })
}

common::suite!(gpu);

#[test]
fn tensors_travel_to_the_device_and_back() {
    let found = Device::Cuda(0).available().map_err(testkit::skip_without_gpu);
    let Ok(device) = found else { return };
    let t = Tensor::from_vec([4, 32], (0..128).map(|i| i as f32).collect()).unwrap();
    for dtype in [DType::F32, DType::F16, DType::Q8_0] {
        let host = t.to_dtype(dtype).unwrap();
        let there = host.to_device(&device).unwrap();
        assert_eq!(there.device(), device);
        assert!(there.bytes().is_err(), "its bytes are not in this machine's memory");
        // More rows than a whole number of times, and fewer.
        for rows in [11, 3] {
            let repeated = Compute::on(device).unwrap().repeated(&host, rows).unwrap();
            let here = Compute::cpu().repeated(&host, rows).unwrap();
            let repeated = repeated.to_device(&Device::Cpu).unwrap();
            assert_eq!(repeated.bytes().unwrap(), here.bytes().unwrap());
            assert_eq!(here.shape(), repeated.shape());
        }
        let rows = there.slice_rows(1..3).unwrap().to_device(&Device::Cpu).unwrap();
        assert_eq!(rows.bytes().unwrap(), host.slice_rows(1..3).unwrap().bytes().unwrap());
    }
    assert!(Device::list().iter().any(|d| d.device == device));
}

/// Odd rows, of ordinary numbers and of some that are far apart.
#[test]
fn elements_change_their_type_there_as_they_do_here() {
    use DType::*;
    let found = Device::Cuda(0).available().map_err(testkit::skip_without_gpu);
    let Ok(device) = found else { return };
    let x = (0..3 * 512).map(|i| {
        let x = (i as f32 * 0.37).sin() * (i as f32 * 0.011).cos();
        if i % 97 == 0 { 40.0 * x } else { x }
    });
    let numbers = Tensor::from_vec([3, 512], x.collect()).unwrap();
    let all = [F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, F32];
    for from in [F32, F16, BF16, Q8_0] {
        let here = numbers.to_dtype(from).unwrap();
        let there = here.to_device(&device).unwrap();
        for to in all {
            assert!(device.can_encode(to), "{to}");
            let made = there.to_dtype(to).unwrap();
            assert_eq!((made.device(), made.dtype(), made.shape()), (device, to, here.shape()));
            let made = made.to_device(&Device::Cpu).unwrap();
            let want = here.to_dtype(to).unwrap();
            assert!(made.bytes().unwrap() == want.bytes().unwrap(), "{from} to {to}");
        }
        assert!(there.reshape([6, 256]).unwrap().to_dtype(Q4_K).is_ok());
        assert!(there.reshape([12, 128]).unwrap().to_dtype(Q4_K).is_err(), "blocks straddle rows");
        assert!(there.to_dtype(IQ2_S).is_err() && !device.can_encode(IQ2_S));
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error_in_one_line() {
    let error = Compute::on(Device::Cuda(999)).unwrap_err().to_string();
    assert!(error.starts_with("cuda:999: ") && error.lines().count() == 1, "{error}");
}

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

#[test]
fn a_device_that_is_not_there_is_an_error_in_one_line() {
    let error = Compute::on(Device::Cuda(999)).unwrap_err().to_string();
    assert!(error.starts_with("cuda:999: ") && error.lines().count() == 1, "{error}");
}

//! Adds INT8 vectors on a GPU if there is one, and says what is missing if there is none.

use cuda_kernels::ops::vector_add::{Affine, VectorAdd, quantized_vector_add};
use cuda_kernels::{Error, compile::CubinCache, driver};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gpu = match driver::open(0, CubinCache::from_environment()) {
        Ok(gpu) => gpu,
        Err(Error::Unavailable { ordinal, reason }) => {
            println!("cuda:{ordinal}: {reason}");
            return Ok(());
        }
        Err(other) => return Err(other.into()),
    };
    let half = Affine { scale: 0.5, zero_point: 0 };
    let (a, b, out) = (gpu.upload(&[3i8; 1000])?, gpu.upload(&[4i8; 1000])?, gpu.alloc(1000)?);
    quantized_vector_add(&gpu, VectorAdd::Wide, 1000, (&a, half), (&b, half), (&out, half))?;
    assert_eq!(out.download::<i8>()?, [7; 1000]);
    println!("{}: 1.5 + 2 = 3.5", gpu.properties().name);
    Ok(())
}

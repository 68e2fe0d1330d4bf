//! Encodes a row of floats as each type that can be encoded, and prints size and error.

use blocks::DType;

fn main() -> Result<(), blocks::BlockError> {
    // Sums of sines: smooth, all magnitudes, no random numbers needed.
    let row: Vec<f32> =
        (0..1024).map(|i| (i as f32 * 0.37).sin() + 0.5 * (i as f32 * 1.71).cos()).collect();
    let power = row.iter().map(|x| f64::from(x * x)).sum::<f64>();

    println!("{:8} {:>8} {:>8} {:>8}", "type", "bits", "bytes", "SNR dB");
    for &dtype in DType::ALL {
        if !dtype.is_quantized() || !blocks::can_encode(dtype) || 1024 % dtype.block_len() != 0 {
            continue;
        }
        let mut bytes = vec![0; dtype.bytes_for(row.len()).expect("whole blocks")];
        blocks::encode(dtype, &row, row.len(), None, &mut bytes)?;
        let mut back = vec![0.0; row.len()];
        blocks::decode(dtype, &bytes, &mut back)?;
        let noise: f64 = row.iter().zip(&back).map(|(a, b)| f64::from((a - b) * (a - b))).sum();
        let snr = 10.0 * (power / noise).log10();
        println!("{:8} {:8.3} {:8} {snr:8.2}", dtype.name(), dtype.bits_per_weight(), bytes.len());
        // About six decibels a bit; four leave room for scales and for the low-bit types.
        assert!(snr > 4.0 * (dtype.bits_per_weight() - 1.5), "{}", dtype.name());
    }
    Ok(())
}

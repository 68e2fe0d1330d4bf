//! How long a step takes: the larger of the time to move its bytes and the time to multiply.

/// A machine and a model's weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepCost {
    /// Bytes of the weights, in two bytes each, which every step reads.
    pub weights: u64,
    /// Bytes a second between memory and processor.
    pub bandwidth: u64,
    /// Operations a second.
    pub flops: f64,
    /// Bytes a second between host and device.
    pub host_bandwidth: u64,
}

/// What a step does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepWork {
    /// Tokens whose positions are computed: prompts in part or whole, and one for each that generates.
    pub tokens: usize,
    /// Bytes of keys and values read.
    pub cache_bytes: u64,
    /// Bytes copied between host and device.
    pub swapped_bytes: u64,
}

impl StepCost {
    /// Microseconds, at least 1.
    pub fn micros(&self, work: &StepWork) -> u64 {
        let bytes = (self.weights + work.cache_bytes) as f64 / self.bandwidth as f64;
        // A multiplication and an addition for each weight and token.
        let operations = (self.weights / 2) as f64 * 2.0 * work.tokens as f64 / self.flops;
        let swap = work.swapped_bytes as f64 / self.host_bandwidth as f64;
        (1e6 * (bytes.max(operations) + swap)) as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_waits_for_memory_and_a_prompt_for_multiplications() {
        let cost = StepCost {
            weights: 26_000_000_000,
            bandwidth: 1_555_000_000_000,
            flops: 312e12,
            host_bandwidth: 25_000_000_000,
        };
        // 26 GB at 1,555 GB/s.
        let one = cost.micros(&StepWork { tokens: 1, ..Default::default() });
        assert_eq!(one, 16_721);
        assert_eq!(cost.micros(&StepWork { tokens: 64, ..Default::default() }), one);
        // 2 * 13e9 * 2048 operations at 312 T/s.
        let prompt = cost.micros(&StepWork { tokens: 2048, ..Default::default() });
        assert_eq!(prompt, 170_667);
        let swap = StepWork { tokens: 1, swapped_bytes: 25_000_000, ..Default::default() };
        assert_eq!(cost.micros(&swap), one + 1000);
    }
}

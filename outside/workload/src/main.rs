//! An hour of users: how many come, and how many tokens they ask for.

use workload::{Lengths, Workload};

fn main() {
    let users = Workload {
        requests: 7200,
        rate: 2.0,
        prompt: Lengths::LogNormal { median: 200.0, sigma: 1.0 },
        output: Lengths::ShareGpt,
        ..Workload::default()
    };
    let trace = users.trace();
    let last = trace[trace.len() - 1].arrival as f64 / 1e6;
    let tokens: usize = trace.iter().map(|r| r.output).sum();
    println!("{} requests in {last:.0} s ask for {tokens} tokens", trace.len());
    // 7,200 gaps of half a second on average; five standard errors.
    assert!((last - 3600.0).abs() < 5.0 * 0.5 * 7200f64.sqrt());
}

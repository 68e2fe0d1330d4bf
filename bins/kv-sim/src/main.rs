//! t
use kv_sim::{cost::StepCost, experiment::*, memory::*, pages::*, sim::*, trace::*};
fn main() {
    let a: Vec<f64> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let (n, rate, pat, seed) = (a[0] as usize, a[1], a[2], a[3] as u64);
    let trace = Workload { requests: n, rate, max_model_len: 2048, system_prompt: 0, seed }.trace();
    let cost = StepCost { weights: 26_000_000_000, bandwidth: 1_555_000_000_000, flops: 312e12, host_bandwidth: 25_000_000_000 };
    let rules = Rules { patience: (pat * 1e6) as u64, max_num_seqs: 256, max_num_batched_tokens: 2048, bytes_per_token: 819_200, cost };
    let pages = PagesConfig { slots: 16_000_000_000 / 819_200, host_slots: 0, block_size: 16, eviction: paged_kv::EvictionPolicy::Lru, preemption: Preemption::Recompute, system_prompt: 0, bytes_per_token: 819_200 };
    let e = Experiment { trace, max_model_len: 2048, rules, pages };
    let runs: Vec<_> = [Allocator::FirstFit, Allocator::BestFit, Allocator::ReserveMaximum, Allocator::Pages].map(|x| e.run(x).unwrap()).into();
    let last = e.trace.last().unwrap().arrival;
    let until = last + rules.patience;
    println!("last {} until {}", last as f64 / 1e6, until as f64 / 1e6);
    for r in &runs {
        println!("{:?}", r.summary(until));
        println!("  by: {:?}", [2,4,6,8,10,12,15,20,25,30,40].map(|t| r.generated_by(t * 1_000_000)));
    }
}

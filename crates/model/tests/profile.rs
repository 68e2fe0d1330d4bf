//! What a profile says of a forward.

use model::{Batch, Model, Outputs};
use tensor::kv::SeqId;
use tensor::profile::Event;
use tensor::{Compute, DType, Profile};

#[test]
fn every_product_is_a_line_with_its_bytes_and_operations() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/bard-f16.gguf");
    let model = Model::open(path).unwrap();
    let mut batch = Batch::new();
    batch.extend(SeqId(0), &[5, 6, 7]);
    let outputs = Outputs::last_logits(&batch);
    let run = |model: &Model| {
        let mut cache = model.new_cache(DType::F16, 8).unwrap();
        model.forward(&batch, &mut cache, &outputs).unwrap().logits.as_f32().unwrap().to_vec()
    };
    let profile = Profile::on();
    let watched = model.clone().with_compute(Compute::cpu().with_profile(profile.clone()));
    assert_eq!(run(&watched), run(&model));

    let events = profile.events();
    let of =
        |name: &'static str| -> Vec<&Event> { events.iter().filter(|e| e.name == name).collect() };
    let products = watched.decoder().unwrap().products();
    // Products of the same activations are one: queries, keys and values; gate and up.
    let (output, layers) = products.split_last().unwrap();
    let jobs = layers.chunks(7).flat_map(|l| [&l[..3], &l[3..4], &l[4..6], &l[6..]]);
    let jobs: Vec<_> = jobs.chain([std::slice::from_ref(output)]).collect();
    let linear = of("linear");
    assert_eq!(linear.len(), jobs.len());
    // Three rows go through all products but those after the last attention, which one row needs.
    let last = jobs.len() - 4;
    for (i, (event, job)) in linear.iter().zip(jobs).enumerate() {
        let weights = || job.iter().map(|product| &product.linear.weight);
        let (cols, rows) = (job[0].linear.weight.cols(), if i < last { 3 } else { 1 });
        let out: usize = weights().map(|weight| weight.rows()).sum();
        assert_eq!(event.detail, job[0].linear.weight.dtype().name());
        assert_eq!(event.work.operations, 2 * rows * out * cols);
        let read: usize = weights().map(|weight| weight.byte_len()).sum();
        assert_eq!(event.work.bytes, read + 4 * rows * (out + cols));
    }
    let config = &watched.decoder().unwrap().config;
    let attention = of("attention");
    assert_eq!(attention.len(), config.n_layers);
    // The rows see one, two and three positions; each is 4 operations an element of the queries.
    let elements = config.n_heads * config.head_dim;
    assert!(attention.iter().all(|e| e.work.operations == 4 * (1 + 2 + 3) * elements));
    assert_eq!(of("lm head").len(), 1);
    profile.clear();
    assert!(profile.events().is_empty());
}

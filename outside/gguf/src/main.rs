//! Writes a GGUF file and reads it back.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::temp_dir().join(format!("outside-{}.gguf", std::process::id()));
    let weights: Vec<f32> = (0..64).map(|i| i as f32 / 64.0).collect();
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();

    let mut builder = gguf::Builder::new();
    builder.set("general.architecture", "toy").set("toy.block_count", 1u32);
    builder.tensor("output.weight", vec![2, 32], "F32".parse()?)?;
    let mut writer = builder.create(&path)?;
    writer.tensor("output.weight", &bytes)?;
    writer.commit()?;

    let file = gguf::Gguf::open(&path)?;
    for (key, value) in file.metadata().iter() {
        println!("{key} = {value:?}");
    }
    for tensor in file.tensors() {
        println!(
            "{} {:?} {} {} bytes",
            tensor.name,
            tensor.shape,
            tensor.dtype.name(),
            tensor.size
        );
    }
    let tensor = file.tensor("output.weight").expect("it was written");
    assert_eq!(file.data(tensor), bytes);

    // A damaged file is an error that says what is wrong.
    let mut damaged = std::fs::read(&path)?;
    damaged.truncate(40);
    println!("truncated: {}", gguf::parse(&damaged).expect_err("most of it is missing"));
    Ok(std::fs::remove_file(path)?)
}

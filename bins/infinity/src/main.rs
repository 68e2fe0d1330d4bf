//! `infinity`: compress, measure and run language models.
fn main() {}

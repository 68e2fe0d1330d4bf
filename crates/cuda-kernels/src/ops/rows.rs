//! Rows gathered, added up and ranked; the embedding.

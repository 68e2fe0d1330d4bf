//! The GGUF container: reader for versions 2 and 3, writer for version 3

# Everything a developer runs. `just` lists it. Continuous integration calls the same steps: .ci/run

[private]
default:
    @just --list

# What continuous integration runs, all of it
ci:
    .ci/run

# Does it compile, with and without CUDA
check:
    cargo check --workspace --all-targets
    cargo check --workspace --features tensor/cuda

# All tests; arguments go to cargo (just test -p gguf)
test *ARGS="--workspace":
    cargo test {{ARGS}}

# Formatting and clippy, warnings being errors, with and without CUDA
lint:
    .ci/run fmt lint lint_cuda

# Licences, sources, duplicates and advisories of the dependencies (needs cargo-deny)
deny:
    cargo deny --all-features check

# API documentation and the book
doc:
    .ci/run doc book

# Benchmarks; arguments go to cargo (just bench -- blocks)
bench *ARGS:
    cargo bench -p benches {{ARGS}}

# Alternating runs against llama.cpp and ik_llama.cpp: see benches/peers/README.md
peers *ARGS:
    cargo build --release -p infinity-cli
    cargo run --release -p benches --bin peers -- {{ARGS}}

# The tests that compare with other implementations' answers, which must be present
golden:
    CI=true cargo test --release --workspace

# Fuzz every target, or those named, for so many seconds or executions (just fuzz 10000000x gguf_reader)
fuzz LIMIT="60" *TARGETS:
    fuzz/run.sh {{LIMIT}} {{TARGETS}}

# The kernels' tests under AddressSanitizer (just asan --test matmul)
asan *ARGS:
    crates/cpu-kernels/asan.sh {{ARGS}}

# CUDA kernels without a GPU: compiled for each architecture, and run on the emulator under AddressSanitizer
kernels:
    .ci/run kernels

# The same, and the book's table of registers and shared memory made anew
kernel-table:
    UPDATE_KERNEL_TABLE=1 .ci/run kernels

# CUDA kernels on a GPU, which must be there, against the same references as on the emulator
gpu-test:
    .ci/run gpu_test

# Each CUDA kernel's time over its floor; arguments name families (just gpu-bench -- vector_add)
gpu-bench *ARGS:
    cargo run --release -p cuda-kernels --example gpu_bench -- {{ARGS}}

# A folder with both, to copy to a machine that has a GPU and no Rust
gpu-bundle:
    .ci/run gpu_bundle

# The server's page in headless Chromium, with screenshots in target/page (needs node, npm and chromium)
page:
    .ci/run page

# The clients that people use against our server: openai, langchain, lm-eval, schemathesis
clients:
    .ci/run clients

# Each library crate from a project outside the workspace, alone
outside *CRATE:
    outside/run.sh {{CRATE}}

# The oldest Rust that the workspace states, which rustup installs
msrv:
    rustup toolchain install --profile minimal "$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)"
    cargo "+$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)" check --workspace --all-targets --locked

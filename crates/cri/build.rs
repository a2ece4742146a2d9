//! Compiles `proto/api.proto` to messages, service traits, server and client. protox does the work of
//! `protoc`, so that a Rust toolchain is all a build needs.

use std::io::{Error, Result};
use std::path::PathBuf;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=proto/api.proto");
    let mut compiler = protox::Compiler::new(["proto"]).map_err(Error::other)?;
    compiler.include_imports(true).include_source_info(true).open_file("api.proto").map_err(Error::other)?;

    // The tests compare this with a table of names and numbers.
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("cargo sets OUT_DIR"))?;
    std::fs::write(PathBuf::from(out).join("api.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        // The stubs make the service traits object-safe (streams are boxed) and a partial
        // implementation possible: a call that it lacks answers `Unimplemented`.
        .generate_default_stubs(true)
        .btree_map(".")
        // Credentials are never printed; `v1` has a `Debug` that hides them.
        .skip_debug([".runtime.v1.AuthConfig"])
        .compile_fds(compiler.file_descriptor_set())
}

//! Compiles the .proto files with protox (no system protoc) and keeps the descriptor set for
//! server reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors =
        protox::compile(["halflife/v1/model.proto", "halflife/v1/data.proto", "halflife/v1/control.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".halflife.v1").compile_fds(descriptors)?;
    Ok(())
}

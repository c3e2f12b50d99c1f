//! Compiles the schema with protox, so that no `protoc` has to be on the machine.

use protox::prost::Message as _;

const FILES: [&str; 4] = [
    "proto/skywave/v1/common.proto",
    "proto/skywave/v1/client.proto",
    "proto/skywave/v1/node.proto",
    "proto/skywave/v1/api.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("skywave_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".skywave.v1").compile_fds(descriptors)?;
    Ok(())
}

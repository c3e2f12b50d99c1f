//! Compiles the schema with protox, so that no `protoc` has to be on the machine.

use protox::prost::Message as _;

const FILES: [&str; 5] = [
    "proto/skywave/v1/common.proto",
    "proto/skywave/v1/client.proto",
    "proto/skywave/v1/node.proto",
    "proto/skywave/v1/api.proto",
    "proto/skywave/v1/peer.proto",
];

/// What the server API reads from JSON and writes as JSON itself, in the words of the schema. (What holds a payload is
/// written by hand where it is needed: a payload is JSON already.)
const READ: [&str; 15] = [
    "Durability",
    "HistoryRequest",
    "PresenceRequest",
    "PresenceCountRequest",
    "ForgetRequest",
    "NodesRequest",
    "ConnectionsRequest",
    "ChannelsRequest",
    "DisconnectRequest",
    "SubscribeRequest",
    "UnsubscribeRequest",
    "RefreshRequest",
    "RevokeRequest",
    "DrainRequest",
    "TailRequest",
];
const WRITTEN: [&str; 11] = [
    "Error",
    "PublishResponse",
    "PresenceCountResponse",
    "ForgetResponse",
    "NodesResponse",
    "NodeStatus",
    "ConnectionsResponse",
    "ConnectionStatus",
    "ChannelsResponse",
    "ChannelStatus",
    "ToldResponse",
];
/// What is left out of JSON where there is nothing to say.
const LEFT_OUT: [&str; 4] =
    ["PublishResponse.position", "ConnectionStatus.user", "ChannelsResponse.next", "Error.position"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("skywave_descriptor.bin"), descriptors.encode_to_vec())?;
    let name = |word: &&str| format!(".skywave.v1.{word}");
    let mut builder = tonic_prost_build::configure().bytes(".skywave.v1");
    for message in READ.iter().map(name) {
        builder = builder
            .type_attribute(&message, "#[derive(::serde::Deserialize)]")
            .type_attribute(&message, "#[serde(deny_unknown_fields)]");
    }
    for message in WRITTEN.iter().map(name) {
        builder = builder.type_attribute(&message, "#[derive(::serde::Serialize)]");
    }
    builder = builder
        .type_attribute(".skywave.v1.Position", "#[derive(::serde::Deserialize, ::serde::Serialize)]")
        .type_attribute(".skywave.v1.Position", "#[serde(deny_unknown_fields)]")
        .field_attribute(
            ".skywave.v1.ConnectionsResponse.more",
            "#[serde(skip_serializing_if = \"::std::ops::Not::not\")]",
        );
    for field in LEFT_OUT.iter().map(name) {
        builder = builder.field_attribute(&field, "#[serde(skip_serializing_if = \"Option::is_none\")]");
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}

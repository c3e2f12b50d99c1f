//! JSON and gRPC say the same: what the schema has, JSON has under the same name, and nothing else. (Pages of history and
//! lists of members are compared where they are written: `protocol/equality.rs`.)

use std::collections::BTreeSet;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind as Type, MessageDescriptor, Value as Said};
use serde::Serialize;
use serde_json::{Map, Value, json};
use skywave_proto::v1::{self, api_server::SERVICE_NAME};

use super::{Kind, METHODS, grpc::is_word_of, word_of};

fn pool() -> DescriptorPool {
    DescriptorPool::decode(v1::DESCRIPTOR).unwrap()
}

#[test]
fn every_method_of_the_schema_is_here_and_no_other() {
    let service = pool().get_service_by_name(SERVICE_NAME).unwrap();
    assert_eq!(service.methods().len(), METHODS.len());
    for rpc in service.methods() {
        let method = METHODS.iter().find(|method| is_word_of(method.word, rpc.name()));
        let method = method.unwrap_or_else(|| panic!("{} is not served", rpc.name()));
        assert_eq!(rpc.is_server_streaming(), matches!(method.kind, Kind::Tail));
    }
    let in_a_batch = pool().get_message_by_name("skywave.v1.BatchCommand").unwrap();
    let in_a_batch: BTreeSet<_> = in_a_batch.fields().map(|field| field.name().to_owned()).collect();
    let unary = METHODS.iter().filter(|method| matches!(method.kind, Kind::Unary(_)));
    assert_eq!(unary.map(|method| method.word.to_owned()).collect::<BTreeSet<_>>(), in_a_batch);
}

/// JSON with a value for every field.
fn full(message: &MessageDescriptor) -> Value {
    let mut object = Map::new();
    for field in message.fields() {
        let value = match field.kind() {
            Type::String => json!("k3x9k3x9"),
            Type::Uint32 | Type::Uint64 => json!(1),
            Type::Bool => json!(true),
            Type::Message(kind) if kind.name() == "Payload" => json!({ "any": null }),
            Type::Message(kind) => full(&kind),
            other => panic!("the schema has a new type: {other:?}"),
        };
        let value = if field.is_list() { json!([value]) } else { value };
        object.insert(field.name().to_owned(), value);
    }
    Value::Object(object)
}

#[test]
fn json_can_ask_whatever_the_schema_can_and_nothing_else() {
    let commands = pool().get_message_by_name("skywave.v1.BatchCommand").unwrap();
    for method in METHODS {
        let Kind::Unary(read) = method.kind else { continue };
        let field = commands.get_field_by_name(method.word).unwrap();
        let Type::Message(message) = field.kind() else { panic!("{}", method.word) };
        let mut asked = full(&message);
        let call = read(asked.to_string().as_bytes()).unwrap_or_else(|refusal| panic!("{}: {refusal:?}", method.word));
        assert_eq!(word_of(&call), method.word);
        let bytes = v1::BatchCommand { command: Some(call) }.encode_to_vec();
        let understood = DynamicMessage::decode(commands.clone(), &bytes[..]).unwrap();
        let understood = understood.get_field(&field);
        let understood = understood.as_message().unwrap();
        for field in message.fields() {
            assert!(understood.has_field(&field), "{} does not read {}", method.word, field.name());
        }
        asked["extra"] = json!(1);
        let refusal = read(asked.to_string().as_bytes()).unwrap_err();
        assert!(refusal.message.contains("unknown field `extra`"), "{}: {}", method.word, refusal.message);
    }
}

/// A message with a value in every field, but for the choices in it.
fn filled(message: &MessageDescriptor) -> DynamicMessage {
    let mut all = DynamicMessage::new(message.clone());
    for field in message.fields() {
        let value = match field.kind() {
            Type::String => Said::String("k3x9k3x9".into()),
            Type::Uint32 => Said::U32(7),
            Type::Uint64 => Said::U64(u64::MAX),
            Type::Bool => Said::Bool(true),
            Type::Message(kind) => Said::Message(filled(&kind)),
            other => panic!("the schema has a new type: {other:?}"),
        };
        all.set_field(&field, if field.is_list() { Said::List(vec![value]) } else { value });
    }
    all
}

fn facts(message: &DynamicMessage) -> Value {
    let fact = |(field, value): (FieldDescriptor, &Said)| (field.name().to_owned(), fact(value));
    Value::Object(message.fields().map(fact).collect())
}

fn fact(value: &Said) -> Value {
    match value {
        Said::String(text) => json!(text),
        Said::U32(number) => json!(number),
        Said::U64(number) => json!(number),
        Said::Bool(value) => json!(value),
        Said::Message(message) => facts(message),
        Said::List(list) => list.iter().map(fact).collect(),
        other => panic!("the schema has a new type: {other:?}"),
    }
}

/// Compares what a type says in JSON with what the schema says of it.
fn same<T: prost::Message + Default + Serialize>(name: &str) {
    let message = filled(&pool().get_message_by_name(&format!("skywave.v1.{name}")).unwrap());
    let ours = T::decode(&message.encode_to_vec()[..]).unwrap();
    assert_eq!(serde_json::to_value(&ours).unwrap(), facts(&message), "{name}");
}

#[test]
fn json_answers_what_the_schema_says() {
    same::<v1::PublishResponse>("PublishResponse");
    same::<v1::PresenceCountResponse>("PresenceCountResponse");
    same::<v1::ForgetResponse>("ForgetResponse");
    same::<v1::NodesResponse>("NodesResponse");
    same::<v1::ConnectionsResponse>("ConnectionsResponse");
    same::<v1::ChannelsResponse>("ChannelsResponse");
    same::<v1::ToldResponse>("ToldResponse");
    same::<v1::Error>("Error");
}

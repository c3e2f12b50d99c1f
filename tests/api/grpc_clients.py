"""Reflection, health and calls with Python's gRPC: it learns all it knows about the API from the node itself."""

import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

address, key = sys.argv[1:]
channel = grpc.insecure_channel(address)
bearer = (("authorization", f"Bearer {key}"),)

health = health_pb2_grpc.HealthStub(channel)
for service in ("", "skywave.v1.Api"):
    answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING, (service, answer)
watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=10)
assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
watched.cancel()

database = ProtoReflectionDescriptorDatabase(channel)
assert "skywave.v1.Api" in database.get_services(), database.get_services()
pool = DescriptorPool(database)
api = pool.FindServiceByName("skywave.v1.Api")
assert len(api.methods) == 17, [method.name for method in api.methods]


def kinds(name):
    method = api.methods_by_name[name]
    return GetMessageClass(method.input_type), GetMessageClass(method.output_type)


def call(name, metadata=bearer, **words):
    question, answer = kinds(name)
    rpc = channel.unary_unary(
        f"/skywave.v1.Api/{name}",
        request_serializer=question.SerializeToString,
        response_deserializer=answer.FromString,
    )
    return rpc(json_format.ParseDict(words, question()), metadata=metadata, timeout=10)


def refused(name, **words):
    try:
        call(name, **words)
    except grpc.RpcError as error:
        return error.code(), dict(error.trailing_metadata()).get("skywave-code")
    raise AssertionError(f"{name} was not refused")


assert [node.name for node in call("Nodes").nodes] == ["api-test"]
payload = {"json": "eyJ4IjoxfQ=="}  # {"x":1}
first = call("Publish", channel="tailed", data=payload)
assert first.position.offset == 1, first
again = call("Publish", channel="tailed", data=payload, key="k")
assert call("Publish", channel="tailed", data=payload, key="k").duplicate

question, answer = kinds("Tail")
tail = channel.unary_stream(
    "/skywave.v1.Api/Tail", request_serializer=question.SerializeToString, response_deserializer=answer.FromString
)
since = {"epoch": first.position.epoch, "offset": "1"}
events = tail(json_format.ParseDict({"channel": "tailed", "since": since}, question()), metadata=bearer, timeout=10)
assert next(events).subscribed.recovered
missed = next(events).publication
assert (missed.position.offset, missed.data.json) == (2, b'{"x":1}'), missed
call("Publish", channel="tailed", data={"text": "aGk="})
assert next(events).publication.data.text == b"hi"
events.cancel()

assert refused("Publish", channel="", data=payload) == (grpc.StatusCode.INVALID_ARGUMENT, "bad_request")
assert refused("History", channel="nowhere:a") == (grpc.StatusCode.NOT_FOUND, "unknown_namespace")
assert refused("History", channel="live:a") == (grpc.StatusCode.FAILED_PRECONDITION, "no_history")
assert refused("Nodes", metadata=()) == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
assert refused("Drain", node="nobody") == (grpc.StatusCode.NOT_FOUND, "not_found")
try:
    channel.unary_unary("/skywave.v1.Api/Dance")(b"", metadata=bearer, timeout=10)
    raise AssertionError("an unknown method was answered")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
print("gRPC: reflection, health, calls, errors and a tail are as they should be")

"""What a client without our messages meets: reflection, health, and bytes that are no message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep.serve.grpc.messages import HEALTH, METHODS, SERVICE
from modelkeep.serve.protocol.keys import Ring
from tests.serve.grpc.client import MADE, WAIT, Connect, grpc, question


def test_grpcurl_and_others_can_ask_what_there_is(connect: Connect) -> None:
    reflection = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")
    pools = pytest.importorskip("google.protobuf.descriptor_pool")
    database = reflection.ProtoReflectionDescriptorDatabase(connect()[0])
    assert set(database.get_services()) == {SERVICE, "grpc.health.v1.Health"}
    there = pools.DescriptorPool(database)
    service = there.FindServiceByName(SERVICE)
    assert {method.name for method in service.methods} == {*METHODS, "ModelStreamInfer"}
    stream = service.FindMethodByName("ModelStreamInfer")
    assert (stream.client_streaming, stream.server_streaming) == (True, True)
    asked = there.FindMessageTypeByName("inference.ModelInferRequest")
    assert asked.fields_by_name["raw_input_contents"].number == 7
    check = there.FindServiceByName("grpc.health.v1.Health").FindMethodByName("Check")
    assert check.input_type.full_name == "grpc.health.v1.HealthCheckRequest"


def test_both_names_of_reflection_and_an_unknown_symbol(connect: Connect) -> None:
    messages = pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2")
    channel = connect()[0]
    for name in ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"):
        ask = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            request_serializer=messages.ServerReflectionRequest.SerializeToString,
            response_deserializer=messages.ServerReflectionResponse.FromString,
        )
        question = messages.ServerReflectionRequest(file_containing_symbol="no.such.Thing")
        (answer,) = ask(iter([question]), timeout=WAIT)
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_reflection_needs_a_key_where_there_are_keys(connect: Connect, tmp_path: Path) -> None:
    messages = pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2")
    ring = Ring(tmp_path / "keys.json")
    tokens = {scope: ring.add(scope, [scope]) for scope in ("infer", "read")}
    ask = connect(ring=ring)[0].stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=messages.ServerReflectionRequest.SerializeToString,
        response_deserializer=messages.ServerReflectionResponse.FromString,
    )
    said = []
    for token in ("none", *tokens.values()):
        question = messages.ServerReflectionRequest(list_services="")
        try:
            answers = list(ask(iter([question]), timeout=WAIT, metadata=[("authorization", f"Bearer {token}")]))
            said.append(str(len(answers)))
        except grpc.RpcError as error:
            said.append(error.code().name)
    assert said == ["UNAUTHENTICATED", "PERMISSION_DENIED", "1"]


def test_health_of_what_nobody_knows_is_not_found(connect: Connect) -> None:
    """grpc.io, 'GRPC Health Checking Protocol': a server must not speak for a service that it does not have."""
    check = connect()[0].unary_unary(
        f"/{HEALTH}/Check",
        request_serializer=MADE["HealthCheckRequest"].SerializeToString,
        response_deserializer=MADE["HealthCheckResponse"].FromString,
    )
    for known in ("", SERVICE, "m"):
        assert check(MADE["HealthCheckRequest"](service=known), timeout=WAIT).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        check(MADE["HealthCheckRequest"](service="other"), timeout=WAIT)
    assert caught.value.code().name == "NOT_FOUND"


def test_bytes_that_are_no_message(connect: Connect) -> None:
    channel = connect()[0]
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"\xff\xff\xff", timeout=WAIT)
    with pytest.raises(grpc.RpcError) as streamed:
        list(channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter([b"\xff"]), timeout=WAIT))
    for error in (caught.value, streamed.value):
        assert error.code().name == "INVALID_ARGUMENT"
        assert "the bytes are no ModelInferRequest" in error.details()


def test_each_question_of_a_stream_counts_against_the_rate_of_its_key(connect: Connect, tmp_path: Path) -> None:
    ring = Ring(tmp_path / "keys.json")
    token = ring.add("slow", ["infer"], rate=3)
    ask = connect(ring=ring)[0].stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=MADE["ModelInferRequest"].SerializeToString,
        response_deserializer=MADE["ModelStreamInferResponse"].FromString,
    )
    answers = ask(iter([question()] * 100), timeout=WAIT, metadata=[("authorization", f"Bearer {token}")])
    got: list[Any] = []
    with pytest.raises(grpc.RpcError) as caught:
        got.extend(answers)
    assert caught.value.code().name == "RESOURCE_EXHAUSTED"
    assert "key 'slow' may send 3 requests a second" in caught.value.details()
    assert 3 <= len(got) < 100
    assert not any(answer.error_message for answer in got)

"""The messages of the Open Inference Protocol v2 over gRPC, made from a table: names and numbers of their fields.

The protocol: github.com/kserve/open-inference-protocol, open_inference_grpc.proto, and what Triton adds to it
(triton-inference-server/common, protobuf/); enums are numbers here, which is the same on the wire. A table, for code
that protoc wrote runs with few versions of protobuf; in a pool of their own, for a client in the same process registers
the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from modelkeep import extras

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
TENSOR = "name:string=1 datatype:string=2 shape:int64*=3"
CARRIED = f"{TENSOR} parameters:InferParameter%=4 contents:InferTensorContents=5"
INFER = "model_name:string=1 model_version:string=2 id:string=3 parameters:InferParameter%=4"
MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:bool=1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:bool=1",
    "ModelReadyRequest": "name:string=1 version:string=2",
    "ModelReadyResponse": "ready:bool=1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:string=1 version:string=2 extensions:string*=3",
    "ModelMetadataRequest": "name:string=1 version:string=2",
    "ModelMetadataResponse": "name:string=1 versions:string*=2 platform:string=3 inputs:Tensor*=4 outputs:Tensor*=5",
    "Tensor": TENSOR,
    "InferParameter": "bool_param:bool|=1 int64_param:int64|=2 string_param:string|=3 double_param:double|=4"
    " uint64_param:uint64|=5",
    "InferTensorContents": "bool_contents:bool*=1 int_contents:int32*=2 int64_contents:int64*=3 uint_contents:uint32*=4"
    " uint64_contents:uint64*=5 fp32_contents:float*=6 fp64_contents:double*=7 bytes_contents:bytes*=8",
    "InputTensor": CARRIED,
    "RequestedOutput": "name:string=1 parameters:InferParameter%=2",
    "OutputTensor": CARRIED,
    "ModelInferRequest": f"{INFER} inputs:InputTensor*=5 outputs:RequestedOutput*=6 raw_input_contents:bytes*=7",
    "ModelInferResponse": f"{INFER} outputs:OutputTensor*=5 raw_output_contents:bytes*=6",
    "ModelStreamInferResponse": "error_message:string=1 infer_response:ModelInferResponse=2",
    "ModelConfigRequest": "name:string=1 version:string=2",
    "ModelConfigResponse": "config:ModelConfig=1",
    "ModelConfig": "name:string=1 platform:string=2 max_batch_size:int32=4 input:ModelInput*=5 output:ModelOutput*=6"
    " backend:string=17",
    "ModelInput": "name:string=1 data_type:int32=2 dims:int64*=4",
    "ModelOutput": "name:string=1 data_type:int32=2 dims:int64*=3",
    "ModelStatisticsRequest": "name:string=1 version:string=2",
    "ModelStatisticsResponse": "model_stats:ModelStatistics*=1",
    "ModelStatistics": "name:string=1 version:string=2 last_inference:uint64=3 inference_count:uint64=4"
    " execution_count:uint64=5 inference_stats:InferStatistics=6 batch_stats:InferBatchStatistics*=7",
    "InferStatistics": "success:StatisticDuration=1 fail:StatisticDuration=2 queue:StatisticDuration=3"
    " compute_input:StatisticDuration=4 compute_infer:StatisticDuration=5 compute_output:StatisticDuration=6"
    " cache_hit:StatisticDuration=7 cache_miss:StatisticDuration=8",
    "InferBatchStatistics": "batch_size:uint64=1 compute_input:StatisticDuration=2 compute_infer:StatisticDuration=3"
    " compute_output:StatisticDuration=4",
    "StatisticDuration": "count:uint64=1 ns:uint64=2",
    "RepositoryIndexRequest": "repository_name:string=1 ready:bool=2",
    "RepositoryIndexResponse": "models:ModelIndex*=1",
    "ModelIndex": "name:string=1 version:string=2 state:string=3 reason:string=4",
    "ModelRepositoryParameter": "bool_param:bool|=1 int64_param:int64|=2 string_param:string|=3 bytes_param:bytes|=4",
    "RepositoryModelLoadRequest": "repository_name:string=1 model_name:string=2 parameters:ModelRepositoryParameter%=3",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "repository_name:string=1 model_name:string=2"
    " parameters:ModelRepositoryParameter%=3",
    "RepositoryModelUnloadResponse": "",
}
"""``field:type=number`` each; ``*`` is repeated, ``%`` a map from string, ``|`` one choice of the message's oneof."""
METHODS = (
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"),
    *("ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
)
"""Of one question and one answer each."""
STREAM = "ModelStreamInfer"
HEALTH = "grpc.health.v1.Health"
"""What load balancers and Kubernetes ask (github.com/grpc/grpc, doc/health-checking.md)."""
HEALTH_MESSAGES = {"HealthCheckRequest": "service:string=1", "HealthCheckResponse": "status:int32=1"}
CHOICE = "parameter_choice"


@cache
def pool() -> Any:
    """The descriptors of both services and their messages. Raises MissingExtra without protobuf."""
    made = extras.need("google.protobuf.descriptor_pool", extra="grpc").DescriptorPool()
    stream = (STREAM, "ModelInferRequest", "ModelStreamInferResponse")
    unary = [(name, f"{name}Request", f"{name}Response") for name in METHODS]
    made.AddSerializedFile(_file("modelkeep/inference.proto", SERVICE, MESSAGES, unary, stream))
    check = [("Check", *HEALTH_MESSAGES)]
    made.AddSerializedFile(_file("grpc/health/v1/health.proto", HEALTH, HEALTH_MESSAGES, check))
    return made


@cache
def classes() -> dict[str, Any]:
    """The message classes by name. Raises MissingExtra without protobuf."""
    factory = extras.need("google.protobuf.message_factory", extra="grpc")
    packages = {**dict.fromkeys(MESSAGES, PACKAGE), **dict.fromkeys(HEALTH_MESSAGES, HEALTH.rpartition(".")[0])}
    found = {name: pool().FindMessageTypeByName(f"{package}.{name}") for name, package in packages.items()}
    return {name: factory.GetMessageClass(descriptor) for name, descriptor in found.items()}


Method = tuple[str, ...]
"""Its name, and those of its question and its answer."""


def _file(
    path: str, service: str, messages: dict[str, str], unary: Sequence[Method], stream: Method | None = None
) -> bytes:
    """A service and its messages as a FileDescriptorProto."""
    package, _, name = service.rpartition(".")
    descriptors = extras.need("google.protobuf.descriptor_pb2", extra="grpc")
    file = descriptors.FileDescriptorProto(name=path, package=package, syntax="proto3")
    for message, fields in messages.items():
        _describe(file.message_type.add(name=message), fields)
    described = file.service.add(name=name)
    for method in (*unary, *([stream] if stream else [])):
        asked, answered = (f".{package}.{message}" for message in method[1:])
        both = method is stream
        described.method.add(
            name=method[0], input_type=asked, output_type=answered, client_streaming=both, server_streaming=both
        )
    return bytes(file.SerializeToString())


def _describe(message: Any, fields: str) -> None:
    for text in fields.split():
        name, _, rest = text.partition(":")
        kind, _, number = rest.partition("=")
        field = message.field.add(name=name, number=int(number), label=3 if kind[-1] in "*%" else 1)
        _type(field, kind.rstrip("*%|"))
        if kind.endswith("|"):
            if not message.oneof_decl:
                message.oneof_decl.add(name=CHOICE)
            field.oneof_index = 0
        elif kind.endswith("%"):
            _map(message, field)


def _type(field: Any, kind: str) -> None:
    if kind in MESSAGES:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")


def _map(message: Any, field: Any) -> None:
    """A map is a repeated message of key and value (protobuf's language guide, 'Maps')."""
    entry = message.nested_type.add(name=f"{field.name.title()}Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=1, type=field.TYPE_MESSAGE, type_name=field.type_name)
    field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"

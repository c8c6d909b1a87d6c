"""What NVIDIA's own client finds when it asks a modelkeep server: run by another environment's Python, prints JSON.

    python triton_client.py HTTP_HOST:PORT GRPC_HOST:PORT

Each check is a function ``check_…``; the document printed holds its name and "ok", or what went wrong.
"""

import asyncio
import json
import sys
import traceback

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException

HTTP, GRPC = sys.argv[1:3]
DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
TEXTS = ["", "plain", "grüße 你好 🙂", "a\x00b\n", "x" * 5000]


def values(datatype, rows=2, columns=3):
    if datatype == "BYTES":
        return np.array([TEXTS[i % len(TEXTS)].encode() for i in range(rows * columns)], object).reshape(rows, columns)
    kind = np.dtype(DATATYPES[datatype])
    if kind.kind == "b":
        return (np.arange(rows * columns) % 2).astype(bool).reshape(rows, columns)
    if kind.kind in "iu":
        bounds = np.iinfo(kind)
        line = [bounds.min, bounds.max, 0, 1, bounds.max - 1, 7]
        return np.array((line * rows)[: rows * columns], kind).reshape(rows, columns)
    return np.array(([0.5, -1.25, 1e4, -0.0, 3.0, 2.0**-14] * rows)[: rows * columns], kind).reshape(rows, columns)


def same(got, want):
    assert got is not None, "no such output"
    assert got.shape == want.shape, (got.shape, want.shape)
    assert (got == want).all(), (got, want)


def asked(module, array, datatype, **given):
    tensor = module.InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, **given)
    return [tensor]


def refused(call, *words):
    found = None
    try:
        call()
    except InferenceServerException as error:
        found = error
    assert found is not None, "it was not refused"
    for word in words:
        assert word in str(found), f"'{word}' is not in: {found}"
    return found


# ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_http_health_and_metadata():
    with http.InferenceServerClient(HTTP) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("echo-FP32")
        assert client.is_model_ready("echo-FP32", "1")
        assert not client.is_model_ready("nobody")
        server = client.get_server_metadata()
        assert server["name"] == "modelkeep"
        assert "binary_tensor_data" in server["extensions"]
        model = client.get_model_metadata("echo-FP32")
        assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]
        assert model["versions"] == ["1"]
        config = client.get_model_config("echo-FP32")
        assert config["max_batch_size"] > 0
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}]
        refused(lambda: client.get_model_metadata("nobody"), "no model is called 'nobody'")


def check_http_every_datatype_in_bytes():
    with http.InferenceServerClient(HTTP) as client:
        for datatype in DATATYPES:
            array = values(datatype)
            reply = client.infer(f"echo-{datatype}", asked(http, array, datatype))
            same(reply.as_numpy("y"), array)


def check_http_every_datatype_in_json():
    with http.InferenceServerClient(HTTP) as client:
        for datatype in DATATYPES:
            if datatype in ("FP16", "BYTES"):
                continue
            array = values(datatype)
            outputs = [http.InferRequestedOutput("y", binary_data=False)]
            reply = client.infer(f"echo-{datatype}", asked(http, array, datatype, binary_data=False), outputs=outputs)
            same(reply.as_numpy("y"), array)
        texts = np.array([t.encode() for t in TEXTS[:3]], object).reshape(1, 3)
        outputs = [http.InferRequestedOutput("y", binary_data=False)]
        reply = client.infer("echo-BYTES", asked(http, texts, "BYTES", binary_data=False), outputs=outputs)
        assert [t.encode() if isinstance(t, str) else t for t in reply.as_numpy("y").ravel()] == list(texts.ravel())


def check_http_zero_size():
    with http.InferenceServerClient(HTTP) as client:
        for datatype in ("FP32", "INT64", "BYTES"):
            array = np.empty((2, 0), DATATYPES[datatype])
            reply = client.infer(f"echo-{datatype}", asked(http, array, datatype))
            assert reply.as_numpy("y").shape == (2, 0)


def check_http_ids_and_parameters():
    with http.InferenceServerClient(HTTP) as client:
        array = values("FP32")
        reply = client.infer("echo-FP32", asked(http, array, "FP32"), request_id="mine", parameters={"a": "b", "c": 3})
        found = reply.get_response()
        assert found["id"] == "mine"
        assert found["model_name"] == "echo-FP32"
        assert found["model_version"] == "1"
        reply = client.infer("echo-FP32", asked(http, array, "FP32"), model_version="1", timeout=5_000_000, priority=1)
        same(reply.as_numpy("y"), array)


def check_http_compression():
    array = np.arange(40_000, dtype=np.float32).reshape(2, -1)
    with http.InferenceServerClient(HTTP) as client:
        for sent in (None, "gzip", "deflate"):
            for back in (None, "gzip", "deflate"):
                reply = client.infer(
                    "echo-FP32",
                    asked(http, array, "FP32"),
                    request_compression_algorithm=sent,
                    response_compression_algorithm=back,
                )
                same(reply.as_numpy("y"), array)


def check_http_classification():
    array = np.array([[0.1, 0.7, 0.2], [5.0, -1.0, 2.0]], np.float32)
    with http.InferenceServerClient(HTTP) as client:
        outputs = [http.InferRequestedOutput("y", class_count=2)]
        found = client.infer("echo-FP32", asked(http, array, "FP32"), outputs=outputs).as_numpy("y")
        assert found.shape == (2, 2)
        assert [[int(cell.split(b":")[1]) for cell in row] for row in found] == [[1, 2], [0, 2]]
        assert float(found[1, 0].split(b":")[0]) == 5.0


def check_http_errors_have_words():
    array = values("FP32")
    with http.InferenceServerClient(HTTP) as client:
        refused(lambda: client.infer("nobody", asked(http, array, "FP32")), "no model is called 'nobody'")
        refused(lambda: client.infer("echo-FP32", asked(http, array, "FP32"), model_version="7"), "echo-FP32@7")
        refused(lambda: client.infer("echo-INT64", asked(http, array, "FP32")), "int64")
        outputs = [http.InferRequestedOutput("z")]
        refused(
            lambda: client.infer("echo-FP32", asked(http, array, "FP32"), outputs=outputs), "no output is called 'z'"
        )
        refused(lambda: client.infer("fails", asked(http, array, "FP32")), "poison")
        flat = asked(http, np.zeros(3, np.float32), "FP32")
        refused(lambda: client.infer("echo-FP32", flat), "shape [3]")


def check_http_statistics_and_repository():
    with http.InferenceServerClient(HTTP) as client:
        before = client.get_inference_statistics("echo-UINT8")["model_stats"][0]
        client.infer("echo-UINT8", asked(http, values("UINT8"), "UINT8"))
        after = client.get_inference_statistics("echo-UINT8", "1")["model_stats"][0]
        assert after["inference_count"] == before["inference_count"] + 2
        assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
        assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
        names = {row["name"]: row["state"] for row in client.get_model_repository_index()}
        assert names["echo-FP32"] == "READY"
        refused(lambda: client.load_model("../etc/passwd"), "")
        refused(lambda: client.unload_model("echo-FP32"), "bare file")
        assert client.is_model_ready("echo-FP32")


def check_http_many_at_once():
    array = values("FP32")
    with http.InferenceServerClient(HTTP, concurrency=8) as client:
        waiting = [(n, client.async_infer("echo-FP32", asked(http, array + n, "FP32"))) for n in range(64)]
        for n, one in waiting:
            same(one.get_result().as_numpy("y"), array + np.float32(n))


def check_http_aio():
    async def run():
        async with http_aio.InferenceServerClient(HTTP) as client:
            assert await client.is_server_ready()
            array = values("FP32")
            tasks = [client.infer("echo-FP32", asked(http, array + n, "FP32")) for n in range(32)]
            for n, reply in enumerate(await asyncio.gather(*tasks)):
                same(reply.as_numpy("y"), array + np.float32(n))

    asyncio.run(run())


# ── gRPC ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_grpc_health_and_metadata():
    with grpc.InferenceServerClient(GRPC) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("echo-FP32", "1")
        assert client.get_server_metadata().name == "modelkeep"
        model = client.get_model_metadata("echo-FP32")
        assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("x", "FP32", [-1, -1])]
        config = client.get_model_config("echo-FP32").config
        assert (config.name, list(config.input[0].dims), config.input[0].data_type) == ("echo-FP32", [-1], 11)
        refused(lambda: client.get_model_metadata("nobody"), "no model is called 'nobody'")


def check_grpc_every_datatype():
    with grpc.InferenceServerClient(GRPC) as client:
        for datatype in DATATYPES:
            array = values(datatype)
            reply = client.infer(f"echo-{datatype}", asked(grpc, array, datatype), request_id="mine")
            same(reply.as_numpy("y"), array)
            assert reply.get_response().id == "mine"


def check_grpc_zero_size():
    with grpc.InferenceServerClient(GRPC) as client:
        reply = client.infer("echo-FP32", asked(grpc, np.empty((2, 0), np.float32), "FP32"))
        assert reply.as_numpy("y").shape == (2, 0)


def check_grpc_classification():
    array = np.array([[0.1, 0.7, 0.2]], np.float32)
    with grpc.InferenceServerClient(GRPC) as client:
        outputs = [grpc.InferRequestedOutput("y", class_count=1)]
        found = client.infer("echo-FP32", asked(grpc, array, "FP32"), outputs=outputs).as_numpy("y")
        assert [cell.split(b":")[1] for cell in found.ravel()] == [b"1"]


def check_grpc_errors_have_codes():
    array = values("FP32")
    with grpc.InferenceServerClient(GRPC) as client:
        error = refused(lambda: client.infer("nobody", asked(grpc, array, "FP32")), "no model is called 'nobody'")
        assert error.status() == "StatusCode.NOT_FOUND"
        error = refused(lambda: client.infer("echo-INT64", asked(grpc, array, "FP32")), "int64")
        assert error.status() == "StatusCode.INVALID_ARGUMENT"
        error = refused(lambda: client.infer("slow", asked(grpc, array, "FP32"), client_timeout=0.2), "")
        assert error.status() == "StatusCode.DEADLINE_EXCEEDED"


def check_grpc_statistics_and_repository():
    with grpc.InferenceServerClient(GRPC) as client:
        client.infer("echo-INT8", asked(grpc, values("INT8"), "INT8"))
        found = client.get_inference_statistics("echo-INT8").model_stats[0]
        assert found.inference_count >= 2
        assert found.inference_stats.compute_infer.ns > 0
        assert found.batch_stats[0].batch_size == 2
        assert "echo-INT8" in {row.name for row in client.get_model_repository_index().models}
        refused(lambda: client.unload_model("echo-INT8"), "bare file")


def check_grpc_compression():
    array = np.zeros((2, 20_000), np.float32)
    with grpc.InferenceServerClient(GRPC) as client:
        for kind in ("gzip", "deflate"):
            reply = client.infer("echo-FP32", asked(grpc, array, "FP32"), compression_algorithm=kind)
            same(reply.as_numpy("y"), array)


def check_grpc_stream():
    import queue

    got = queue.Queue()
    array = values("FP32")
    with grpc.InferenceServerClient(GRPC) as client:
        client.start_stream(lambda result, error: got.put((result, error)))
        for n in range(20):
            client.async_stream_infer("echo-FP32", asked(grpc, array + n, "FP32"), request_id=str(n))
        client.async_stream_infer("nobody", asked(grpc, array, "FP32"), request_id="lost")
        client.async_stream_infer(
            "echo-FP32", asked(grpc, array, "FP32"), request_id="last", enable_empty_final_response=True
        )
        for n in range(20):
            result, error = got.get(timeout=20)
            assert error is None, error
            assert result.get_response().id == str(n)
            same(result.as_numpy("y"), array + np.float32(n))
        result, error = got.get(timeout=20)
        assert "no model is called 'nobody'" in str(error)
        result, error = got.get(timeout=20)
        assert result.get_response().parameters["triton_final_response"].bool_param
        client.stop_stream()


def check_grpc_aio():
    async def run():
        async with grpc_aio.InferenceServerClient(GRPC) as client:
            assert await client.is_server_ready()
            array = values("FP32")
            tasks = [client.infer("echo-FP32", asked(grpc, array + n, "FP32")) for n in range(32)]
            for n, reply in enumerate(await asyncio.gather(*tasks)):
                same(reply.as_numpy("y"), array + np.float32(n))

            async def questions():
                for n in range(10):
                    yield {"model_name": "echo-FP32", "inputs": asked(grpc, array + n, "FP32"), "request_id": str(n)}

            seen = 0
            async for result, error in client.stream_infer(questions()):
                assert error is None, error
                same(result.as_numpy("y"), array + np.float32(seen))
                seen += 1
            assert seen == 10

    asyncio.run(run())


def main():
    found = {}
    for name, check in [(n, f) for n, f in globals().items() if n.startswith("check_")]:
        try:
            check()
            found[name] = "ok"
        except Exception:  # noqa: BLE001 - whatever went wrong is what is reported
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

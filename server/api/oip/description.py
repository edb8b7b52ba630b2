"""What the server and its models are and have done, in the protocol's messages."""

from __future__ import annotations

from inference import grpc_service_pb2 as pb
from inference import model_config_pb2 as config_pb
from server.api.oip.tensors import FP32, INPUT
from server.errors import Starting
from server.serving.model import ServedModel
from server.serving.registry import Registry
from tidegate import __version__

PLATFORM = "tidegate_onnx"
EXTENSIONS = (
    "classification",
    "model_configuration",
    "model_repository",
    "sequence",
    "sequence(string_id)",
    "statistics",
)


def server() -> pb.ServerMetadataResponse:
    """What this is."""
    return pb.ServerMetadataResponse(name="tidegate", version=__version__, extensions=EXTENSIONS)


def metadata(model: ServedModel, versions: list[ServedModel]) -> pb.ModelMetadataResponse:
    """A model's tensors, as they travel: with the batch axis."""
    manifest, tensor = model.manifest, pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=sorted((str(each.version) for each in versions), key=int),
        platform=PLATFORM,
        inputs=[tensor(name=INPUT, datatype=FP32, shape=[-1, manifest.inputs_width])],
        outputs=[
            tensor(name=output.name, datatype=FP32, shape=[-1, output.size])
            for output in manifest.outputs
        ],
    )


def config(model: ServedModel) -> pb.ModelConfigResponse:
    """A model as a configuration: stateful, a step of one sequence a request."""
    manifest, kind = model.manifest, config_pb.TYPE_FP32
    batching = config_pb.ModelSequenceBatching(
        max_sequence_idle_microseconds=min(int(model.ttl * 1e6), 2**63 - 1)
    )
    return pb.ModelConfigResponse(
        config=config_pb.ModelConfig(
            name=model.name,
            platform=PLATFORM,
            backend="onnxruntime",
            max_batch_size=1,
            input=[config_pb.ModelInput(name=INPUT, data_type=kind, dims=[manifest.inputs_width])],
            output=[
                config_pb.ModelOutput(name=each.name, data_type=kind, dims=[each.size])
                for each in manifest.outputs
            ],
            sequence_batching=batching,
            model_transaction_policy=config_pb.ModelTransactionPolicy(decoupled=False),
        )
    )


def statistics(model: ServedModel) -> pb.ModelStatistics:
    """What a model version has done; steps of every way in count.

    Inputs go into a run as they are, which takes no time of its own; `compute_output` is what of a
    step's time is left beside waiting and running: to check its number, to count it, to answer.
    """
    totals = model.metrics.totals()
    run = totals.engine.steps
    return pb.ModelStatistics(
        name=model.name,
        version=str(model.version),
        inference_count=totals.applied,
        execution_count=totals.runs,
        inference_stats=pb.InferStatistics(
            success=_duration(totals.applied, totals.whole.seconds),
            fail=pb.StatisticDuration(count=totals.failed),
            queue=_duration(totals.queue.steps, totals.queue.seconds),
            compute_input=_duration(run, 0.0),
            compute_infer=_duration(run, totals.engine.seconds),
            compute_output=_duration(run, totals.other_seconds),
        ),
    )


def index(registry: Registry, only_ready: bool) -> pb.RepositoryIndexResponse:
    """Every model version, and why it is not served where it is not.

    Raises:
        Starting: they are not all loaded yet.
    """
    if not registry.ready:
        raise Starting
    entry = pb.RepositoryIndexResponse.ModelIndex
    entries = [entry(name=m.name, version=str(m.version), state="READY") for m in registry]
    if not only_ready:
        entries += [
            entry(name=name, version=str(version), state="UNAVAILABLE", reason=why)
            for name, version, why in registry.broken()
        ]
    return pb.RepositoryIndexResponse(models=sorted(entries, key=lambda each: each.name))


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))

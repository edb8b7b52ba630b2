"""What the server tells Prometheus. A leaf; the parts count here, the metrics port reads here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

from server.histograms import LABELS, HistogramFamily, Weighted

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
LONG_SECONDS = (*SECONDS, 5.0, 10.0, 30.0)
ROWS = tuple(float(1 << k) for k in range(13))

# They would add a series to each counter that says nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Every metric family, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.steps = self._counter("steps", "Steps applied.")
        self.opened = self._counter("sessions_opened", "Sessions opened.")
        self.closed = self._counter("sessions_closed", "Sessions closed by their callers.")
        self.lost = self._counter("sessions_lost", "Sessions lost in a run that failed.")
        self.expired = self._counter("sessions_expired", "Sessions expired.", "reason")
        self.errors = self._counter("errors", "Calls and rows that failed.", "code", "reason")
        self.remembered = self._counter("replies_remembered", "Rows answered from memory.")
        self.migrated = self._counter("sessions_migrated", "Sessions that went to another version.")
        self.live = self._gauge("sessions_live", "Live sessions.")
        self.resident = self._gauge("sessions_resident", "Sessions whose state is on the device.")
        self.stored = self._counter("sessions_stored", "Records of sessions written to the store.")
        self.taken_up = self._counter("sessions_taken_up", "Sessions that came out of the store.")
        self.moved = self._counter("sessions_moved", "Sessions that another server took over.")
        self.bad_records = self._counter("records_bad", "Stored records that cannot be used.")
        self.unsaved = self._gauge("sessions_unsaved", "Sessions with steps that are not stored.")
        self.store_lag = self._gauge(
            "store_lag_seconds", "For how long something has been waiting to be stored."
        )
        self.queued = self._gauge("queue_steps", "Steps waiting or running.")
        self.state_bytes = self._gauge("state_bytes", "Bytes of device memory that hold state.")
        self.device = self._gauge("device_info", "The device in use.", "device")
        text = "Population stability index against training."
        self.feature_psi = self._gauge("feature_psi", text, "feature")
        self.feature_samples = self._gauge("feature_samples", "Steps that the indices rest on.")
        self.batch_rows = self._histogram("batch_rows", "Rows in a run.", ROWS)
        text = "Runs that were asked for while one was under way on the GPU."
        self.runs_ahead = self._counter("runs_ahead", text)
        self.queue_seconds = self._histogram(
            "step_queue_seconds", "Seconds from a step's arrival to its run.", SECONDS
        )
        self.engine_seconds = self._histogram(
            "step_engine_seconds", "Seconds of the run that held the step.", SECONDS
        )
        self.store_seconds = self._histogram(
            "store_write_seconds", "Seconds of the write that held the record.", SECONDS
        )
        self.step_seconds = self._histogram(
            "step_seconds", "Seconds from a step's arrival to its completion.", SECONDS
        )
        text = "Seconds from the arrival of a message that steps to its reply's departure."
        self.reply_seconds = self._histogram("reply_seconds", text, LONG_SECONDS, "rpc")

        self._families = [each for each in vars(self).values() if isinstance(each, Counter | Gauge)]
        self._histograms = [each for each in vars(self).values() if type(each) is HistogramFamily]
        text = "Bundles of the repository that cannot be served."
        self.broken = Gauge("tidegate_models_broken", text, registry=self.registry)
        text = "Times that a bundle was looked at and refused."
        self.bundles_refused = Counter("tidegate_bundles_refused", text, registry=self.registry)
        text = "Calls and streams that sent bytes which are no message of theirs."
        self.undecoded = Counter("tidegate_decode_errors", text, registry=self.registry)
        text = "Bytes of calls under way that count against max_inflight_bytes."
        self.inflight_bytes = Gauge("tidegate_inflight_bytes", text, registry=self.registry)
        text = "Whether the store answers."
        self.store_up = Gauge("tidegate_store_up", text, ["store"], registry=self.registry)
        self.store_failures = Counter(
            "tidegate_store_failures", "Calls that the store did not answer.",
            registry=self.registry,
        )  # fmt: skip
        text = "Calls refused for what they say of their caller."
        self.refused = Counter("tidegate_access_refused", text, ["reason"], registry=self.registry)
        text = "Calls and messages refused since their tenant's quota was used up."
        self._quota_reached = Counter(
            "tidegate_quota_reached", text, ["tenant", "quota"], registry=self.registry
        )
        text = "Live sessions of a tenant that the access file names."
        self._tenant_sessions = Gauge(
            "tidegate_tenant_sessions", text, ["tenant"], registry=self.registry
        )
        self._tenants: set[str] = set()

    def watch_tenants(self, sessions: Mapping[str, Callable[[], float]]) -> None:
        """Tell of these tenants by name, and of no others."""
        for gone in self._tenants - set(sessions):
            self._tenant_sessions.remove(gone)
        for name, live in sessions.items():
            self._tenant_sessions.labels(name).set_function(live)
        self._tenants = set(sessions)

    def quota_reached(self, tenant: str, quota: str) -> None:
        """Something was refused. Tokens name tenants as they like: those alone that the access file
        names become a label."""
        name = tenant if tenant in self._tenants else "other"
        self._quota_reached.labels(name, quota).inc()

    def remove(self, model: str, version: int) -> None:
        """Tell of a model version no more."""
        for family in self._families:
            family.remove_by_labels(dict(zip(LABELS, (model, str(version)), strict=True)))
        for histogram in self._histograms:
            histogram.remove(model, str(version))

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        return Counter(f"tidegate_{name}", text, (*LABELS, *more), registry=self.registry)

    def _gauge(self, name: str, text: str, *more: str) -> Gauge:
        return Gauge(f"tidegate_{name}", text, (*LABELS, *more), registry=self.registry)

    def _histogram(
        self, name: str, text: str, bounds: Sequence[float], *more: str
    ) -> HistogramFamily:
        return HistogramFamily(self.registry, f"tidegate_{name}", text, bounds, *more)


@dataclass(frozen=True)
class Spent:
    """How many steps took how many seconds in all, each counting the whole of its run."""

    steps: int
    seconds: float


@dataclass(frozen=True)
class Totals:
    """What a model version has done. Steps that waited in vain count in `whole` and `queue`."""

    runs: int
    applied: int
    failed: int
    whole: Spent
    queue: Spent
    engine: Spent

    @property
    def other_seconds(self) -> float:
        """What is neither waiting nor running: to check numbers, to count, to answer."""
        return max(0.0, self.whole.seconds - self.queue.seconds - self.engine.seconds)


class ModelMetrics:
    """The metrics of one model version, labels filled in."""

    def __init__(self, metrics: Metrics, model: str, version: int) -> None:
        self._metrics, self._labels = metrics, (model, str(version))
        self.steps = metrics.steps.labels(*self._labels)
        self.opened = metrics.opened.labels(*self._labels)
        self.closed = metrics.closed.labels(*self._labels)
        self.lost = metrics.lost.labels(*self._labels)
        self.idle = metrics.expired.labels(*self._labels, "idle")
        self.remembered = metrics.remembered.labels(*self._labels)
        self.migrated = metrics.migrated.labels(*self._labels)
        self._removed = False
        self.batch_rows = metrics.batch_rows.labels(*self._labels)
        self.runs_ahead = metrics.runs_ahead.labels(*self._labels)
        self.queue_seconds = metrics.queue_seconds.labels(*self._labels)
        self.engine_seconds = metrics.engine_seconds.labels(*self._labels)
        self.step_seconds = metrics.step_seconds.labels(*self._labels)
        self.stored = metrics.stored.labels(*self._labels)
        self.taken_up = metrics.taken_up.labels(*self._labels)
        self.moved = metrics.moved.labels(*self._labels)
        self.bad_records = metrics.bad_records.labels(*self._labels)
        self.store_seconds = metrics.store_seconds.labels(*self._labels)

    def reply_seconds(self, rpc: str) -> Weighted:
        """The histogram of one way in."""
        if self._removed:
            return Weighted(LONG_SECONDS)
        return self._metrics.reply_seconds.labels(*self._labels, rpc)

    @property
    def removed(self) -> bool:
        """Whether the version is served no more."""
        return self._removed

    def error(self, code: str, reason: str, count: int = 1) -> None:
        """Count a failure by its gRPC code and its reason."""
        if self._removed:
            return
        self._metrics.errors.labels(*self._labels, code, reason.lower()).inc(count)

    def remove(self) -> None:
        """The version is served no more."""
        self._removed = True
        self._metrics.remove(self._labels[0], int(self._labels[1]))

    def totals(self) -> Totals:
        """The counts and times so far."""
        return Totals(
            runs=_spent(self.batch_rows).steps,
            applied=int(_sum(self.steps, {})),
            failed=int(_sum(self._metrics.errors, dict(zip(LABELS, self._labels, strict=True)))),
            whole=_spent(self.step_seconds),
            queue=_spent(self.queue_seconds),
            engine=_spent(self.engine_seconds),
        )

    def watch(
        self,
        live: Callable[[], float],
        resident: Callable[[], float],
        queued: Callable[[], float],
        state_bytes: int,
        device: str,
    ) -> None:
        """Read the gauges from the running parts whenever they are scraped."""
        self._metrics.live.labels(*self._labels).set_function(live)
        self._metrics.resident.labels(*self._labels).set_function(resident)
        self._metrics.queued.labels(*self._labels).set_function(queued)
        self._metrics.state_bytes.labels(*self._labels).set(state_bytes)
        self._metrics.device.labels(*self._labels, device).set(1)

    def watch_store(self, unsaved: Callable[[], float], lag: Callable[[], float]) -> None:
        """Read what waits to be stored whenever the gauges are scraped."""
        self._metrics.unsaved.labels(*self._labels).set_function(unsaved)
        self._metrics.store_lag.labels(*self._labels).set_function(lag)

    def watch_drift(
        self, samples: Callable[[], float], indices: Mapping[str, Callable[[], float]]
    ) -> None:
        """Read the features' stability indices, by name, whenever they are scraped."""
        self._metrics.feature_samples.labels(*self._labels).set_function(samples)
        for feature, index in indices.items():
            self._metrics.feature_psi.labels(*self._labels, feature).set_function(index)


def _spent(histogram: Weighted) -> Spent:
    buckets, total = histogram.cumulative()
    return Spent(int(buckets[-1][1]), total)


def _sum(counter: Counter, labels: dict[str, str]) -> float:
    """The sum of a counter's samples that have these labels."""
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    return sum(s.value for s in samples if labels.items() <= s.labels.items())

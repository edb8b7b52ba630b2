"""Runs graphs over arenas that hold every session's state: the end of the flow.

onnxruntime reports usage by default; this package turns that off before it is imported anywhere.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

onnxruntime.disable_telemetry_events()
onnxruntime.set_default_logger_severity(4)  # what fails is raised, and told once

"""The microservice: steps flow transport -> api -> sessions -> scheduler -> engine, and back.

Imports follow the steps and never the other way. `config`, `errors`, `metrics` and `logs` are
leaves, `bundle` reads what training wrote, and `serving` puts a model version together. The core
(sessions, scheduler, engine) knows neither gRPC nor asyncio.
"""

import os

# grpc's core writes past all that bounds the log, a line for each peer whose handshake fails. It is
# read when grpc is imported, which is not before this package.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

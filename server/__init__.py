"""The microservice: steps flow transport -> sessions -> batcher -> engine, completions flow back.

Imports follow the steps and never the other way. `config`, `errors` and `metrics` are leaves, and
`bundle` reads what training wrote. The core (sessions, batcher, engine) knows neither gRPC nor
asyncio.
"""

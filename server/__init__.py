"""The microservice: steps flow transport -> api -> sessions -> scheduler -> engine, and back.

Imports follow the steps and never the other way. `config`, `errors` and `metrics` are leaves,
`bundle` reads what training wrote, and `serving` puts a model version together. The core (sessions,
scheduler, engine) knows neither gRPC nor asyncio.
"""

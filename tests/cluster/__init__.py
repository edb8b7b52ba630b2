"""Many servers on one redis behind a real Envoy, as `deploy/cluster` configures it."""

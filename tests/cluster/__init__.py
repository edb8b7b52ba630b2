"""Many servers on one redis behind a real Envoy, with the configuration that `deploy/cluster` has."""

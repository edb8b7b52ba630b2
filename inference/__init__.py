"""Generated from protos/inference: the Open Inference Protocol. `make stubs` writes it."""

"""The CUDA path without a GPU: onnxruntime's own provider over stand-in libraries (README.md)."""

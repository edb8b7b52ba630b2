"""A network as the bundle's four ONNX graphs, with the gather and scatter of states inside."""

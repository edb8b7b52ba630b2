"""A network as the bundle's ONNX graphs, with the gather and scatter of states inside."""

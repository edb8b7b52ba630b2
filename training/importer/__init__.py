"""Any recurrent single-step ONNX graph as a bundle: read, planned, merged, probed, written."""

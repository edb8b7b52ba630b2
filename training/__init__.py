"""Offline: reads sessions, trains an LSTM, proves its export, and writes the bundle to serve.

`graph`, `bundle` and `reference` need numpy and onnx alone; everything else may use torch.
"""

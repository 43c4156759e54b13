"""Export side of lostgan-serve: fused graph, ONNX, the parity check and the benchmark."""

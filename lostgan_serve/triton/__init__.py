"""Serving with Triton Inference Server: the model repository, the server's process, the model that it embeds."""

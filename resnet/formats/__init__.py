"""Weights and model files of other frameworks: a module for each format, with its table of names."""

# What `export.py` writes; named here because asking for the names should not load JAX.
EXPORT_FORMATS = ("torchvision", "huggingface", "keras", "safetensors", "onnx", "stablehlo")
# Those that are programs from pictures to probabilities, and the package that runs each.
PROGRAMS = {"onnx": "onnxruntime", "stablehlo": "jax"}
# How an ONNX model stores its numbers, and computes.
PRECISIONS = ("float32", "float16", "int8")

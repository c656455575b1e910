"""The networks of a model as ONNX graphs: how they are written, and how they answer."""

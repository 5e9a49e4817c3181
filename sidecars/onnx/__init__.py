"""Local inference on ONNX models over HTTP: embeddings, reranking, classification, inference, and text.

    python -m sidecars.onnx --listen unix:/run/onnx.sock --settings onnx.json

`settings` says which models there are; `folder` reads what a model folder says of itself; `session` feeds a model;
`batch` decides what is fed together and `engine` does it beside the event loop; `models` loads, unloads and evicts;
`generate` is what models that generate text have of their own; `app` is the API. `convert` makes a model folder of
safetensors weights; nothing else imports it.

`docs/onnx.md` is the guide.
"""

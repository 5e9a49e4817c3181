"""Local inference on ONNX models: embeddings, reranking, classification and natural language inference over HTTP.

    python -m sidecars.onnx --listen unix:/run/onnx.sock --settings onnx.json

`settings` says which models there are; `folder` reads what a model folder says of itself; `session` feeds a model;
`batch` decides what is fed together and `engine` does it beside the event loop; `models` loads, unloads and evicts;
`app` is the API. `convert` makes a model folder of safetensors weights; nothing else imports it.

`docs/onnx.md` is the guide.
"""

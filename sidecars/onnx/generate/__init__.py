"""Text generation: models in the form of onnxruntime-genai, behind OpenAI's chat completions and completions.

`card` reads a folder; `native` calls the runtime; `generation` makes one answer, step by step; `turns` shares a model
among the answers in work; `prompt` makes token ids of messages; `text` makes text of token ids; `bodies`, `operations`
and `answers` are the API.
"""

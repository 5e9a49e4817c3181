"""sentence-transformers on torch, in a process of its own: `python -m bench.torch_side FOLDER THREADS`."""

import sys

import torch
from sentence_transformers import SentenceTransformer

from bench.turns import answer


def main() -> None:
    torch.set_num_threads(int(sys.argv[2]))
    model = SentenceTransformer(sys.argv[1], device="cpu")
    answer(lambda texts: model.encode(texts, batch_size=len(texts), show_progress_bar=False))


if __name__ == "__main__":
    main()

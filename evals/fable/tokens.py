"""Our own byte-level BPE, and documents packed into streams of token ids.

A stream is uint16: the low bits are the id, the top bit marks a token of an answer, the next one a
token that is given and not to be learned.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from evals.fable.documents import MIX, WORDS, documents

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from evals.fable.documents import Mix

__all__ = [
    "ANSWER_BIT",
    "CONTEXT_TOKENS",
    "GIVEN_BIT",
    "VOCABULARY",
    "pack",
    "save_tokenizer",
    "train_tokenizer",
]

VOCABULARY = 1792
CONTEXT_TOKENS = 512
ANSWER_BIT = np.uint16(1 << 15)
GIVEN_BIT = np.uint16(1 << 14)
SPECIAL = ("<s>", "</s>", "<pad>")
TRAINING_DOCUMENTS = 20_000
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}{% endfor %}"
)


def train_tokenizer(seed: int = 0) -> Tokenizer:
    """A byte-level BPE of `VOCABULARY` tokens, trained on the first documents of `seed`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        "".join(text for text, _ in pieces)
        for pieces, _ in itertools.islice(documents(seed, WORDS), TRAINING_DOCUMENTS)
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the corpus gives {tokenizer.get_vocab_size()} tokens, not {VOCABULARY}")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, as Transformers' AutoTokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "pad_token": SPECIAL[2],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT_TOKENS,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def pack(tokenizer_file: str, seed: int, count: int, mix: Mix = MIX) -> NDArray[np.uint16]:
    """At least `count` tokens of whole documents, each `<s> ... </s>`; a function of `seed`."""
    tokenizer = Tokenizer.from_file(tokenizer_file)
    stream, source = list[int](), documents(seed, mix)
    while len(stream) < count:
        batch = list(itertools.islice(source, 500))
        texts = [text for pieces, _ in batch for text, _ in pieces]
        encoded = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        for pieces, prose in batch:
            stream.append(0)
            told = 0 if prose else int(GIVEN_BIT)
            for _, is_answer in pieces:
                mark = int(ANSWER_BIT) if is_answer else told
                stream.extend(token | mark for token in next(encoded).ids)
            stream.append(1)
    return np.array(stream, dtype=np.uint16)

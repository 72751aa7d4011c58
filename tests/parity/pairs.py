"""Tiny random encoder-decoders, made as the zoo's decoders are, and what they read."""

from __future__ import annotations

from typing import Any

import torch

from tests.parity.zoo import Tiny

__all__ = ["PAIRS", "SPEECH_FRAMES", "reads"]

SPEECH_FRAMES = 40
"""Of a tiny Whisper's features: two for each position of its encoder."""

_TEXT = "AutoModelForSeq2SeqLM"
_NO = ("head_dim", "num_key_value_heads", "intermediate_size", "hidden_size")
_BART: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 3,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_T5: dict[str, Any] = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_heads": 4,
    "num_layers": 4,
    "relative_attention_num_buckets": 8,
    "decoder_start_token_id": 0,
}
_T5_NO = (*_NO, "num_hidden_layers", "num_attention_heads", "max_position_embeddings")

PAIRS: tuple[Tiny, ...] = (
    Tiny("t5", "T5Config", _T5 | {"num_decoder_layers": 3}, _T5_NO, _TEXT),
    Tiny(
        "t5-gated-tied",
        "T5Config",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": True},
        _T5_NO,
        _TEXT,
    ),
    Tiny("umt5", "UMT5Config", _T5, _T5_NO, _TEXT),
    Tiny("bart", "BartConfig", _BART, (*_NO, "num_hidden_layers", "num_attention_heads"), _TEXT),
    Tiny(
        "whisper",
        "WhisperConfig",
        _BART
        | {
            "num_mel_bins": 8,
            "max_source_positions": SPEECH_FRAMES // 2,
            "max_target_positions": 64,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        (*_NO, "num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
        "AutoModelForSpeechSeq2Seq",
    ),
)


def reads(tiny: Tiny, rows: int = 1) -> dict[str, torch.Tensor]:
    """What its encoder is given: texts padded on the right to 11 tokens, or sounds."""
    luck = torch.Generator().manual_seed(7)
    if tiny.auto != _TEXT:
        sounds = torch.randn((rows, 8, SPEECH_FRAMES), generator=luck)
        return {"input_features": sounds}
    ids = torch.randint(3, 96, (rows, 11), generator=luck)
    mask = (torch.arange(11) < 11 - 3 * torch.arange(rows)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}

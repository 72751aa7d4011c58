"""Cut any Hugging Face decoder into spans of blocks, and run them apart with the same result."""

from shardline.model.chain import ChainPlan, Link
from shardline.model.crossing import Call, Crossing, Returned
from shardline.model.ends import RunBlocks, load_ends
from shardline.model.fingerprints import config_fingerprint, fingerprint
from shardline.model.ghost import cache_length
from shardline.model.library import adopt_threads, quiet
from shardline.model.profiles import (
    BlockKind,
    Line,
    Profile,
    Setup,
    Timing,
    fit,
    keep_profile,
    kept_profile,
    newest_profile,
)
from shardline.model.profiling import decode_rate, measure_profile, setup_of
from shardline.model.resolving import resolve
from shardline.model.span import LoadedSpan, SpanCache, load_span
from shardline.model.tokenizer import load_tokenizer
from shardline.model.tracing import trace

__all__ = [
    "BlockKind",
    "Call",
    "ChainPlan",
    "Crossing",
    "Line",
    "Link",
    "LoadedSpan",
    "Profile",
    "Returned",
    "RunBlocks",
    "Setup",
    "SpanCache",
    "Timing",
    "adopt_threads",
    "cache_length",
    "config_fingerprint",
    "decode_rate",
    "fingerprint",
    "fit",
    "keep_profile",
    "kept_profile",
    "load_ends",
    "load_span",
    "load_tokenizer",
    "measure_profile",
    "newest_profile",
    "quiet",
    "resolve",
    "setup_of",
    "trace",
]

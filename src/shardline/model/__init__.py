"""Cut any Hugging Face decoder into spans of blocks, and run them apart with the same result."""

from shardline.model.chain import ChainPlan, Link
from shardline.model.crossing import Call, Crossing, Returned
from shardline.model.ends import RunBlocks, load_ends
from shardline.model.fingerprints import fingerprint
from shardline.model.ghost import cache_length
from shardline.model.library import adopt_threads, quiet
from shardline.model.resolving import resolve
from shardline.model.span import LoadedSpan, SpanCache, load_span
from shardline.model.tokenizer import load_tokenizer
from shardline.model.tracing import trace

__all__ = [
    "Call",
    "ChainPlan",
    "Crossing",
    "Link",
    "LoadedSpan",
    "Returned",
    "RunBlocks",
    "SpanCache",
    "adopt_threads",
    "cache_length",
    "fingerprint",
    "load_ends",
    "load_span",
    "load_tokenizer",
    "quiet",
    "resolve",
    "trace",
]

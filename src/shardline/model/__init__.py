"""Cut a decoder into spans of blocks, or any module into stages, and run them apart unchanged."""

from shardline.model.caches import CACHES, SpanCache, cache_in
from shardline.model.chain import ChainPlan, Link
from shardline.model.crossing import Call, Crossing, Returned
from shardline.model.cutting import led_by, split
from shardline.model.ends import RunBlocks, load_ends
from shardline.model.fingerprints import config_fingerprint, fingerprint
from shardline.model.ghost import cache_length
from shardline.model.graph import (
    Graph,
    Live,
    Outline,
    Pieces,
    Program,
    Signature,
    Stage,
    StageOutline,
    build_on_shapes,
    capture,
    cut_graph,
    example_inputs,
    graph_pieces,
    load_signature,
    load_stage,
    outline,
    place_evenly,
    run_stages,
    save_signature,
    save_stage,
)
from shardline.model.library import adopt_threads, computing_thread, quiet
from shardline.model.pages import PAGE_TOKENS, PagedLayer, Pages
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
from shardline.model.quantising import KINDS, Weights, kind_named
from shardline.model.resolving import resolve
from shardline.model.route import find_chain
from shardline.model.span import LoadedSpan, load_span
from shardline.model.tokenizer import load_tokenizer
from shardline.model.tracing import trace
from shardline.model.weights import Kind

__all__ = [
    "CACHES",
    "KINDS",
    "PAGE_TOKENS",
    "BlockKind",
    "Call",
    "ChainPlan",
    "Crossing",
    "Graph",
    "Kind",
    "Line",
    "Link",
    "Live",
    "LoadedSpan",
    "Outline",
    "PagedLayer",
    "Pages",
    "Pieces",
    "Profile",
    "Program",
    "Returned",
    "RunBlocks",
    "Setup",
    "Signature",
    "SpanCache",
    "Stage",
    "StageOutline",
    "Timing",
    "Weights",
    "adopt_threads",
    "build_on_shapes",
    "cache_in",
    "cache_length",
    "capture",
    "computing_thread",
    "config_fingerprint",
    "cut_graph",
    "decode_rate",
    "example_inputs",
    "find_chain",
    "fingerprint",
    "fit",
    "graph_pieces",
    "keep_profile",
    "kept_profile",
    "kind_named",
    "led_by",
    "load_ends",
    "load_signature",
    "load_span",
    "load_stage",
    "load_tokenizer",
    "measure_profile",
    "newest_profile",
    "outline",
    "place_evenly",
    "quiet",
    "resolve",
    "run_stages",
    "save_signature",
    "save_stage",
    "setup_of",
    "split",
    "trace",
]

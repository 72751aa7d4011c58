"""The ops that a stage may name, and what runs for each: nothing else is ever called.

All are pure functions of tensors and numbers: none changes its inputs, reads a file, draws random
numbers or leaves memory as it found it. An op that is missing is one word in this list, once it is
known to check its inputs: a stranger chooses them.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from shardline.core.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "GETITEM",
    "changes_inputs",
    "check_pure",
    "is_overload",
    "is_view",
    "overload",
    "run_of",
    "schema_of",
]

GETITEM: Final = "item.of"
"""One of several outputs."""

_PURE: Final = """
__and__ __or__ __xor__ _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training
_softmax _to_copy _unique2 _unsafe_view _weight_norm abs acos acosh adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d add addbmm addcdiv
addcmul addmm addmv adjoint affine_grid_generator alias all amax amin aminmax any arange argmax
argmin argsort argwhere asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d
avg_pool2d avg_pool3d baddbmm batch_norm bilinear binary_cross_entropy_with_logits bincount
bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors broadcast_to bucketize cat
cdist ceil celu chain_matmul channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im
column_stack complex concat concatenate conj constant_pad_nd contiguous conv1d conv2d conv3d
conv_transpose1d conv_transpose2d conv_transpose3d convolution copysign cos cosh
cosine_embedding_loss cosine_similarity count_nonzero cross_entropy_loss cummax cummin cumprod
cumsum deg2rad detach diag diag_embed diagonal diff div divide dot dsplit dstack einsum elu
embedding embedding_bag eq erf erfc erfinv exp exp2 expand expand_as expand_copy expm1 eye fft_fft
fft_fft2 fft_fftn fft_ifft fft_ifft2 fft_irfft fft_irfft2 fft_rfft fft_rfft2 fill flatten flip
fliplr flipud float_power floor floor_divide fmod frac frobenius_norm full full_like gather ge
gelu glu grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gt hann_window hardsigmoid
hardswish hardtanh histc hsplit hstack hypot im2col imag index index_add index_copy index_fill
index_put index_select inner instance_norm inverse isfinite isin isinf isnan kron l1_loss
layer_norm le leaky_relu lerp lift_fresh_copy linalg_cholesky linalg_cross linalg_det linalg_inv
linalg_inv_ex linalg_matmul linalg_multi_dot linalg_norm linalg_solve linalg_vector_norm linear
linspace log log10 log1p log2 log_sigmoid log_softmax logaddexp logcumsumexp logical_and
logical_not logical_or logical_xor logit logspace logsumexp lstm lt mH mT masked_fill
masked_scatter masked_select matmul matrix_H max max_pool1d max_pool2d max_pool3d maximum mean
median meshgrid min minimum mish mm moveaxis movedim mse_loss msort mul multiply mv nan_to_num
nanmean nanquantile nansum narrow native_group_norm native_layer_norm ne neg negative new_full
new_ones new_zeros nll_loss nonzero norm nuclear_norm numpy_T one_hot ones ones_like outer pad
pairwise_distance pdist permute pixel_shuffle pixel_unshuffle polar positive pow prelu prod
quantile ravel real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6
remainder renorm repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d
reshape resolve_conj resolve_neg rms_norm rnn_relu rnn_tanh roll rot90 round row_stack rsqrt rsub
scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select
select_scatter selu sgn sigmoid sign silu sin sinc sinh slice slice_scatter smooth_l1_loss softmax
softplus softshrink sort special_erf special_expit special_logit split split_with_sizes sqrt
square squeeze squeeze_copy stack std std_mean sub subtract sum sum_to_size swapaxes swapdims
sym_numel sym_size t take take_along_dim tan tanh tensor_split threshold tile to topk trace
transpose tril triu true_divide trunc type_as unbind unflatten unfold unique_consecutive
unique_dim unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
upsample_trilinear3d var var_mean vdot view view_as view_as_complex view_as_real vsplit vstack
where xlogy zeros zeros_like
"""
ATEN: Final = frozenset(_PURE.split())
"""Names of aten; of each, the overloads that change nothing may be used."""

_NUMBER_MAX: Final = 2**63


def _bounded(name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    """Python's numbers grow without end, and texts and lists by them; a stage's may not."""

    def run(*args: Any) -> Any:  # noqa: ANN401 - numbers
        if not all(isinstance(arg, bool | int | float) for arg in args):
            raise TypeError(f"size.{name} is for numbers")
        found = compute(*args)
        if isinstance(found, int) and abs(found) >= _NUMBER_MAX:
            raise OverflowError(f"size.{name} of {args}")
        return found

    return run


def _either(test: object, one: object, other: object) -> object:
    return one if test else other


_python: Any = operator
_COMPUTED: Final[dict[str, Callable[..., Any]]] = {
    "add": _python.add, "sub": _python.sub, "mul": _python.mul, "neg": _python.neg,
    "floordiv": _python.floordiv, "truediv": _python.truediv, "mod": _python.mod,
    "eq": _python.eq, "ne": _python.ne, "lt": _python.lt, "le": _python.le, "gt": _python.gt,
    "ge": _python.ge, "and_": _python.and_, "or_": _python.or_, "not_": _python.not_,
    "ceil": math.ceil, "floor": math.floor, "trunc": math.trunc, "sqrt": math.sqrt,
    "sym_max": max, "sym_min": min, "sym_float": float, "sym_int": int, "sym_not": _python.not_,
    "sym_sqrt": math.sqrt, "sym_ite": _either,
}  # fmt: skip
NUMBERS: Final = {name: _bounded(name, compute) for name, compute in _COMPUTED.items()}
"""What is computed of sizes, by its own name in Python or torch."""
_add: Any = torch.ops.aten.add.Tensor
_OVERLOAD: Any = _add.__class__


def is_overload(target: object) -> bool:
    """Whether this is an op of torch's own, as tracing names it."""
    return isinstance(target, _OVERLOAD)


def changes_inputs(target: object) -> bool:
    """Whether an op that tracing found writes into what it is given."""
    schema: Any = getattr(target, "_schema", None)
    return is_overload(target) and bool(schema.is_mutable)


def overload(target: str) -> Any:  # noqa: ANN401 - torch has no type for it
    """torch's op of this name; raises Unsupported unless it is on the list."""
    space, _, rest = target.partition(".")
    name, _, which = rest.partition(".")
    packet: Any = getattr(torch.ops.aten, name, None) if name in ATEN else None
    if space != "aten" or packet is None or which not in packet.overloads():
        raise Unsupported(f"op {target} is none that a stage may use")
    found: Any = getattr(packet, which)
    if found._schema.is_mutable:  # noqa: SLF001
        raise Unsupported(f"op {target} changes its inputs, which no stage does")
    return found


def schema_of(target: str) -> Any:  # noqa: ANN401 - torch has no type for it
    """What an op of aten takes and gives."""
    return overload(target)._schema  # noqa: SLF001


def is_view(target: str) -> bool:
    """Whether it only looks at its input otherwise, and so costs nothing."""
    if not target.startswith("aten."):
        return True
    returns = cast("Sequence[Any]", schema_of(target).returns)
    return any(one.alias_info is not None for one in returns)


def run_of(target: str) -> Callable[..., Any]:
    """What computes this op; raises Unsupported unless it is on the list."""
    if target == GETITEM:
        return operator.getitem
    space, _, name = target.partition(".")
    if space == "size" and name in NUMBERS:
        return NUMBERS[name]
    return cast("Callable[..., Any]", overload(target))


def check_pure(target: str, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Raise Unsupported if the op, with these arguments, draws random numbers or keeps statistics.

    Attention, recurrent layers and norms do so in training; in evaluation they say that not.
    """
    if not target.startswith("aten."):
        return
    names = [argument.name for argument in cast("Sequence[Any]", schema_of(target).arguments)]
    given: dict[str, object] = {**dict(zip(names, args, strict=False)), **kwargs}
    learns = given.get("training", given.get("use_input_stats", False)) is not False
    if learns and given.get("running_mean") is not None:
        raise Unsupported(f"op {target} changes its running mean: put the module in evaluation")
    if torch.Tag.nondeterministic_seeded not in overload(target).tags:
        return
    if "dropout_p" in names and given.get("dropout_p", 0.0) == 0:
        return
    if given.get("train") is False:
        return
    raise Unsupported(f"op {target} draws random numbers, which differ from node to node")

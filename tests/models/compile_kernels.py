"""Compiles every kernel for a GPU, without one: `python -m tests.models.compile_kernels`."""

from typing import Any

from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from trash_seg.models.kernels import batch_norm, depthwise, excite
from trash_seg.models.kernels.batch_norm import MAP_TILE, MAX_PARTS, SUM_TILE
from trash_seg.models.kernels.depthwise import MAX_TAPS, PIXEL_TILE, TAP_TILE

TYPES = {
    "*fp16": ["source", "target", "grad", "input", "output", "grad_input", "grad_means", "gates"],
    "*fp32": [
        "sums", "statistics", "weight", "bias", "running_mean", "running_var", "grad_weight", "grad_bias",
        "output_means",
    ],
    "*i64": ["num_batches"],
    "fp32": ["eps", "momentum"],
}  # fmt: skip
"""Of arguments; others are int32."""
MEANS = {"HAS_MEANS": True, "ACTIVATION": "silu"}
KERNELS: list[tuple[Any, Any, dict[str, Any]]] = [
    (depthwise._sum_taps, TAP_TILE, {"TAPS": 3, "STRIDE": 1, "OF_INPUT": False}),
    (depthwise._sum_taps, TAP_TILE, {"TAPS": 5, "STRIDE": 2, "OF_INPUT": True}),
    (depthwise._sum_pixels, PIXEL_TILE, {"TAPS": MAX_TAPS, "STRIDE": 2}),
    (batch_norm._sum_values, SUM_TILE, {}),
    (batch_norm._normalize, MAP_TILE, {"MAX_PARTS": MAX_PARTS, **MEANS}),
    (batch_norm._normalize, MAP_TILE, {"MAX_PARTS": MAX_PARTS, "HAS_MEANS": False, "ACTIVATION": "relu"}),
    (batch_norm._sum_gradients, SUM_TILE, MEANS),
    (batch_norm._input_gradient, MAP_TILE, {"MAX_PARTS": MAX_PARTS, **MEANS}),
    (excite._scale, excite.TILE, {}),
    (excite._scale_gradients, excite.TILE, {}),
]


def main() -> None:
    for kernel, tile, form in KERNELS:
        for channels, in_vectors in ((8, True), (9, False)):
            constants = form | tile.form(channels)
            num_warps = constants.pop("num_warps")
            signature = dict.fromkeys(kernel.arg_names, "i32")
            signature |= {name: kind for kind, names in TYPES.items() for name in names if name in signature}
            signature |= dict.fromkeys(constants, "constexpr")
            places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
            aligned = {places[name]: [["tt.divisibility", 16]] for name, kind in signature.items() if "*" in kind}
            source = ASTSource(kernel, signature, {places[name]: value for name, value in constants.items()}, aligned)
            code = compile(source, GPUTarget("cuda", 90, 32), options={"num_warps": num_warps}).asm["ptx"]
            assert ("ld.global.b16" not in code) == in_vectors, f"{kernel.__name__} loads one value at a time"
            print(kernel.__name__, channels)


if __name__ == "__main__":
    main()

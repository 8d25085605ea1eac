"""`python -m iresnet_fast plan`: how a branch would run on a CPU, or on a GPU, which need not be there."""

import argparse
from typing import Any, NamedTuple

import torch

from . import _library

# WalkKind and Precision of csrc/cuda.
_TRANSPOSED, _TANGENT, _FORWARD, _INVERSE = range(4)
_PRECISIONS = {"full": 0, "tf32": 1, "bf16": 2}
_BYTES = {"float32": 4, "float64": 8}

# Architecture, multiprocessors, shared memory of a block and of a multiprocessor, second-level cache.
Card = tuple[int, int, int, int, int]


class Branch(NamedTuple):
    """The sizes of a branch."""

    channels: list[int]
    kernels: list[int]  # 1 each for a dense branch
    image: tuple[int, int]  # (0, 0) for a dense branch


def parse_branch(text: str) -> Branch:
    """Return the branch of `dense:2,128,2` or `conv:4,32,32,4:3,1,3:14x14`."""
    kind, _, rest = text.partition(":")
    parts = rest.split(":")
    try:
        channels = [_positive(word) for word in parts[0].split(",")]
        if kind == "dense" and len(parts) == 1:
            kernels, image = [1] * (len(channels) - 1), (0, 0)
        elif kind == "conv" and len(parts) == 3:
            kernels = [_positive(word) for word in parts[1].split(",")]
            height, width = (_positive(word) for word in parts[2].split("x"))
            image = (height, width)
        else:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected dense:2,128,2 (widths) or conv:4,32,32,4:3,1,3:14x14 (channels, kernels, image), got {text!r}"
        ) from None
    if len(channels) != len(kernels) + 1 or not kernels:
        raise argparse.ArgumentTypeError(
            f"a branch of {len(kernels)} stages needs {len(kernels) + 1} numbers of channels, got {len(channels)}"
        )
    if any(kernel % 2 == 0 for kernel in kernels):
        raise argparse.ArgumentTypeError(f"kernels must be odd, got {kernels}")
    if channels[0] != channels[-1]:
        raise argparse.ArgumentTypeError(f"a branch must return as many channels as it takes, got {channels}")
    return Branch(channels, kernels, image)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--branch",
        type=parse_branch,
        required=True,
        help="dense:2,128,128,2 (widths) or conv:4,32,32,4:3,1,3:14x14 (channels, kernels, image); the first "
        "activation is taken to be the identity",
    )
    parser.add_argument(
        "--card", required=True, help=f"{', '.join(_known_cards())}; this: the GPU of this machine; cpu: its CPU"
    )
    parser.add_argument("--threads", type=_count, help="of a CPU (default: torch's own choice)")
    parser.add_argument("--batch", type=_count, default=256, help="samples (default: 256)")
    parser.add_argument("--probes", type=_count, default=1, help="probes of the log-determinant (default: 1)")
    parser.add_argument("--terms", type=_count, default=10, help="terms of its series (default: 10)")
    parser.add_argument(
        "--iterations", type=_count, default=20, help="iterations that the inverse is expected to take (default: 20)"
    )
    parser.add_argument("--dtype", choices=list(_BYTES), default="float32", help="of all numbers (default: float32)")
    parser.add_argument(
        "--precision",
        choices=list(_PRECISIONS),
        default="full",
        help="the least exact that products of float32 numbers may be (default: full): a plan takes the cheapest that "
        "is allowed, and says which; the inverse and float64 are always full",
    )


def describe(options: argparse.Namespace) -> str:
    """Return the plans of every walk over the branch; ValueError, in one sentence, if there can be none."""
    module = _library.extension()
    if module is None:
        raise ValueError(f"plans are computed by the extension, which is unavailable: {_library.EXTENSION_ERROR}.")
    if options.card == "cpu":
        return _describe_cpu(module, options)
    branch, card = options.branch, _card(options.card)
    precision = 0 if options.dtype == "float64" else _PRECISIONS[options.precision]

    def plan(kind: int, repeats: int = 1, sums: bool = False, neumann: bool = False, precision: int = precision) -> str:
        probes = 1 if kind in (_FORWARD, _INVERSE) else options.probes
        text: str = module.describe_plan(
            *branch, options.batch, kind, probes, repeats, sums, neumann, precision, _BYTES[options.dtype],
            options.card, card,
        )  # fmt: skip
        return text.rstrip()

    plans = {
        "branch, g(x)": plan(_FORWARD),
        f"log-determinant, {options.terms} terms": plan(_TRANSPOSED, options.terms, sums=True),
        f"the same in training, with the Neumann vector, {options.terms} terms": plan(
            _TRANSPOSED, options.terms, sums=True, neumann=True
        ),
        "its gradient, one tangent": plan(_TANGENT),
        f"inverse, {options.iterations} iterations": plan(_INVERSE, options.iterations, precision=0),
    }
    return "\n\n".join(f"{title}\n{text}" for title, text in plans.items())


def _describe_cpu(module: Any, options: argparse.Namespace) -> str:
    """Return which way the CPU kernels go in every walk, and why."""
    branch, threads = options.branch, options.threads or torch.get_num_threads()

    def plan(stacked: int = 1, events: int = 1, chain: int = 0, probes: int = 1, gradients: bool = False) -> str:
        way = module.cpu_way(
            *branch, options.batch, stacked, events, chain, probes, gradients, threads, _BYTES[options.dtype]
        )
        tiles, layers = (nanoseconds / 1e6 for nanoseconds in way["nanoseconds"])
        modelled = f"modelled: tiles {tiles:.3g} ms, layers {layers:.3g} ms"
        if way["layers"]:
            return f"cpu, {threads} threads: layer by layer, products of torch's libraries on all threads; {modelled}"
        return (
            f"cpu, {threads} threads: tiles of {way['samples']} samples, {way['columns']} columns each, on "
            f"{way['cores']} cores, at most {way['tiles']} tiles a core; {modelled}"
        )

    plans = {
        "branch, g(x)": plan(),
        f"log-determinant, {options.terms} terms": plan(chain=options.terms, probes=options.probes),
        f"a training step, {options.terms} terms, one probe": plan(2, 2, options.terms - 1, gradients=True),
        f"inverse, {options.iterations} iterations": plan(options.iterations),
    }
    return "\n\n".join(f"{title}\n{text}" for title, text in plans.items())


def _card(name: str) -> Card:
    cards = _known_cards()
    if name in cards:
        return cards[name]
    if name != "this":
        raise ValueError(f"--card must be one of {', '.join(cards)}, this, or cpu, got {name!r}.")
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a CPU build"
        raise ValueError(f"--card this needs a GPU, and torch {torch.__version__} {built} and finds none.")
    gpu: Any = torch.cuda.get_device_properties()
    return (
        10 * gpu.major + gpu.minor,
        gpu.multi_processor_count,
        gpu.shared_memory_per_block_optin,
        gpu.shared_memory_per_multiprocessor,
        gpu.L2_cache_size,
    )


def _known_cards() -> dict[str, Card]:
    module = _library.extension()
    return {} if module is None else module.known_cards()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _count(text: str) -> int:
    try:
        return _positive(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}") from None

"""What a step costs on a card by the model of our plans: our kernels one by one, and plain torch's operations.

Both are taken as CUDA graphs: a launch costs what the model says, the host nothing. Numbers are float32; with TF32 the
operands of products are rounded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from baselines import make_step
from cases import Case, Problem
from traffic import Operation, trace

from iresnet_fast import activations

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

PRECISIONS = {"float32": 0, "tf32": 1}
# torch's own operators are at hand wherever the package runs, so its products may use them.
LIBRARIES = True
# What launches nothing, and conversions of memory formats, which a good implementation avoids.
_FREE = ("empty", "_unsafe_view", "clone", "copy", "detach", "lift_fresh")


class Kernels(NamedTuple):
    """The launches of one kernel in a step, added up."""

    name: str
    launches: int
    slots: float  # issue slots of a scheduler of the busiest multiprocessor; of kernels that multiply
    bytes: float  # read and written, whatever cache answers
    us: float


@dataclass(frozen=True)
class CardModel:
    """What the model knows of a card: sizes and the constants of plan/constants.h."""

    multiprocessors: int
    l2_bytes: int
    constants: dict[str, float]

    def cycles_to_move(self, count: int, beside: int) -> float:
        """Return the cycles for so many bytes; from the second-level cache if it holds twice `beside`."""
        cached = 2 * beside <= self.l2_bytes
        rate = self.constants["l2_bytes_per_cycle" if cached else "memory_bytes_per_cycle"]
        return count / self.multiprocessors / rate

    def operation_us(self, operation: Operation, precision: str) -> float:
        """Return the microseconds of an operation of torch.

        A launch, and the larger of moving its tensors and of multiplying at the libraries' rate, whatever the shape. In
        favour of torch all tensors are in the second-level cache that fit there twice.
        """
        rate = self.constants["library_tf32_multiplies" if precision == "tf32" else "library_full_multiplies"]
        move = self.cycles_to_move(operation.read, operation.read + operation.written)
        move += self.cycles_to_move(operation.written, operation.written)
        multiply = operation.multiply_adds / self.multiprocessors / rate
        return self.constants["launch_microseconds"] + max(move, multiply) / self.constants["clock_megahertz"]


def card_model(card: str) -> CardModel:
    """Return the model of a card of csrc/cuda/device/card.h."""
    from simt.costs import card_sizes
    from simt.plans import constants_of

    library = _entries()
    return CardModel(*card_sizes(card, library), constants_of(card, library))


def abstract_problem(case: Case) -> Problem:
    """Return the tensors of a case without their numbers, images channels last."""

    def meta(*size: int) -> torch.Tensor:
        return torch.empty(size, device="meta")

    event = (case.widths[0], *(case.image or ()))
    kernels = case.kernels or (None,) * (len(case.widths) - 1)
    pairs = zip(case.widths[:-1], case.widths[1:], kernels, strict=True)
    problem = Problem(
        x=meta(case.batch, *event),
        weights=[meta(o, i, *((k, k) if k else ())) for i, o, k in pairs],
        biases=[meta(width) for width in case.widths[1:]],
        activations=["identity", *["elu"] * (len(case.widths) - 2)],
        probe=meta(case.batch, *event),
        coefficients=meta(case.terms),
        grad_z=meta(case.batch, *event),
        grad_logdet=meta(case.batch),
    )
    return problem.to(memory_format=torch.channels_last)


def our_kernels(case: Case, mode: str, card: str, precision: str) -> list[Kernels]:
    """Return the kernels of a step as its plans list them, in the order of their first launches."""
    from simt.costs import kernel_costs
    from simt.resident import Shape

    shape = Shape(case.widths, case.batch, case.kernels or (), case.image or ())
    numbers = [activations.get(name).kernel_id for name in abstract_problem(case).activations]
    launches = kernel_costs(
        shape, numbers, case.terms, mode == "train", card, PRECISIONS[precision], LIBRARIES, _entries()
    )
    return [
        Kernels(name, len(of), sum(k.slots for k in of), sum(k.bytes for k in of), sum(k.microseconds for k in of))
        for name in dict.fromkeys(launch.name for launch in launches)
        for of in [[launch for launch in launches if launch.name == name]]
    ]


def torch_operations(case: Case, mode: str) -> list[Operation]:
    """Return the operations of (iii), the explicit formula, that no good implementation avoids.

    Left out are conversions of memory formats, and what is computed of the coefficients alone.
    """
    operations = trace(make_step("explicit", abstract_problem(case), mode))
    return [
        operation
        for operation in operations
        if not any(word in operation.name for word in _FREE)
        and (operation.multiply_adds or operation.elements >= case.batch)
    ]


def fused(operations: Sequence[Operation]) -> list[Operation]:
    """Return what would be launched if all operations between two products were one.

    It reads what was there before, once, and writes what is read later or is a result: no compiler does better that
    leaves products to libraries.
    """
    launches: list[list[Operation]] = []
    for operation in operations:
        if operation.multiply_adds or not launches or launches[-1][0].multiply_adds:
            launches.append([])
        launches[-1].append(operation)
    needed: set[int] = set()  # by the launches that follow
    read_at_all = {memory for operation in operations for memory, _ in operation.inputs}
    merged = []
    for launch in reversed(launches):
        inputs: dict[int, int] = {}
        outputs: dict[int, int] = {}
        for operation in launch:
            for memory, count in operation.inputs:
                if memory not in outputs:
                    inputs[memory] = max(count, inputs.get(memory, 0))
            outputs |= operation.outputs
        kept = {m: count for m, count in outputs.items() if m in needed or m not in read_at_all}
        needed |= inputs.keys()
        one = launch[0]._replace(inputs=tuple(inputs.items()), outputs=tuple(kept.items()))
        merged.append(one if one.multiply_adds else one._replace(name="fused"))
    return merged[::-1]


def step_model(
    case: Case, mode: str, card: str, precision: str, model: CardModel, operations: Sequence[Operation]
) -> dict[str, Any]:
    """Return ours and torch's of a step, for the records."""
    kernels, merged = our_kernels(case, mode, card, precision), fused(operations)
    ours = sum(kernel.us for kernel in kernels)
    plain, together = (sum(model.operation_us(one, precision) for one in them) for them in (operations, merged))
    return {
        "modelled_launches": sum(kernel.launches for kernel in kernels),
        "modelled_slots": sum(kernel.slots for kernel in kernels),
        "modelled_bytes": sum(kernel.bytes for kernel in kernels),
        "modelled_us": ours,
        "torch_operations": len(operations),
        "torch_multiply_adds": sum(operation.multiply_adds for operation in operations),
        "torch_bytes": sum(operation.read + operation.written for operation in operations),
        "torch_modelled_us": plain,
        "fused_launches": len(merged),
        "fused_modelled_us": together,
        "modelled_ratio": plain / ours,
        "fused_ratio": together / ours,
        "kernels": [kernel._asdict() for kernel in kernels],
    }


def _entries() -> Any:
    from simt.emulator import project_emulator

    return project_emulator("check")

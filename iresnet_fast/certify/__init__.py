"""Bounds of Lipschitz constants that are true whatever rounding does: of a layer, of a branch, of a model.

Everything is computed in float64 from the weights as they are used, never from a norm that a layer remembers.
"""

from torch import nn

from ..geometry import ConvGeometry
from . import gram
from .bounds import Bounds, norm_bounds
from .branch import branch_bound, branch_scale
from .certificate import BranchCertificate, Certificate

__all__ = [
    "Bounds",
    "BranchCertificate",
    "Certificate",
    "ConvGeometry",
    "branch_bound",
    "branch_scale",
    "certify",
    "gram",
    "norm_bounds",
]


def certify(model: nn.Module, n_steps: int = 20) -> Certificate:
    """Bound the norm of every layer and the Lipschitz constant of every residual block from both sides.

    The upper bounds hold for the numbers that the weights are, in exact arithmetic: of a branch of dense layers that of
    `branch_bound`, else the product of its layers. The lower bounds are attained, by a vector for a layer and by two
    points for a branch; 0 for branches with a context and those of i-DenseNet. Training is not affected.

    Of a branch of any other module, or with hooks, nothing can be proved: its row has the method "declared" and repeats
    what the block or the branch says of itself, and the printed table says so below.

    Args:
        model: any module; its InvertibleResidualBlocks are bounded, and those of an IResNetClassifier without coeff.
        n_steps: of the descent for each dense branch, see `branch_bound`; 0 is the fastest.

    Returns:
        the certificate; print it for a table.

    Raises:
        ValueError: the model is no IResNetFlow and has no block, or a convolution does not know its image size yet.
    """
    from ._model import certify_model  # knows the layers, which know this package

    return certify_model(model, n_steps)

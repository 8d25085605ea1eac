"""The functional API: every op on the compiled kernels where they serve, else on the plain-torch reference.

Each function has a twin of the same name and signature in `iresnet_fast.reference`.
"""

from ..reference import LanczosNorms
from .branch import branch
from .fingerprint import fingerprint
from .inverse_error import inverse_error
from .jacobian_traces import jacobian_traces
from .lanczos_norm import lanczos_norm
from .residual_flow import residual_flow
from .residual_inverse import residual_inverse
from .residual_logdet import LogdetInfo, residual_logdet
from .residual_logdet_exact import residual_logdet_exact
from .spectral_norm import spectral_norm
from .spectral_normalize import spectral_normalize

__all__ = [
    "LanczosNorms",
    "LogdetInfo",
    "branch",
    "fingerprint",
    "inverse_error",
    "jacobian_traces",
    "lanczos_norm",
    "residual_flow",
    "residual_inverse",
    "residual_logdet",
    "residual_logdet_exact",
    "spectral_norm",
    "spectral_normalize",
]

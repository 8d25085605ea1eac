"""Every op in plain torch, names and signatures of `iresnet_fast.ops`: the specification, the oracle, the fallback."""

from iresnet_fast.reference.branch import branch
from iresnet_fast.reference.fingerprint import fingerprint
from iresnet_fast.reference.jacobian_traces import jacobian_traces
from iresnet_fast.reference.lanczos_norm import LanczosNorms, lanczos_norm
from iresnet_fast.reference.residual_flow import residual_flow
from iresnet_fast.reference.residual_inverse import residual_inverse
from iresnet_fast.reference.residual_logdet import LogdetInfo, residual_logdet
from iresnet_fast.reference.residual_logdet_exact import residual_logdet_exact
from iresnet_fast.reference.residual_logdet_explicit import residual_logdet_explicit
from iresnet_fast.reference.spectral_norm import spectral_norm
from iresnet_fast.reference.spectral_normalize import spectral_normalize

__all__ = [
    "LanczosNorms",
    "LogdetInfo",
    "branch",
    "fingerprint",
    "jacobian_traces",
    "lanczos_norm",
    "residual_flow",
    "residual_inverse",
    "residual_logdet",
    "residual_logdet_exact",
    "residual_logdet_explicit",
    "spectral_norm",
    "spectral_normalize",
]

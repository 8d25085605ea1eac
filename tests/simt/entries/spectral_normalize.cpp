#include "entry.h"

SIMT_LAYERS_OP(spectral_normalize, SpectralNormalizeOperands)
SIMT_LAYERS_OP(spectral_normalize_backward, SpectralNormalizeOperands)

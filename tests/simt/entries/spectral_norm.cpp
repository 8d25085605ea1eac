#include "entry.h"

SIMT_LAYERS_OP(spectral_norm, SpectralNormOperands)

#include "entry.h"

SIMT_LAYERS_OP(lanczos_norm, LanczosNormOperands)

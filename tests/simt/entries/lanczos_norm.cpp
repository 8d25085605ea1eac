#include "entry.h"

SIMT_LAYERS_OP(lanczos_norm, lanczos_norm, LanczosNormOperands)

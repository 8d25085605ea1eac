#include "entry.h"

SIMT_LAYERS_OP(actnorm, ActNormOperands)
SIMT_LAYERS_OP(actnorm_backward, ActNormBackwardOperands)
SIMT_LAYERS_OP(rearrange, RearrangeOperands)
SIMT_LAYERS_OP(sum_rows, SumRowsOperands)

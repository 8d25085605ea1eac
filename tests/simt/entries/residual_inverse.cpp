#include "entry.h"

SIMT_BRANCH_OP(residual_inverse, ResidualInverseOperands)

#include "entry.h"

SIMT_BRANCH_OP(residual_logdet, ResidualLogdetOperands)
SIMT_BRANCH_OP(jacobian_powers, JacobianPowersOperands)

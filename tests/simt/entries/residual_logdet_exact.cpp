#include "entry.h"

SIMT_BRANCH_OP(jacobian, JacobianOperands)

#include "entry.h"

SIMT_BRANCH_OP(branch_backward, BranchBackwardOperands)

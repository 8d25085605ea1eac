#include "entry.h"

SIMT_BRANCH_OP(branch, BranchOperands)

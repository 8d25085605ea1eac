// Memory that a training step needs anew in every call, and large: fresh pages from the system would cost more than
// their use.
#pragma once

#include "torch/operands.h"

namespace irf::binding {

// An uninitialised tensor [numel] with the dtype of `like`, on memory that returns to a pool when the tensor dies. The
// pool keeps at most 512 MiB.
Tensor recycled(int64_t numel, const Tensor& like);

}  // namespace irf::binding

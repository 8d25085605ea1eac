// What a forward walk leaves of one stage.
#pragma once

#include "cuda/device/workspace.h"

namespace irf::cuda {

// Rows of the stage's input a: itself, h = phi(a), d = phi'(a). Each is a Buffer or a pointer, and may be null: not
// wanted.
template <class Place>
struct StageRows {
  Place a, h, d;
};

template <class T>
StageRows<T*> at(const Memory& memory, const StageRows<Buffer<T>>& rows) {
  return {memory[rows.a], memory[rows.h], memory[rows.d]};
}

}  // namespace irf::cuda

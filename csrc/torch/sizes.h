// Sizes as they come from Python, in 64 bits, before the kernels count them in 32: every conversion and every product
// of sizes is checked here, once for all devices.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <limits>

namespace irf::binding {

constexpr int64_t kLargestInt = std::numeric_limits<int>::max();

// `value` as an int that is at least `least`.
inline int checked_int(int64_t value, int64_t least, const char* name) {
  STD_TORCH_CHECK(least <= value && value <= kLargestInt, name, " must be from ", least, " to ", kLargestInt, ", got ",
                  value, "; change it.");
  return static_cast<int>(value);
}

// The product of sizes, at most `most`.
inline int64_t checked_product(std::initializer_list<int64_t> sizes, int64_t most, const char* name) {
  int64_t product = 1;
  for (const int64_t size : sizes)
    STD_TORCH_CHECK(size >= 0 && !__builtin_mul_overflow(product, size, &product) && product <= most, name,
                    " must be at most ", most, ", got more; make them smaller.");
  return product;
}

}  // namespace irf::binding

// How the layered way runs one product: pure functions of sizes and card, plain C++. The launch functions of
// layered/product.cuh ask, and so does the model of a whole walk (plan/model.h): what is modelled is what runs.
#pragma once

#include <cstdint>

#include "cuda/device/card.h"
#include "cuda/plan/constants.h"

namespace irf::cuda {

constexpr int kProductRows = 128;  // of a block's tile

// C[row][n] = sum_tap sum_k A[row shifted by tap][k] W[tap][k][n].
struct ProductShape {
  int K, N;      // channels of a row of A and of C, without padding
  int kernel;    // side of the square kernel; 1 for a dense stage
  int64_t rows;  // pixels of all items
};

enum class ProductRoute : int {
  kDirect,   // One kernel: every block runs the epilogue on its own sums.
  kByTaps,   // One product over all taps, Y[row][tap, n] = sum_k A[row][k] W[tap][k][n]; a second kernel gathers C.
  kLibrary,  // torch's own operator (cuBLAS, cuDNN), then the kernel that gathers.
};

// What a kernel is modelled to cost.
struct KernelCost {
  double slots;  // issue slots of a scheduler of the busiest multiprocessor
  double bytes;  // read from and written to global memory, caches included
  double microseconds;
};

struct ProductPlan {
  ProductRoute route;
  int columns;           // of a block's tile; 0 where a library multiplies
  int splits;            // blocks that share a reduction; each leaves its part of the sums for the kernel that gathers
  int epilogue_columns;  // of the part of a row that adjacent lanes of an epilogue hold
  bool measured;         // the route is the fastest measured on this card, not the fastest of the model
  KernelCost multiply, gather;

  double microseconds() const { return multiply.microseconds + gather.microseconds; }
  bool gathered() const { return route != ProductRoute::kDirect || splits > 1; }
};

// Columns of the sums that a plan leaves for the kernel that gathers: of one split of one row.
int gathered_columns(const ProductPlan&, const ProductShape&, Precision);
// Elements of these sums.
int64_t gathered_elements(const ProductPlan&, const ProductShape&, Precision);

// The fastest plan, by what was measured on the card (plan/measured.h) where its product was, else by the model. Tensor
// cores round to `precision`, which the card must have.
ProductPlan plan_product(const ProductShape&, Precision, int element_bytes, const Card&);
// The fastest of one route by the model, for tests and timing; its `splits` are 0 if product or card have no such
// route.
ProductPlan plan_route(const ProductShape&, ProductRoute, Precision, int element_bytes, const Card&);
// Of all routes by the model alone, with constants of the caller's; remembers nothing.
ProductPlan model_product(const ProductShape&, Precision, int element_bytes, const Card&, const ModelConstants&);

}  // namespace irf::cuda

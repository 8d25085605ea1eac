// How wide a tile a layered product takes (layered/product.cuh). Plain C++: the plan model asks, too.
#pragma once

#include <cstdint>

#include "cuda/device/card.h"

namespace irf::cuda {

constexpr int kProductRows = 128;  // of a block

// Columns of a block: the choice that finishes first when every multiprocessor takes blocks in turn. `cost` is in issue
// slots per step of the reduction. Tiles of 16 columns are FFMA at every precision: too narrow for tensor cores.
inline int product_columns(int columns, int64_t rows, int element_bytes, Precision precision, const Card& card) {
  if (element_bytes == 8) return 32;
  if (precision != Precision::kFull && columns > 16) return 64;
  struct {
    int columns, cost;
  } const choices[] = {{64, 9}, {32, 6}, {16, 4}};
  int64_t best_cost = INT64_MAX;
  int best = 0;
  for (const auto& choice : choices) {
    const int64_t row_tiles = (rows + kProductRows - 1) / kProductRows;
    const int64_t blocks = row_tiles * ((columns + choice.columns - 1) / choice.columns);
    const int64_t cost = (blocks + card.multiprocessors - 1) / card.multiprocessors * choice.cost;
    if (cost < best_cost) best_cost = cost, best = choice.columns;
  }
  return best;
}

}  // namespace irf::cuda

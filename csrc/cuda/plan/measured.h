// Which route a product was fastest by, measured on a card. A product that is listed here runs that way; all others as
// the model says. `benchmarks/gpu_first_run.py --steps products` prints the rows for the card it runs on.
#pragma once

#include <array>

#include "cuda/plan/product.h"

namespace irf::cuda {

struct MeasuredProduct {
  int architecture, multiprocessors;
  Precision precision;
  ProductShape shape;
  ProductRoute fastest;
};

// No card has been measured yet. With rows: std::array<MeasuredProduct, number of rows> and {{ rows }}.
constexpr std::array<MeasuredProduct, 0> kMeasuredProducts = {};

// A product of so many times more or fewer rows than a measured one runs like it.
constexpr double kMeasuredRows = 1.5;

}  // namespace irf::cuda

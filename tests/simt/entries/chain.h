// What the tests of one power chain pass, on either way: operands that are already packed.
#pragma once

#include "cuda/chain.h"
#include "resident.h"

namespace simt {

struct ChainCase : ResidentCase {
  int64_t transpose, probes, first_unit, terms, per_sample, relative;
  double tolerance;
  void *probe, *coefficients, *tail, *value, *neumann, *norms;
  int64_t* terms_used;
  void* powers;
  int64_t power_stride, probe_stride, sample_stride;

  // run(chain), while the lists of its operands exist.
  template <class T, class Run>
  void with_chain(const irf::Branch<T>& branch, const Run& run) const {
    auto in = [](void* p) { return static_cast<T*>(p); };
    const T *packed[irf::cuda::kMaxStages], *rows[irf::cuda::kMaxStages];
    for (int i = 0; i < branch.stages; ++i) {
      packed[i] = in(weights[i]);
      rows[i] = in(derivatives[i]);
    }
    run(irf::cuda::Chain<T>{.branch = branch,
                            .weights = packed,
                            .derivatives = rows,
                            .transpose = transpose != 0,
                            .probes = int(probes),
                            .probe = in(probe),
                            .first_unit = first_unit,
                            .series = {.terms = int(terms),
                                       .coefficients = in(coefficients),
                                       .per_sample = per_sample != 0,
                                       .tail = in(tail),
                                       .tolerance = T(tolerance),
                                       .relative = relative != 0,
                                       .value = in(value),
                                       .neumann = in(neumann),
                                       .norms = in(norms),
                                       .terms_used = terms_used},
                            .powers = in(powers),
                            .power_stride = power_stride,
                            .probe_stride = probe_stride,
                            .sample_stride = sample_stride});
  }
};

}  // namespace simt

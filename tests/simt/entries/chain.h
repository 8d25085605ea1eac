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

  template <class T>
  irf::cuda::Chain<T> chain(const irf::Branch<T>& branch) const {
    auto in = [](void* p) { return static_cast<T*>(p); };
    irf::cuda::Chain<T> chain{};
    chain.branch = branch;
    chain.weights = buffers<T>(weights, branch.stages);
    chain.derivatives = buffers<T>(derivatives, branch.stages);
    chain.transpose = transpose != 0;
    chain.probes = static_cast<int>(probes);
    chain.probe = in(probe);
    chain.first_unit = first_unit;
    chain.terms = static_cast<int>(terms);
    chain.coefficients = in(coefficients);
    chain.per_sample = per_sample != 0;
    chain.tail = in(tail);
    chain.tolerance = static_cast<T>(tolerance);
    chain.relative = relative != 0;
    chain.value = in(value);
    chain.neumann = in(neumann);
    chain.norms = in(norms);
    chain.terms_used = terms_used;
    chain.powers = in(powers);
    chain.power_stride = power_stride;
    chain.probe_stride = probe_stride;
    chain.sample_stride = sample_stride;
    return chain;
  }
};

}  // namespace simt

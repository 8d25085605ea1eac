// What traces bring into rows (a source of layered/rows.cuh).
#pragma once

#include "iresnet_fast/params.h"

namespace irf::cuda {

// For every sample the map of a trace without a right stage, or ones, times what the trace counts with.
template <class T>
struct TraceSource {
  const T* map;     // in the layout of an event, or null: ones
  const T* weight;  // [B] of log-determinants, or null: the trace by itself
  Traces<T> traces;
  int number;

  __device__ T operator()(int64_t sample, int64_t offset) const {
    const T value = map ? map[offset] : T(1);
    return weight ? weight[sample] * traces.factor(sample, number) * value : value;
  }
};

}  // namespace irf::cuda

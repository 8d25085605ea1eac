// The power chain of J = A_{L-1} D_{L-1} ... A_0 D_0, linearized at a batch of points: w_k = (J^T)^k v or J^k v. An
// item is one probe of one sample; item i = probe * batch + sample.
#pragma once

#include <vector>

#include "cuda/device/workspace.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

template <class T>
struct Chain {
  Branch<T> branch;                    // sizes only
  std::vector<Buffer<T>> weights;      // [L] packed, the transposed form for J^T, the forward form for J
  std::vector<Buffer<T>> derivatives;  // [L] rows of D_i; none for an identity
  bool transpose;
  int probes;      // m
  const T* probe;  // v, [m, B, d]; null: probe j is the unit vector first_unit + j
  int64_t first_unit;

  // The series of J^T. Null value: not wanted, and only its terms count, for powers.
  Series<T> series;
  // [m, B] takes the values of several probes, of which series.value is to be the mean; none: series.value takes them.
  Buffer<T> values;

  // w_k of (probe j, sample b) goes to powers + (k - 1) * power_stride + j * probe_stride + b * sample_stride, in the
  // layout of x; or null.
  T* powers;
  int64_t power_stride, probe_stride, sample_stride;

  // Rows of J v of one probe: then the last term is <w_{n-1}, J v> and w_n is never computed; or none.
  Buffer<T> tangent;

  int64_t items() const { return probes * branch.batch; }

  // The series as a launch sees it: its value is one per item.
  Series<T> series_of_items(const Memory& memory) const {
    Series<T> result = series;
    if (values) result.value = memory[values];
    return result;
  }
};

}  // namespace irf::cuda

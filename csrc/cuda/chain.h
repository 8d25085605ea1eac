// The power chain of J = A_{L-1} D_{L-1} ... A_0 D_0, frozen at a batch of points: w_k = (J^T)^k v or J^k v. An item is
// one probe of one sample; item i = probe * batch + sample.
#pragma once

#include "iresnet_fast/params.h"

namespace irf::cuda {

template <class T>
struct Chain {
  Branch<T> branch;             // sizes only
  const T* const* weights;      // [L] (host array): packed, the transposed form for J^T, the forward form for J
  const T* const* derivatives;  // [L] (host array): rows of D_i; null for an identity
  bool transpose;
  int probes;      // m
  const T* probe;  // v, [m, B, d]; null: probe j is the unit vector first_unit + j
  int64_t first_unit;

  // The series of J^T, its value one per probe, [m, B]. Null value: only its terms count, for powers.
  Series<T> series;

  // w_k of (probe j, sample b) goes to powers + (k - 1) * power_stride + j * probe_stride + b * sample_stride, in the
  // layout of x; or null.
  T* powers;
  int64_t power_stride, probe_stride, sample_stride;

  // Rows of J v of one probe: then the last term is <w_{n-1}, J v> and w_n is never computed; or null.
  const T* tangent = nullptr;

  int64_t items() const { return probes * branch.batch; }
};

}  // namespace irf::cuda

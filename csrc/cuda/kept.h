// What the forward pass of a training step leaves for its backward pass, so that neither the branch nor the tangents
// are walked again: rows of a_i, h_i, t_i and D_i t_i of every inner stage. Those of the first stage follow from x and
// v.
//
// The stated rule: a call keeps all of that if it is at most 1 / kKeptShare of the card's memory, else nothing. Every
// block of a model keeps until its backward pass: 64 blocks, each at the limit, hold a quarter of the memory. What is
// free at the moment is not asked: results would depend on it.
#pragma once

#include <vector>

#include "cuda/pack.h"
#include "cuda/workspace.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

constexpr int64_t kKeptShare = 256;

// Rows of one stage. Null: a_i of an identity, which is h_i; t_i where phi_i'' is zero, which nobody reads.
template <class T>
struct KeptRows {
  T *a, *h, *t, *scaled;  // scaled: D_i t_i
};

// Nothing for stage 0.
template <class T>
std::vector<KeptRows<T>> carve_kept(const Branch<T>& branch, Precision precision, Carver& carver) {
  std::vector<KeptRows<T>> kept(branch.stages);
  for (int i = 1; i < branch.stages; ++i) {
    const Stage<T>& stage = branch.stage[i];
    const int64_t size = branch.batch * branch.pixels() * channel_pad(stage.in_channels, precision);
    if (stage.activation != Activation::kIdentity) kept[i].a = carver.take<T>(size);
    kept[i].h = carver.take<T>(size);
    if (!piecewise_linear(stage.activation)) kept[i].t = carver.take<T>(size);
    kept[i].scaled = carver.take<T>(size);
  }
  return kept;
}

// Elements of all of it, whatever the card. The size tells the layout: rows of a less exact precision are padded at
// least as much, buffer by buffer, so two precisions of the same size have the same rows.
template <class T>
int64_t kept_size(const Branch<T>& branch, Precision precision) {
  Carver carver(nullptr);
  carve_kept(branch, precision, carver);
  return static_cast<int64_t>(carver.used() / sizeof(T));
}

}  // namespace irf::cuda

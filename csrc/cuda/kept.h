// What the forward pass of a training step leaves for its backward pass, so that neither the branch nor the tangents
// are walked again: rows of a_i, h_i, t_i and D_i t_i of every inner stage, h_i and D_i t_i as operands. Those of the
// first stage follow from x and v.
//
// The stated rule: a call keeps all of that if it is at most 1 / kKeptShare of the card's memory, else nothing. Every
// block of a model keeps until its backward pass: 64 blocks, each at the limit, hold a quarter of the memory. What is
// free at the moment is not asked: results would depend on it.
#pragma once

#include <vector>

#include "cuda/device/pack.h"
#include "cuda/device/workspace.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

constexpr int64_t kKeptShare = 256;

// Whether the backward pass reads t_i: for what phi_i'' adds, and for the gradient of a factor.
template <class T>
bool reads_tangent(const Stage<T>& stage) {
  return !stage.straight() || stage.factor;
}

// Rows of one stage. Null: a_i of an identity without a factor, which is h_i; t_i where nobody reads it.
template <class T>
struct KeptRows {
  T *a, *h, *t, *scaled;  // scaled: D_i t_i
};

template <class T>
struct Kept {
  std::vector<KeptRows<T>> stages;  // [L], nothing for stage 0
  // Elements of all of it, one buffer after the other, and one or two more for TF32 or bf16: rows take whole vectors of
  // four elements, so the size tells the precision.
  int64_t size = 0;
  T* tail = nullptr;  // these more elements, which nobody reads

  // In `memory`, on 16 bytes; null: only the size is wanted.
  Kept(const Branch<T>& branch, Precision precision, T* memory) : stages(branch.stages) {
    for (int i = 1; i < branch.stages; ++i) {
      const Stage<T>& stage = branch.stage[i];
      const int64_t count = rows_size(branch, stage.in_channels, precision);
      auto take = [&](int64_t elements) {
        T* rows = memory ? memory + size : nullptr;
        size += elements;
        return rows;
      };
      if (!stage.identity()) stages[i].a = take(count);
      stages[i].h = take(operand_size(count, precision));
      if (reads_tangent(stage)) stages[i].t = take(count);
      stages[i].scaled = take(operand_size(count, precision));
    }
    if (size == 0) return;
    if (memory) tail = memory + size;
    size += tail_size(precision);
  }

  static int tail_size(Precision precision) { return static_cast<int>(precision); }
};

template <class T>
int64_t kept_size(const Branch<T>& branch, Precision precision) {
  return Kept<T>(branch, precision, nullptr).size;
}

}  // namespace irf::cuda

// Turns an op of csrc/cuda/ops.h into two C functions, <op>_float and <op>_double, that Python calls: they
// allocate exactly the workspace the op asks for, as uninitialised device memory, and return null or a message.
#pragma once

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "cuda/device/progress_pool.h"
#include "cuda/ops.h"
#include "python_api.h"

namespace simt {

struct Target {
  const char* card;
  int precision;
};

// "single" has one multiprocessor: plans then use their largest tiles on small problems too. "h100/4" has a quarter of
// an H100's: a quarter of a batch is planned on it as the whole batch on the whole card.
// On "layered" nothing is ever resident; on "no memory", an H100 otherwise, nothing is kept for a backward pass. The
// plan model has no row for the architecture of "between", which comes after that of an rtx3090. Of "h100 with
// libraries" only plans are asked: nothing here calls a library.
inline irf::cuda::Card find_card(const std::string& name) {
  using irf::cuda::kGigabyte;
  if (name == "layered") return {"layered", 80, 108, 49152, 0, kGigabyte};
  if (name == "single") return {"single", 80, 1, 101376, 102400, kGigabyte};
  if (name == "no memory") return {"no memory", 90, 132, 232448, 233472, 0};
  if (name == "between") return {"between", 87, 16, 166912, 167936, kGigabyte};
  constexpr std::string_view kLibraries = " with libraries";
  if (name.size() > kLibraries.size() && name.substr(name.size() - kLibraries.size()) == kLibraries) {
    irf::cuda::Card card = find_card(name.substr(0, name.size() - kLibraries.size()));
    card.libraries = true;
    return card;
  }
  const size_t slash = name.find('/');
  for (irf::cuda::Card card : irf::cuda::kKnownCards) {
    if (name.substr(0, slash) != card.name) continue;
    if (slash != std::string::npos) card.multiprocessors /= std::stoi(name.substr(slash + 1));
    return card;
  }
  throw std::invalid_argument("no card is called " + name);
}

inline irf::cuda::Target find_target(const Target& target) {
  return {find_card(target.card), static_cast<irf::cuda::Precision>(target.precision)};
}

// Runs `operation`, made for the card `card`.
inline void run_op(const irf::cuda::Card& card, const irf::cuda::Operation& operation) {
  const Workspace workspace(operation.workspace_bytes());
  const OnStream on(card.shared_per_block);
  std::shared_ptr<irf::cuda::Progress> progress;
  cudaError_t error = irf::cuda::ProgressPool::borrow(0, on.stream, progress);
  if (error == cudaSuccess) error = operation.launch(workspace.data(), on.stream, progress.get());
  if (error != cudaSuccess) throw std::runtime_error(std::string("returned: ") + cudaGetErrorString(error));
}

// The mirror of a struct in operands.py must be as large as the struct.
inline void check_size(size_t python, size_t here, const char* what) {
  if (python != here) throw std::logic_error(std::string("operands.py does not mirror ") + what);
}

}  // namespace simt

#define SIMT_BRANCH_OP_OF(T, op, Operands)                                                                    \
  extern "C" SIMT_EXPORT const char* op##_##T(const irf::Branch<T>* branch, const irf::Operands<T>* operands, \
                                              size_t bytes, simt::Target target) {                            \
    return simt::guarded([&] {                                                                                \
      simt::check_size(bytes, sizeof *operands, #Operands);                                                   \
      const irf::cuda::Target on = simt::find_target(target);                                                 \
      simt::run_op(on.card, irf::cuda::op(*branch, *operands, on));                                           \
    });                                                                                                       \
  }
#define SIMT_BRANCH_OP(op, Operands)     \
  SIMT_BRANCH_OP_OF(float, op, Operands) \
  SIMT_BRANCH_OP_OF(double, op, Operands)

#define SIMT_LAYERS_OP_OF(T, op, Operands)                                                                           \
  extern "C" SIMT_EXPORT const char* op##_##T(const irf::Operands<T>* operands, size_t bytes, simt::Target target) { \
    return simt::guarded([&] {                                                                                       \
      simt::check_size(bytes, sizeof *operands, #Operands);                                                          \
      const irf::cuda::Target on = simt::find_target(target);                                                        \
      simt::run_op(on.card, irf::cuda::op(*operands, on));                                                           \
    });                                                                                                              \
  }
#define SIMT_LAYERS_OP(op, Operands)     \
  SIMT_LAYERS_OP_OF(float, op, Operands) \
  SIMT_LAYERS_OP_OF(double, op, Operands)

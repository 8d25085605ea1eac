#include "entry.h"

SIMT_BRANCH_OP(residual_logdet, ResidualLogdetOperands)
SIMT_BRANCH_OP(jacobian_powers, JacobianPowersOperands)

namespace {

template <class T>
const char* kept_size(const irf::Branch<T>& branch, const irf::ResidualLogdetOperands<T>& operands,
                      const simt::Target& target, int64_t* size) {
  return simt::guarded([&] { *size = irf::cuda::residual_logdet_kept(branch, operands, simt::find_target(target)); });
}

}  // namespace

extern "C" SIMT_EXPORT const char* residual_logdet_kept_float(const irf::Branch<float>* branch,
                                                              const irf::ResidualLogdetOperands<float>* operands,
                                                              simt::Target target, int64_t* size) {
  return kept_size(*branch, *operands, target, size);
}
extern "C" SIMT_EXPORT const char* residual_logdet_kept_double(const irf::Branch<double>* branch,
                                                               const irf::ResidualLogdetOperands<double>* operands,
                                                               simt::Target target, int64_t* size) {
  return kept_size(*branch, *operands, target, size);
}

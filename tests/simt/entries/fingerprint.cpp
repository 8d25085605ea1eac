#include "entry.h"

extern "C" SIMT_EXPORT const char* fingerprint(const irf::FingerprintOperands* operands, simt::Target target) {
  return simt::guarded([&] {
    simt::run_op(
        target, [&](auto& card, auto&) { return irf::cuda::fingerprint_workspace(*operands, card); },
        [&](const irf::cuda::Context& context) { return irf::cuda::fingerprint(*operands, context); });
  });
}

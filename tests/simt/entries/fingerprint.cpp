#include "entry.h"

extern "C" SIMT_EXPORT const char* fingerprint(const irf::FingerprintOperands* operands, simt::Target target) {
  return simt::guarded([&] {
    const irf::cuda::Target on = simt::find_target(target);
    simt::run_op(on.card, irf::cuda::fingerprint(*operands, on));
  });
}

#include "cuda/device/workspace.h"

#include "python_api.h"

// Takes pieces of so many elements of 8 bytes and shares regions of so many bytes. Gives where the pieces begin and,
// last, the shared region, in bytes from the beginning of the workspace, and how many bytes it has.
extern "C" SIMT_EXPORT const char* workspace_layout(const int64_t* counts, int64_t pieces, const int64_t* requests,
                                                    int64_t shares, int64_t* begins, int64_t* bytes) {
  return simt::guarded([&] {
    irf::cuda::Workspace workspace;
    for (int64_t i = 0; i < shares; ++i) workspace.share(requests[i]);
    alignas(256) static char base[256];  // only its address counts
    for (int64_t i = 0; i < pieces; ++i) {
      const irf::cuda::Buffer<double> piece = workspace.take<double>(counts[i]);
      begins[i] = reinterpret_cast<char*>(workspace.at(base)[piece]) - base;
    }
    begins[pieces] = static_cast<char*>(workspace.at(base).shared()) - base;
    *bytes = static_cast<int64_t>(workspace.bytes());
  });
}

// How many blocks of a kernel fit a multiprocessor, by the toolkit's own calculator, without a driver. Reads lines
// `architecture registers threads static_shared dynamic_shared`, answers `blocks warps most_warps limit`.
#include <cuda_occupancy.h>

#include <cstdio>

#include "cuda/device/card.h"

namespace {

struct Residency {
  int architecture, warps, blocks;  // per multiprocessor; CUDA programming guide, technical specifications
};
constexpr Residency kResidency[] = {{75, 32, 16}, {80, 64, 32},  {86, 48, 16}, {89, 48, 24},
                                    {90, 64, 32}, {100, 64, 32}, {120, 48, 24}};

int warps_of(int architecture) {
  for (const Residency& r : kResidency)
    if (r.architecture == architecture) return r.warps;
  return 0;
}

const irf::cuda::Card* card_of(int architecture) {
  for (const irf::cuda::Card& card : irf::cuda::kKnownCards)
    if (card.architecture == architecture) return &card;
  return nullptr;
}

bool answer(int architecture, int registers, int threads, size_t static_shared, size_t dynamic_shared) {
  const irf::cuda::Card* card = card_of(architecture);
  const int most_warps = warps_of(architecture);
  if (!card || !most_warps) return false;
  cudaOccDeviceProp device;
  device.computeMajor = architecture / 10;
  device.computeMinor = architecture % 10;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = 32 * most_warps;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32;
  device.sharedMemPerBlock = 49152;
  device.sharedMemPerMultiprocessor = card->shared_per_multiprocessor;
  device.sharedMemPerBlockOptin = card->shared_per_block;
  device.reservedSharedMemPerBlock = architecture < 80 ? 0 : irf::cuda::kReservedPerBlock;
  device.numSms = card->multiprocessors;
  cudaOccFuncAttributes function;
  function.maxThreadsPerBlock = 1024;
  function.numRegs = registers;
  function.sharedSizeBytes = static_shared;
  function.partitionedGCConfig = PARTITIONED_GC_OFF;
  function.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  function.maxDynamicSharedSizeBytes = card->shared_per_block;
  function.numBlockBarriers = 1;
  cudaOccDeviceState state;
  state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
  cudaOccResult result;
  if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &function, &state, threads, dynamic_shared) !=
      CUDA_OCC_SUCCESS)
    return false;
  const unsigned limits = result.limitingFactors;
  const char* limit = limits & OCC_LIMIT_SHARED_MEMORY ? "shared"
                      : limits & OCC_LIMIT_REGISTERS   ? "registers"
                      : limits & OCC_LIMIT_WARPS       ? "warps"
                                                       : "blocks";
  const int blocks = result.activeBlocksPerMultiprocessor;
  std::printf("%d %d %d %s\n", blocks, blocks * ((threads + 31) / 32), most_warps, limit);
  return true;
}

}  // namespace

int main() {
  int architecture, registers, threads;
  size_t static_shared, dynamic_shared;
  while (std::scanf("%d %d %d %zu %zu", &architecture, &registers, &threads, &static_shared, &dynamic_shared) == 5)
    if (!answer(architecture, registers, threads, static_shared, dynamic_shared)) return 1;
}

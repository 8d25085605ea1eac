// Memory requests per source line. The k-th access of each lane from one code address since the last barrier makes one
// request of its warp, as on a GPU whose lanes run in step.
#include <algorithm>
#include <set>
#include <unordered_map>

#include "runtime.h"

namespace simt {
namespace {

struct Request {
  uint32_t lanes = 0;
  uintptr_t address[kWarp];
};

// One instruction: what it has done up to the last barrier, and its open requests per warp.
struct Site {
  uint64_t requests = 0, bytes = 0, sectors = 0, wavefronts = 0;
  size_t access_bytes;
  bool shared, open = false;
  std::vector<Request> warps[kMaxThreads / kWarp];
  uint32_t next[kMaxThreads];  // per thread: the request its next access belongs to
};
std::unordered_map<uint64_t, Site> sites;  // by code address, kind and space
std::vector<Site*> open_sites;
uint64_t barriers;

// Distinct 32-byte sectors of global memory.
uint64_t sectors(const Site& site, const Request& request) {
  std::set<uintptr_t> touched;
  for (unsigned rest = request.lanes; rest; rest &= rest - 1) {
    const uintptr_t first = request.address[std::countr_zero(rest)];
    for (uintptr_t s = first / 32; s <= (first + site.access_bytes - 1) / 32; ++s) touched.insert(s);
  }
  return touched.size();
}

// Passes over the 32 banks of 4 bytes: 8-byte accesses go by half warps, 16-byte accesses by quarters; lanes that read
// one word share it.
uint64_t wavefronts(const Site& site, const Request& request) {
  const int words = std::max<int>(1, site.access_bytes / 4), lanes = kWarp / words;
  uint64_t total = 0;
  for (int first = 0; first < int(kWarp); first += lanes) {
    std::set<uintptr_t> touched;
    for (int l = first; l < first + lanes; ++l)
      for (int w = 0; w < words && request.lanes >> l & 1; ++w) touched.insert(request.address[l] / 4 + w);
    int depth[kWarp] = {};
    for (const uintptr_t word : touched) ++depth[word % kWarp];
    total += *std::max_element(depth, depth + kWarp);
  }
  return total;
}

}  // namespace

void count(const void* address, size_t bytes, Access kind, bool shared, uint32_t pc) {
  Site& site = sites[uint64_t(pc) << 3 | uint64_t(kind) << 1 | shared];
  if (!site.open) {
    site.open = true;
    site.shared = shared;
    site.access_bytes = bytes;
    std::fill_n(site.next, kMaxThreads, 0);
    open_sites.push_back(&site);
  }
  std::vector<Request>& requests = site.warps[me->warp];
  const uint32_t k = site.next[me->id]++;
  if (k >= requests.size()) requests.resize(k + 1);
  requests[k].lanes |= 1u << me->lane;
  requests[k].address[me->lane] = uintptr_t(address);
}

void close_requests(bool at_barrier) {
  barriers += at_barrier;
  for (Site* site : open_sites) {
    for (std::vector<Request>& requests : site->warps) {
      for (const Request& request : requests) {
        ++site->requests;
        site->bytes += site->access_bytes * std::popcount(request.lanes);
        (site->shared ? site->wavefronts : site->sectors) += (site->shared ? wavefronts : sectors)(*site, request);
      }
      requests.clear();
    }
    site->open = false;
  }
  open_sites.clear();
}

// One line per instruction: code address, kind, space, requests, bytes, sectors, wavefronts. The first: barriers.
std::string take_counters() {
  std::string text = std::to_string(barriers) + "\n";
  for (const auto& [key, s] : sites) {
    text += std::to_string(key >> 3);
    for (const uint64_t v : {key >> 1 & 3, key & 1, s.requests, s.bytes, s.sectors, s.wavefronts})
      text += " " + std::to_string(v);
    text += "\n";
  }
  sites.clear();
  barriers = 0;
  return text;
}

}  // namespace simt

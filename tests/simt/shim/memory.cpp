// The memory of kernels: shared variables, asynchronous copies; the checker of every load and store (bounds, rights,
// initialisation, races), and their counters per source line. g++ -fsanitize=thread plants a call at each of them; the
// hooks at the end of this file answer (libtsan is not linked).
#include <array>
#include <set>
#include <unordered_map>
#include <utility>

#include "runtime.h"

extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start[], _end[];  // the library in memory

namespace simt {
namespace {

// The accesses of one kind to a granule of memory that no later access of that kind is known to follow.
struct Stamp {
  uint32_t first = 0, last = 0, clock = 0, lanes = 0, warp = 0;  // epochs of the first and the last of them
  Code code = {};
  bool atomic = false;

  // Whether all of them happened before what the running thread does now.
  bool past() const {
    if (last < launch_epoch) return true;
    if (first < block_epoch) return false;
    if (last != epoch) return true;
    if (warp != me->warp) return false;
    for (unsigned rest = lanes & ~(1u << me->lane); rest; rest &= rest - 1)
      if (me->clock[std::countr_zero(rest)] <= clock) return false;
    return true;
  }

  void add_mine(bool is_atomic, Code where) {
    Stamp next{epoch, epoch, me->clock[me->lane], 1u << me->lane, me->warp, where, is_atomic};
    if (!past()) {
      next.first = first;
      next.atomic = atomic && is_atomic;
      if (last == epoch && warp != me->warp) next.warp = kMaxThreads;  // several
      if (last == epoch) next.lanes |= lanes, next.clock = std::max(clock, next.clock);
    }
    *this = next;
  }
};
struct Shadow { Stamp write, read; };

// A buffer, or a shared variable of the running block.
struct Region {
  uintptr_t begin = 0;
  size_t size = 0;
  std::string name = {};
  bool writable = true;
  std::vector<uint8_t> initialised = {};  // per byte; empty: all of it
  size_t granule = 4;                     // the size of the smallest access so far
  std::vector<Shadow> shadow = {};        // per granule; empty: never used
};
std::map<uintptr_t, Region> regions;  // by address

// The shared variables lie in the arena, between red zones.
constexpr size_t kArenaBytes = 512 << 10, kRedzone = 64;
char* const arena = static_cast<char*>(std::aligned_alloc(128, kArenaBytes));
size_t arena_used = kArenaBytes, static_bytes;
std::map<const void*, void*> variables;  // the storage by the key of the declaration; null: the dynamic one

bool is_shared(uintptr_t address) { return address - uintptr_t(arena) < kArenaBytes; }

Region* find(uintptr_t address, size_t bytes) {
  auto found = regions.upper_bound(address);
  if (found == regions.begin()) return nullptr;
  Region& region = std::prev(found)->second;
  return address + bytes <= region.begin + region.size ? &region : nullptr;
}

std::string variable(uintptr_t address) {
  const Region* region = find(address, 1);
  return region ? text(region->name, "+", address - region->begin) : "no buffer";
}

// Bounds, rights, initialisation.
Region& check_contents(uintptr_t address, size_t bytes, Access kind, Code code) {
  Region* region = find(address, bytes);
  if (!region)
    fail(is_shared(address) ? "shared" : "global", " memory out of bounds: ", kind, " of ", bytes, " bytes in ",
         variable(address), " at ", code);
  if (kind != Access::kRead && !region->writable) fail("write to the read-only buffer ", region->name, " at ", code);
  if (region->initialised.empty()) return *region;
  const auto first = region->initialised.begin() + (address - region->begin), end = first + bytes;
  const auto hole = std::find(first, end, 0);
  if (kind != Access::kWrite && hole != end)
    fail("uninitialised read of ", variable(address + (hole - first)), " at ", code);
  if (kind != Access::kRead) std::fill(hole, end, 1);
  return *region;
}

void check_races(Region& region, uintptr_t address, size_t bytes, Access kind, Code code) {
  if (bytes < region.granule || region.shadow.empty()) {
    region.granule = std::min(region.granule, bytes);
    region.shadow.assign((region.size + region.granule - 1) / region.granule, {});
  }
  const bool atomic = kind == Access::kAtomic, reads = kind == Access::kRead;
  for (uintptr_t at = address - (address - region.begin) % region.granule; at < address + bytes; at += region.granule) {
    auto& [write, read] = region.shadow[(at - region.begin) / region.granule];
    const bool after_write = (atomic && write.atomic) || write.past();
    if (!after_write || !(reads || read.past()))
      fail("race on ", variable(at), ": ", after_write ? "read" : "write", " at ", (after_write ? read : write).code,
           ", then ", kind, " at ", code, " with no barrier between");
    (reads ? read : write).add_mine(atomic, code);
    if (!reads) read = {};
  }
}

// Counters. The k-th access of each lane from one code address since the last barrier makes one request of its warp, as
// on a GPU whose lanes run in step.
using Request = std::array<uintptr_t, kWarp>;  // null: the lane takes no part
struct Site {
  uint64_t requests = 0, bytes = 0, passes = 0, access_bytes = 0;
  unsigned next[kMaxThreads] = {};                  // k, per thread
  std::unordered_map<unsigned, Request> open = {};  // by k and warp
};
std::unordered_map<uint64_t, Site> sites;  // by code address, kind and space
uint64_t barriers;

void count(uintptr_t address, size_t bytes, Access kind, Code code) {
  Site& site = sites[uint64_t(code) << 3 | uint64_t(kind) << 1 | is_shared(address)];
  site.bytes += site.access_bytes = bytes;
  site.open[site.next[me->id]++ * kWarp + me->warp][me->lane] = address;
}

// Global memory: the distinct sectors of 32 bytes. Shared memory: passes over the 32 banks of 4 bytes; 8-byte accesses
// go by half warps, 16-byte accesses by quarters; lanes that read one word share it.
uint64_t passes(const Request& request, size_t bytes, bool shared) {
  const size_t unit = shared ? 4 : 32, words = std::max<size_t>(1, bytes / unit), lanes = kWarp / words;
  uint64_t total = 0;
  for (size_t first = 0; first < kWarp; first += lanes) {
    std::set<uintptr_t> touched;
    for (size_t i = 0; i < kWarp; ++i)
      if (const uintptr_t address = request[first + i / words]) touched.insert(address / unit + i % words);
    unsigned depth[kWarp] = {};
    for (const uintptr_t word : touched) ++depth[word % kWarp];
    total += shared ? *std::max_element(depth, depth + kWarp) : touched.size();
  }
  return total;
}

}  // namespace

Code code_at(const void* return_address) { return Code(static_cast<const char*>(return_address) - __ehdr_start - 1); }

// A copy is judged when it is issued and when it happens, and counted once. Alignment is up to -fsanitize=alignment,
// which knows the type. g++ joins accesses to neighbours: the pieces here are as large as their alignment allows.
void access(const void* pointer, size_t bytes, Access kind, Code code, bool counted) {
  uintptr_t address = uintptr_t(pointer);
  if (!kChecked || !me || address - uintptr_t(me->stack) < kStackBytes) return;
  if (kind == Access::kRead && address - uintptr_t(__ehdr_start) < size_t(_end - __ehdr_start)) return;  // constants
  for (size_t piece; bytes > 0; address += piece, bytes -= piece) {
    piece = std::min<size_t>({16, address & -address, std::bit_floor(bytes)});
    Region& region = check_contents(address, piece, kind, code);
    if (region.writable) check_races(region, address, piece, kind, code);
    if (config.counting && counted) count(address, piece, kind, code);
  }
}

void close_requests(bool at_barrier) {
  barriers += at_barrier;
  for (auto& [key, site] : sites) {
    if (site.open.empty()) continue;
    for (const auto& [number, request] : site.open) site.passes += passes(request, site.access_bytes, key & 1);
    site.requests += site.open.size();
    site.open.clear();
    std::fill_n(site.next, kMaxThreads, 0);
  }
}

void check_contents(const void* p, size_t bytes, Access kind) {
  if (bytes && kChecked) check_contents(uintptr_t(p), bytes, kind, {});
}

bool clear_shared_memory() {
  for (auto next = regions.lower_bound(uintptr_t(arena)); next != regions.end() && is_shared(next->first);) {
    std::memset(reinterpret_cast<void*>(next->first), kPoison, next->second.size);
    next = regions.erase(next);
  }
  const bool intact = std::all_of(arena, arena + arena_used, [](unsigned char c) { return c == kPoison; });
  if (!intact) std::memset(arena, kPoison, arena_used);
  variables.clear();
  arena_used = static_bytes = 0;
  return intact;
}

// Aligned as asked for and no better: an array that happens to be aligned would hide an error.
void* shared_storage(const void* key, size_t bytes, size_t alignment, const char* name) {
  void*& storage = variables[key];
  if (storage) return storage;
  static_bytes += key ? bytes : 0;
  // CUDA refuses to allow a kernel more than the card has beside what the kernel declares, needed or not.
  const size_t allowed = allowed_shared(), limit = allowed ? config.shared_limit : kDefaultShared;
  const size_t total = static_bytes + std::max<size_t>(launch.shared, allowed);
  if (static_bytes > kDefaultShared || total > limit) fail("too much shared memory: ", total, " bytes");
  const size_t start = (arena_used + kRedzone + 127) / 128 * 128 + alignment % 128;
  arena_used = start + bytes + kRedzone;
  simt_add_buffer(arena + start, bytes, name, true, false);
  return storage = arena + start;
}

void* dynamic_shared_storage() {
  if (!launch.shared) fail("dynamic shared memory is used, and the launch gave none");
  return shared_storage(nullptr, launch.shared, 128, "dynamic shared memory");
}

// The target may change from now on, and its contents are known only after the wait.
void __pipeline_memcpy_async(void* target, const void* source, size_t bytes, size_t zeros) {
  const Code code = code_at(__builtin_return_address(0));
  Region* region = find(uintptr_t(target), bytes);
  if (!region || !is_shared(region->begin)) fail("an asynchronous copy to no shared variable, at ", code);
  if ((bytes != 4 && bytes != 8 && bytes != 16) || zeros > bytes || (uintptr_t(target) | uintptr_t(source)) % bytes)
    fail("an asynchronous copy needs 4, 8 or 16 aligned bytes, at ", code);
  const auto check = [=](bool counted) {
    access(source, bytes - zeros, Access::kRead, code, counted);
    access(target, bytes, Access::kWrite, code, counted);
  };
  check(true);
  std::fill_n(region->initialised.begin() + (uintptr_t(target) - region->begin), bytes, 0);
  std::memset(target, kPoison, bytes);
  me->copies.emplace_back(me->groups, [=] {
    check(false);
    std::memcpy(target, source, bytes - zeros);
    std::memset(static_cast<char*>(target) + bytes - zeros, 0, zeros);
  });
}
void __pipeline_commit() { ++me->groups; }
void __pipeline_wait_prior(unsigned still_open) {
  for (auto& copies = me->copies; !copies.empty() && copies.front().first + still_open < me->groups; copies.pop_front())
    copies.front().second();
}

}  // namespace simt

cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  simt::record(simt::text("cudaMemsetAsync|", bytes));
  if (simt::config.stream && stream != simt::config.stream) simt::fail("cudaMemsetAsync: not on the caller's stream");
  simt::check_contents(target, bytes, simt::Access::kWrite);
  if (bytes) std::memset(target, value, bytes);
  return cudaSuccess;
}

#define SIMT_CODE simt::code_at(__builtin_return_address(0))
#define SIMT_HOOKS(n)                                                                            \
  void __tsan_read##n(void* p) { simt::access(p, n, simt::Access::kRead, SIMT_CODE); }           \
  void __tsan_write##n(void* p) { simt::access(p, n, simt::Access::kWrite, SIMT_CODE); }         \
  void __tsan_unaligned_read##n(void* p) { simt::access(p, n, simt::Access::kRead, SIMT_CODE); } \
  void __tsan_unaligned_write##n(void* p) { simt::access(p, n, simt::Access::kWrite, SIMT_CODE); }
extern "C" {
SIMT_HOOKS(1)
SIMT_HOOKS(2)
SIMT_HOOKS(4)
SIMT_HOOKS(8)
SIMT_HOOKS(16)
void __tsan_read_range(void* p, size_t n) { simt::access(p, n, simt::Access::kRead, SIMT_CODE); }
void __tsan_write_range(void* p, size_t n) { simt::access(p, n, simt::Access::kWrite, SIMT_CODE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __ubsan_handle_type_mismatch_v1(const void*, uintptr_t address) {  // -fsanitize=alignment
  if (simt::me) simt::fail("misaligned access to ", simt::variable(address), " at ", SIMT_CODE);
}

SIMT_EXPORT void simt_add_buffer(const void* p, size_t bytes, const char* name, bool writable, bool initialised) {
  const uintptr_t begin = uintptr_t(p);
  if (bytes) simt::regions[begin] = {begin, bytes, name, writable, std::vector<uint8_t>(initialised ? 0 : bytes)};
}
SIMT_EXPORT void simt_remove_buffer(const void* p) { simt::regions.erase(uintptr_t(p)); }
SIMT_EXPORT const char* simt_unwritten() {  // the first element of a buffer that nobody wrote
  static std::string name;
  for (const auto& [begin, region] : simt::regions) {
    const size_t hole = std::ranges::find(region.initialised, 0) - region.initialised.begin();
    if (hole < region.initialised.size()) return (name = simt::variable(begin + hole)).c_str();
  }
  return "";
}
// One line per instruction: code address, kind, space, requests, bytes, sectors, wavefronts. The first: barriers.
SIMT_EXPORT const char* simt_take_counters() {
  static std::string rows;
  rows = simt::text(std::exchange(simt::barriers, 0), "\n");
  for (const auto& [key, s] : simt::sites)
    rows += simt::text(key >> 3, " ", key >> 1 & 3, " ", key & 1, " ", s.requests, " ", s.bytes, " ",
                       key & 1 ? 0 : s.passes, " ", key & 1 ? s.passes : 0, "\n");
  simt::sites.clear();
  return rows.c_str();
}
}

// Judges every load and store of a kernel: bounds, alignment, initialisation, races. g++ -fsanitize=thread plants a
// call at each of them; the hooks at the end of this file answer (libtsan is not linked).
#include <algorithm>
#include <map>

#include "runtime.h"

extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start[], _end[];  // the library in memory

namespace simt {
namespace {

// The accesses of one kind to a granule of memory that no later access of that kind is known to follow.
struct Stamp {
  uint32_t epoch = 0, clock = 0, lanes = 0, pc = 0;
  uint16_t warp = 0;
  bool atomic = false, warps = false, blocks = false;  // by several warps of this epoch, several blocks of this launch

  // Whether all of them happened before what the running thread does now; those before epoch `since` did.
  bool past(uint32_t since) const {
    if (epoch < since) return true;
    if (blocks || epoch < block_epoch) return false;
    if (epoch != simt::epoch) return true;
    if (warps || warp != me->warp) return false;
    for (unsigned rest = lanes & ~(1u << me->lane); rest; rest &= rest - 1)
      if (me->clock[std::countr_zero(rest)] <= clock) return false;
    return true;
  }

  void add_mine(uint32_t since, bool is_atomic, uint32_t address) {
    const uint32_t mine = me->clock[me->lane];
    Stamp next{simt::epoch, mine, 1u << me->lane, address, uint16_t(me->warp), is_atomic};
    if (!past(since)) {
      next.blocks = blocks || epoch < block_epoch;
      next.warps = epoch == simt::epoch && (warps || warp != me->warp);
      next.atomic = atomic && is_atomic;
      if (epoch == simt::epoch && warp == me->warp) next.lanes |= lanes, next.clock = std::max(clock, mine);
    }
    *this = next;
  }

  std::string text() const {
    if (epoch < block_epoch) return "by another block at " + at(pc);
    return "by lane " + std::to_string(std::countr_zero(lanes)) + " of warp " + std::to_string(warp) + " at " + at(pc);
  }
};
struct Shadow {
  Stamp write, read;
};

// Memory under watch. The granule is the size of the smallest access so far.
struct Region {
  uintptr_t begin = 0;
  size_t size = 0;
  std::string name;
  bool writable = true;
  size_t granule = 4;
  std::vector<Shadow> shadow;
  std::vector<uint8_t> initialised;  // per byte; empty: all of it

  bool holds(uintptr_t address) const { return address - begin < size; }
  void set_initialised(size_t offset, size_t bytes, bool value) {
    if (!initialised.empty()) std::fill_n(initialised.begin() + offset, bytes, value);
  }
};
Region shared_region;
std::map<uintptr_t, Region> buffers;

Region* find_buffer(uintptr_t address) {
  auto next = buffers.upper_bound(address);
  return next != buffers.begin() && std::prev(next)->second.holds(address) ? &std::prev(next)->second : nullptr;
}

// "name+offset".
std::string variable(uintptr_t address) {
  const size_t offset = address - shared_region.begin;
  for (const SharedArray& a : shared_arrays)
    if (a.holds(offset, 1)) return a.name + ("+" + std::to_string(offset - a.offset));
  const Region* buffer = find_buffer(address);
  return buffer ? buffer->name + "+" + std::to_string(address - buffer->begin) : "no buffer";
}

std::string text(Access kind, size_t bytes) {
  return (kind == Access::kRead ? "read of " : "write of ") + std::to_string(bytes) + " bytes";
}

// Bounds, rights, initialisation. No pc: a copy or fill of the host.
void check_contents(Region& region, uintptr_t address, size_t bytes, Access kind, uint32_t pc) {
  const auto refuse = [=](const std::string& what) { fail(what + (pc ? " at " + at(pc) : " by a copy or fill")); };
  const size_t offset = address - region.begin;
  if (offset + bytes > region.size)
    refuse("global memory out of bounds: " + text(kind, bytes) + " over the end of " + region.name);
  if (kind != Access::kRead && !region.writable) refuse("write to the read-only buffer " + region.name);
  if (kind != Access::kWrite && !region.initialised.empty()) {
    const uint8_t* first = region.initialised.data() + offset;
    if (const void* hole = std::memchr(first, 0, bytes))
      refuse("uninitialised read of " + variable(address + (static_cast<const uint8_t*>(hole) - first)));
  }
  if (kind != Access::kRead) region.set_initialised(offset, bytes, true);
}

// `since`: the epoch before which all accesses are past.
void check_races(Region& region, uint32_t since, size_t offset, size_t bytes, Access kind, uint32_t pc) {
  if (bytes < region.granule || region.shadow.empty()) {
    region.granule = std::min(region.granule, bytes);
    region.shadow.assign((region.size + region.granule - 1) / region.granule, {});
  }
  const bool atomic = kind == Access::kAtomic;
  for (size_t i = offset / region.granule; i * region.granule < offset + bytes; ++i) {
    auto& [write, read] = region.shadow[i];
    const bool after_write = (atomic && write.atomic) || write.past(since);
    if (!after_write || !(kind == Access::kRead || read.past(since)))
      fail("race on " + variable(region.begin + i * region.granule) + ": " +
           (after_write ? "read " + read.text() : "written " + write.text()) + ", then " +
           (kind == Access::kRead ? "read" : "written") + " at " + at(pc) + " with no barrier between");
    (kind == Access::kRead ? read : write).add_mine(since, atomic, pc);
    if (kind != Access::kRead) read = {};
  }
}

}  // namespace

uint32_t relative(const void* return_address) {
  return uint32_t(static_cast<const char*>(return_address) - __ehdr_start - 1);
}

std::string at(uint32_t pc) {
  char text[16];
  snprintf(text, sizeof text, "<0x%x>", pc);
  return text;
}

// Alignment beyond 8 bytes is a matter of -fsanitize=alignment, which knows the type.
bool check(const void* pointer, size_t bytes, Access kind, uint32_t pc) {
  const uintptr_t address = uintptr_t(pointer);
  if (!me || me->muted || address - uintptr_t(me->stack) < kStackBytes) return false;
  if (address - uintptr_t(__ehdr_start) < size_t(_end - __ehdr_start)) {  // constants, threadIdx
    if (kind != Access::kRead) fail("write to a variable of the host at " + at(pc));
    return false;
  }
  const bool is_shared = shared_region.holds(address);
  Region* region = is_shared ? &shared_region : find_buffer(address);
  const auto inside = [&](const SharedArray& a) { return a.holds(address - shared_region.begin, bytes); };
  if (!region || (is_shared && std::none_of(shared_arrays.begin(), shared_arrays.end(), inside)))
    fail((is_shared ? "shared" : "global") + (" memory out of bounds: " + text(kind, bytes)) + " at " + at(pc));
  if (address % std::min<size_t>(bytes, 8))
    fail("misaligned " + text(kind, bytes) + " in " + variable(address) + " at " + at(pc));
  check_contents(*region, address, bytes, kind, pc);
  const uint32_t since = is_shared ? block_epoch : launch_epoch;
  if (region->writable) check_races(*region, since, address - region->begin, bytes, kind, pc);
  return true;
}

void access(const void* address, size_t bytes, Access kind, uint32_t pc) {
  if (check(address, bytes, kind, pc) && config.counting)
    count(address, bytes, kind, shared_region.holds(uintptr_t(address)), pc);
}

void begin_checking_block() {
  shared_region.begin = uintptr_t(arena);
  shared_region.size = kArenaBytes;
  shared_region.initialised.assign(kArenaBytes, 0);
}

void forget_shared(const void* address, size_t bytes) {
  shared_region.set_initialised(uintptr_t(address) - shared_region.begin, bytes, false);
}

void check_host_access(const void* address, size_t bytes, Access kind) {
  Region* buffer = find_buffer(uintptr_t(address));
  if (!buffer) fail("global memory out of bounds: " + text(kind, bytes) + " by a copy or fill");
  check_contents(*buffer, uintptr_t(address), bytes, kind, 0);
}

void add_buffer(const void* address, size_t bytes, const char* name, bool writable, bool initialised) {
  Region& region = buffers[uintptr_t(address)] = {};
  region.begin = uintptr_t(address), region.size = bytes;
  region.name = name, region.writable = writable;
  if (!initialised) region.initialised.assign(bytes, 0);
}

void remove_buffer(const void* address) { buffers.erase(uintptr_t(address)); }

std::string unwritten() {
  for (const auto& [begin, buffer] : buffers) {
    const auto hole = std::find(buffer.initialised.begin(), buffer.initialised.end(), 0);
    if (hole != buffer.initialised.end()) return variable(begin + (hole - buffer.initialised.begin()));
  }
  return "";
}

// g++ joins accesses to neighbours; the pieces are as large as their alignment allows.
static void access_pieces(uintptr_t p, size_t bytes, Access kind, uint32_t pc) {
  for (const uintptr_t end = p + bytes; p < end;) {
    const size_t piece = std::min<size_t>({16, p & -p, std::bit_floor(end - p)});
    access(reinterpret_cast<const void*>(p), piece, kind, pc);
    p += piece;
  }
}

}  // namespace simt

#define SIMT_PC simt::relative(__builtin_return_address(0))
#define SIMT_HOOKS(n)                                                                                     \
  void __tsan_read##n(void* p) { simt::access(p, n, simt::Access::kRead, SIMT_PC); }                      \
  void __tsan_write##n(void* p) { simt::access(p, n, simt::Access::kWrite, SIMT_PC); }                    \
  void __tsan_unaligned_read##n(uintptr_t p) { simt::access_pieces(p, n, simt::Access::kRead, SIMT_PC); } \
  void __tsan_unaligned_write##n(uintptr_t p) { simt::access_pieces(p, n, simt::Access::kWrite, SIMT_PC); }
extern "C" {
SIMT_HOOKS(1)
SIMT_HOOKS(2)
SIMT_HOOKS(4)
SIMT_HOOKS(8)
SIMT_HOOKS(16)
void __tsan_read_range(uintptr_t p, size_t n) { simt::access_pieces(p, n, simt::Access::kRead, SIMT_PC); }
void __tsan_write_range(uintptr_t p, size_t n) { simt::access_pieces(p, n, simt::Access::kWrite, SIMT_PC); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

struct SourceLine {
  const char* file;
  uint32_t line, column;
};
void __ubsan_handle_type_mismatch_v1(const SourceLine* where, uintptr_t address) {  // -fsanitize=alignment
  const simt::Place place{where->file, int(where->line)};
  if (simt::me) simt::fail("misaligned access to " + simt::variable(address) + " at " + simt::text(place));
}
}

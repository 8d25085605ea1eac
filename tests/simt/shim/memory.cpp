// Shared memory of a block, asynchronous copies, atomics.
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "runtime.h"

namespace simt {

char* arena;
std::vector<SharedArray> shared_arrays;

namespace {

size_t arena_used = kArenaBytes;

// Aligned as asked for and no better: an array that happens to be aligned would hide an error.
void* carve(const void* key, size_t bytes, size_t alignment, const char* name) {
  const size_t start = (arena_used + kRedzone + 127) / 128 * 128 + alignment % 128;
  arena_used = start + bytes + kRedzone;
  if (arena_used > kArenaBytes) fail("the shared memory of the emulator is exhausted");
  shared_arrays.push_back({key, start, bytes, name});
  return arena + start;
}

// In aligned pieces: the zeros need not leave a power of two.
void check_source(const Copy& copy) {
  const size_t bytes = copy.bytes - copy.zeros, piece = bytes & -bytes;
  for (size_t i = 0; i < bytes; i += piece)
    check(static_cast<const char*>(copy.source) + i, piece, Access::kRead, copy.pc);
}

}  // namespace

void clear_shared_memory() {
  if (!arena)
    arena = static_cast<char*>(mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memset(arena, kPoison, arena_used);
  arena_used = 0;
  shared_arrays.clear();
  if (launch.shared) carve(nullptr, launch.shared, 128, "dynamic shared memory");
  if (kChecked) begin_checking_block();
}

bool redzones_intact() {
  size_t end = 0;
  const auto poisoned = [](char c) { return static_cast<unsigned char>(c) == kPoison; };
  for (const SharedArray& a : shared_arrays) {
    if (!std::all_of(arena + end, arena + a.offset, poisoned)) return false;
    end = a.offset + a.bytes;
  }
  return std::all_of(arena + end, arena + arena_used, poisoned);
}

void* shared_storage(const void* key, size_t bytes, size_t alignment, const char* name) {
  size_t total = bytes;
  for (const SharedArray& a : shared_arrays) {
    if (a.key == key) return arena + a.offset;
    total += a.bytes;
  }
  const bool opted_in = dynamic_shared_limit(launch.kernel) > kDefaultShared;
  if (total - launch.shared > kDefaultShared || total > (opted_in ? config.shared_limit : kDefaultShared))
    fail("too much shared memory: " + std::to_string(total) + " bytes");
  return carve(key, bytes, alignment, name);
}

void* dynamic_shared_storage() {
  if (!launch.shared) fail("dynamic shared memory is used, and the launch gave none");
  return arena + shared_arrays[0].offset;
}

void begin_atomic(void* address, size_t bytes) {
  if (kChecked) access(address, bytes, Access::kAtomic, relative(__builtin_return_address(0)));
  me->muted = true;
}
void end_atomic() { me->muted = false; }

// The target may change from now on, and its contents are known only after the wait.
void async_copy(void* target, const void* source, size_t bytes, size_t zeros) {
  const uint32_t pc = relative(__builtin_return_address(0));
  const size_t offset = static_cast<char*>(target) - arena;
  if (std::none_of(shared_arrays.begin(), shared_arrays.end(), [&](auto& a) { return a.holds(offset, bytes); }))
    fail("the target of an asynchronous copy is not in shared memory, at " + at(pc));
  const bool aligned = uintptr_t(target) % bytes == 0 && uintptr_t(source) % bytes == 0;
  if ((bytes != 4 && bytes != 8 && bytes != 16) || zeros > bytes || !aligned)
    fail("an asynchronous copy needs 4, 8 or 16 aligned bytes, at " + at(pc));
  me->copies.push_back({target, source, bytes, zeros, pc});
  if (kChecked) {
    check_source(me->copies.back());
    if (config.counting && zeros < bytes) count(source, bytes - zeros, Access::kRead, false, pc);
    access(target, bytes, Access::kWrite, pc);
    forget_shared(target, bytes);
  }
  std::memset(target, kPoison, bytes);
}

void async_commit() { me->groups.push_back(std::exchange(me->copies, {})); }

void async_wait(int still_open) {
  for (; int(me->groups.size()) > still_open; me->groups.pop_front()) {
    for (const Copy& copy : me->groups.front()) {
      if (kChecked) check_source(copy), check(copy.target, copy.bytes, Access::kWrite, copy.pc);
      std::memcpy(copy.target, copy.source, copy.bytes - copy.zeros);
      std::memset(static_cast<char*>(copy.target) + copy.bytes - copy.zeros, 0, copy.zeros);
    }
  }
}

}  // namespace simt

// What the parts of the emulator share: the fibers of the running block, its shared memory, checker and counters.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "simt.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace simt {

constexpr bool kChecked = SIMT_CHECKED;  // kernels are instrumented: every load and store reaches access()
constexpr size_t kStackBytes = 256 << 10, kArenaBytes = 512 << 10, kRedzone = 64;
constexpr unsigned kMaxThreads = 1024, kWarp = 32;
constexpr int kPoison = 0xff;                // a NaN, or -1
constexpr size_t kDefaultShared = 48 << 10;  // what a kernel gets without cudaFuncSetAttribute

enum class Order { kForward, kReverse, kRandom };
struct Config {
  Order order = Order::kForward;
  uint64_t seed = 0;
  size_t shared_limit = 227 << 10;  // what the card allows a block
  cudaStream_t stream = nullptr;    // if set, the only stream that may be used
  bool counting = false;
};
extern Config config;

struct Copy {
  void* target;
  const void* source;
  size_t bytes, zeros;
  uint32_t pc;
};
std::string text(Place place);
enum class State { kReady, kAtBarrier, kAtExchange, kDone };
struct Fiber : Indices {
  void* stack_pointer;
  char* stack = nullptr;
  unsigned id, lane, warp;
  State state;
  bool muted;   // its accesses are those of the emulator
  Place place;  // where it waits, for which exchange of which lanes, with which number
  const char* what;
  unsigned mask;
  uint64_t value;
  Lanes lanes;            // the result
  uint32_t clock[kWarp];  // per lane of the warp: how many of its __syncwarp are known to have happened
  std::vector<Copy> copies;
  std::deque<std::vector<Copy>> groups;
};
extern Fiber* me;      // null: the host runs
extern Launch launch;  // the one that runs
// Counts launches, blocks and barriers: accesses in different epochs of a block are ordered. And at the start of each.
extern uint32_t epoch, launch_epoch, block_epoch;

// The variables lie in the arena, between red zones.
struct SharedArray {
  const void* key;  // null: the dynamic shared memory
  size_t offset, bytes;
  const char* name;
  bool holds(size_t at, size_t n) const { return at >= offset && at + n <= offset + bytes; }
};
extern char* arena;
extern std::vector<SharedArray> shared_arrays;
void clear_shared_memory();
bool redzones_intact();

// Code addresses relative to the library, as debug information has them. "<0x1a2b>" in a message becomes file:line.
uint32_t relative(const void* return_address);
std::string at(uint32_t pc);

enum class Access { kRead, kWrite, kAtomic };
bool check(const void* address, size_t bytes, Access kind, uint32_t pc);   // false: not a matter of the checker
void access(const void* address, size_t bytes, Access kind, uint32_t pc);  // check and count
void check_host_access(const void* address, size_t bytes, Access kind);    // by a copy or fill
void begin_checking_block();
void forget_shared(const void* address, size_t bytes);  // is uninitialised again
void add_buffer(const void* address, size_t bytes, const char* name, bool writable, bool initialised);
void remove_buffer(const void* address);
std::string unwritten();  // the first element of a buffer that nobody wrote

void count(const void* address, size_t bytes, Access kind, bool shared, uint32_t pc);
void close_requests(bool at_barrier);  // accesses before and after this point are different requests
std::string take_counters();

size_t dynamic_shared_limit(const void* kernel);  // what cudaFuncSetAttribute allowed it, or 48 KB
void record(const std::string& call);
void begin_call();  // forgets the log and the attributes
const std::string& recorded_calls();

}  // namespace simt
